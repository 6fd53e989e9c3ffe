import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vitctl.io.lock import Held, hold_lock, start_time, take

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
    """Another process that holds the lock; when it ends, it removes the file ("tidy") or leaves it ("dead")."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock"), request.param],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_at_a_time(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    warnings: list[str] = []
    with pytest.raises(Held):
        take(tmp_path / "lock", wait=False, warn=warnings.append)
    assert holder.stdin is not None
    if holder.args[-1] == "dead":  # type: ignore[index]
        holder.kill()
    else:
        holder.stdin.write("\n")
        holder.stdin.flush()
    with take(tmp_path / "lock", wait=True, warn=warnings.append), pytest.raises(Held):
        take(tmp_path / "lock", wait=False, warn=warnings.append)
    holder.communicate()
    assert warnings == []


OWNERS = {
    "alive": lambda holder: (socket.gethostname(), holder, start_time(holder)),
    "dead": lambda holder: (socket.gethostname(), 2**22 + 1, "1"),
    "of an earlier process with this id": lambda holder: (socket.gethostname(), holder, "1"),
    "of another host": lambda holder: ("elsewhere", 1, "1"),
}


@pytest.mark.parametrize("name", OWNERS)
def test_without_locks_the_owner_in_the_file_decides(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    host, pid, started = OWNERS[name](os.getppid())
    (tmp_path / "lock").write_text(json.dumps({"host": host, "pid": pid, "started": started}))
    warnings: list[str] = []
    if name in ("alive", "of another host"):
        with pytest.raises(Held, match=rf"^process {pid} on {host} \(if it no longer runs, remove .*lock\)$"):
            take(tmp_path / "lock", wait=False, warn=warnings.append)
    else:
        with hold_lock(tmp_path / "lock", warnings.append):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        assert "this file system does not support locks" in warnings[0]
        assert not (tmp_path / "lock").exists()
