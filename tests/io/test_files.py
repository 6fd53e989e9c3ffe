import os
import socket
from pathlib import Path

import pytest

from vitctl.errors import InputError
from vitctl.io.files import check_regular_file


def test_files_folders_and_what_is_missing_pass(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "link", "loop", "missing", "file/inside", "."):
        check_regular_file(tmp_path / name)


def test_pipes_devices_and_sockets_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("pipe", "link", "socket", "/dev/zero", "/dev/null"):
            with pytest.raises(InputError, match=f"^{name}: is a pipe, a device or a socket, not a file"):
                check_regular_file(name)
