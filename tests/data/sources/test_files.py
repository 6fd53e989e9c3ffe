import errno
import io
import os
import threading

import pytest

from vitctl.data.sources.files import File, Window, descriptor, name_damaged_file
from vitctl.errors import DataError, NoSpace
from vitctl.reporting import SilentReporter


def test_errors_are_ours():
    with (
        pytest.raises(DataError, match=r"a\.tar: damaged or truncated \(odd\); copy or download it again"),
        name_damaged_file("a.tar"),
    ):
        raise ValueError("odd")
    with pytest.raises(DataError, match=r"a\.tar: cannot be read \(Input/output error\)"), name_damaged_file("a.tar"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    message = r"a\.tar: the disk is too full to unpack it; free some space, then add --resume"
    with pytest.raises(NoSpace, match=message), name_damaged_file("a.tar"):
        raise OSError(errno.ENOSPC, "full")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_reported(make, tmp_path, spool, monkeypatch):
    (tmp_path / "set.tgz").write_bytes(make.tar_bytes(make.CLASSES, "w:gz"))
    file = File.at(tmp_path / "set.tgz")
    file.unpack_into(spool, SilentReporter())
    target = next(spool.iterdir())
    target.unlink()
    (spool / f"{target.name}.part").symlink_to("/dev/full")
    with pytest.raises(NoSpace, match=r"set.tgz: the disk is too full to unpack it"):
        file.unpack_into(spool, SilentReporter())


def test_windows_are_files(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    window = io.BufferedReader(Window(File.at(tmp_path / "a"), 10, 20), 8)
    assert window.read(3) == bytes((10, 11, 12))
    assert window.seek(-5, io.SEEK_END) == 15
    assert window.read() == bytes(range(25, 30))
    assert window.read() == b""
    window.seek(40)
    assert window.read(1) == b""


def test_few_files_are_open_however_many_there_are(tmp_path):
    files = []
    for number in range(200):
        (tmp_path / str(number)).write_bytes(b"%03d" % number)
        files.append(File.at(tmp_path / str(number)))
    assert [file.read(0, 3) for file in files] == [b"%03d" % number for number in range(200)]
    assert descriptor.cache_info().currsize <= 64


def test_threads_may_share_a_process(tmp_path):
    files = []
    for number in range(100):
        (tmp_path / str(number)).write_bytes(b"%03d" % number)
        files.append(File.at(tmp_path / str(number)))
    wrong = []

    def read():
        wrong.extend(file for _ in range(5) for number, file in enumerate(files) if file.read(0, 3) != b"%03d" % number)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
