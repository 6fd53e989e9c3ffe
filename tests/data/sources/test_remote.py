"""Ranges of a file on a server that cuts connections, and what a reader asks for."""

import os
import threading

import numpy as np
import pytest

from tests.remote_server import serve_folder
from vitctl.data.sources import remote
from vitctl.data.sources.remote import AHEAD, RemoteFile, explain_failure, read_ahead
from vitctl.errors import ChangedSource, DataError, RunError

pytest.importorskip("aiohttp")
SIZE = 3 * AHEAD + 12345


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "a.bin").write_bytes(np.random.default_rng(0).bytes(SIZE))
    with serve_folder(tmp_path) as state:
        yield state


@pytest.fixture
def whole(server):
    return (server.folder / "a.bin").read_bytes()


def test_any_reads_are_those_of_the_disk(server, whole):
    server.cut_every = 3
    file, draw = RemoteFile.at_address(f"{server.address}/a.bin"), np.random.default_rng(1)
    for place in draw.integers(0, SIZE, 60):
        for size in (1, 700, 300_000):
            size = min(size, SIZE - int(place))
            assert file.read(int(place), size) == whole[place : place + size]
    with file.open() as stream:
        assert stream.read() == whole
    assert server.cuts > 9


def test_a_range_that_is_cut_goes_on_where_it_was_cut(server, whole):
    file = RemoteFile.at_address(f"{server.address}/a.bin")
    server.cut_every, server.requests = 1, 0  # every answer is half of what was asked for
    server.asked.clear()
    assert file.fetch(0, 1000) == whole[:1000]
    assert server.asked[:3] == ["GET /a.bin bytes=0-999", "GET /a.bin bytes=500-999", "GET /a.bin bytes=750-999"]


def test_reads_that_go_forward_need_few_requests_and_others_no_more_bytes(server, whole):
    file = RemoteFile.at_address(f"{server.address}/a.bin")
    server.requests = server.sent = 0
    for start in range(0, SIZE - 1000, 10_000):  # as the headers of a tar
        assert file.read(start, 512) == whole[start : start + 512]
        assert file.read(max(start - 5000, 0), 9) == whole[max(start - 5000, 0) :][:9]  # as a label before its image
    assert server.requests < 12
    assert server.sent <= SIZE
    read_ahead.cache_clear()
    server.requests = server.sent = 0
    for start in (SIZE - 100, 0, SIZE // 2):
        file.read(start, 100)
    assert (server.requests, server.sent) == (3, 300)


def test_threads_may_share_a_file(server, whole):
    file = RemoteFile.at_address(f"{server.address}/a.bin")
    wrong = []

    def read():
        for place in range(0, SIZE, 500_000):
            content = file.read(place, min(1000, SIZE - place))
            wrong.extend([place] if content != whole[place : place + 1000] else [])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("etags", [True, False])
def test_another_version_is_never_read(server, whole, etags):
    server.etags = etags
    file = RemoteFile.at_address(f"{server.address}/a.bin")
    (server.folder / "a.bin").write_bytes(whole if etags else whole[:-1])
    with pytest.raises(ChangedSource, match=r"a\.bin: was changed while it was read; start over with --overwrite"):
        file.read(0, 10)


def test_a_server_that_stays_away_ends_the_run_and_one_that_recovers_does_not(server, whole, monkeypatch):
    file = RemoteFile.at_address(f"{server.address}/a.bin")
    monkeypatch.setattr(remote, "PATIENCE", 1.0)
    server.status = 503
    with pytest.raises(RunError, match=r"cannot be read \(503 Service Unavailable\); once it can, add --resume"):
        file.read(0, 10)
    monkeypatch.setattr(remote, "PATIENCE", 60.0)
    start = server.requests
    server.before = lambda number: setattr(server, "status", None if number > start + 3 else 503)
    assert file.read(0, 10) == whole[:10]
    server.before = None
    os.remove(server.folder / "a.bin")
    with pytest.raises(RunError, match=r"cannot be read \(404 Not Found\); once it can, add --resume"):
        file.read(SIZE - 10, 10)


def test_a_file_of_another_file_system(tmp_path, monkeypatch):
    """file:// stands for the stores of objects, whose answers come whole or not at all."""
    (tmp_path / "a.bin").write_bytes(bytes(range(200)))
    file = RemoteFile.at_address(f"file://{tmp_path}/a.bin")
    assert file.read(10, 20) == bytes(range(10, 30))
    assert RemoteFile.find(f"file://{tmp_path}/b.bin") is None
    with pytest.raises(DataError, match=r"is a folder; name its files, as in .*\*\.tar"):
        RemoteFile.at_address(f"file://{tmp_path}")
    assert [each.name for each in remote.match_addresses(f"file://{tmp_path}/*.bin")] == ["a.bin"]
    with pytest.raises(DataError, match=r"ends before byte 210"):
        file.read(190, 20)
    os.utime(tmp_path / "a.bin", (1, 1))
    with pytest.raises(ChangedSource):
        file.read(100, 20)
    os.remove(tmp_path / "a.bin")
    with pytest.raises(RunError, match=r"cannot be read \(No such file or directory\)"):
        file.read(40, 20)


def test_no_cause_holds_an_address():
    for text in ("GET https://user:word@host/a?sig=1 failed", "(host='h', url=/a?sig=1)"):
        assert not {"word", "sig"} & set(explain_failure(ValueError(text)).replace(":", " ").replace("=", " ").split())
