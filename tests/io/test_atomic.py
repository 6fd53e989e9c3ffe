import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitctl.io.atomic import atomic_write, remove_leftovers, write_bytes, write_json


def test_the_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="half way"), atomic_write(path) as aside:
        aside.write_bytes(b"half")
        raise RuntimeError("half way")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_json_with_nan_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "file", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    program = (
        "import os, sys, pathlib\nfrom vitctl.io.atomic import atomic_write\n"
        "with atomic_write(pathlib.Path(sys.argv[1])) as aside:\n"
        "    aside.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == -9
    assert path.read_bytes() == b"old"
    (tmp_path / ".mine.tmp").write_bytes(b"no leftover")
    assert len(os.listdir(tmp_path)) == 3
    remove_leftovers(tmp_path, "file")
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", "file"]
