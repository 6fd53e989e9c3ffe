import subprocess
import sys
from pathlib import Path

import pytest

from vitctl.io.lock import Held, take

HOLDER = """
import sys
from pathlib import Path
from vitctl.io.lock import take
path = Path(sys.argv[1])
with take(path, wait=False, warn=print):
    print("held", flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "tidy":
        path.unlink()
"""


@pytest.fixture(params=["tidy", "dead"])
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> "subprocess.Popen[str]":
    """Another process that has the lock; its end leaves the file, or takes it away."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock"), request.param],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_at_a_time(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(Held):
        take(tmp_path / "lock", wait=False, warn=said.append)
    assert holder.stdin is not None
    if holder.args[-1] == "dead":  # type: ignore[index]
        holder.kill()
    else:
        holder.stdin.write("\n")
        holder.stdin.flush()
    with take(tmp_path / "lock", wait=True, warn=said.append), pytest.raises(Held):
        take(tmp_path / "lock", wait=False, warn=said.append)
    holder.communicate()
    assert said == []
