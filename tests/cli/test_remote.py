"""`vitctl patchify` from servers: what it makes is what it makes from the disk, whatever happens on the way."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.conftest import clean_environment
from tests.remote_server import Loopback, serve_folder

pytest.importorskip("aiohttp")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

Run = Callable[..., Any]
SMALL = ("--res", "16", "--patch", "4")
COUNT = 400
ROOT = Path(__file__).parents[2]
OWN = ("timeout", "300")  # a process of its own: the hub's client reads its environment once
LOCAL = {"no_proxy": "127.0.0.1"}
PATTERN = "datasets/me/blots/data/{test,train}-00000-of-00001.parquet"


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path: Path, numbers: range, group: int = 50, names: tuple[str, ...] = ("ant", "bee", "cow")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    images = pa.array([{"bytes": png(number), "path": f"{number}.png"} for number in numbers])
    table = pa.table({"image": images, "label": [number % len(names) for number in numbers]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=group)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures as Parquet of a data set, as shards, and as files that a manifest lists."""
    root = tmp_path_factory.mktemp("served")
    for split, numbers in (("train", range(COUNT * 3 // 4)), ("test", range(COUNT * 3 // 4, COUNT))):
        write_parquet(root / f"datasets/me/blots/data/{split}-00000-of-00001.parquet", numbers)
        write_parquet(root / f"datasets/me/converted@refs/convert/parquet/default/{split}/0000.parquet", numbers)
    (root / "datasets/me/converted").mkdir()
    (root / "datasets/me/converted/script.py").touch()
    for config in ("big", "small"):
        write_parquet(root / f"datasets/me/two@refs/convert/parquet/{config}/train/0000.parquet", range(9))
    (root / "datasets/me/two").mkdir()
    for shard in range(2):
        numbers = range(shard * 100, shard * 100 + 100)
        samples = {f"{number:04d}.{kind}": content for number in numbers
                   for kind, content in (("cls", str(number % 3).encode()), ("png", png(number)))}  # fmt: skip
        write_tar(root / f"train-{shard:03d}.tar", samples)
        write_tar(root / f"packed-{shard:03d}.tar.gz", samples)
    (root / "classnames.txt").write_text("ant\nbee\ncow\n")
    (root / "a folder").mkdir()
    for number in range(30):
        (root / f"a folder/{number}#.png").write_bytes(png(number))
    rows = "".join(f"a folder/{number}#.png,{'abc'[number % 3]}\n" for number in range(30))
    (root / "list.csv").write_text(f"path,label\n{rows}")
    return root


@pytest.fixture
def server(served: Path) -> Iterator[Loopback]:
    with serve_folder(served, cut_every=3) as state:
        yield state


def content_of(path: Path) -> dict[str, Any]:
    """All data sets and attributes but those that tell where the pictures came from."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, each: found.update({name: each[()].tolist()}) if hasattr(each, "dtype") else None)
        names = [name for name in file.attrs if name not in ("source", "options")]
        return found | {f"@{name}": np.asarray(file.attrs[name]).tolist() for name in names}


@pytest.mark.parametrize("source", [PATTERN, "train-{000..001}.tar", "packed-{000..001}.tar.gz", "list.csv"])
def test_the_same_bytes_as_from_the_disk(
    source: str, server: Loopback, served: Path, vitctl: Run, tmp_path: Path
) -> None:
    vitctl("patchify", f"{served}/{source}", "disk.h5", *SMALL)
    answer = vitctl("patchify", f"{server.address}/{source}", "remote.h5", *SMALL, "--workers", "2", env=LOCAL)
    assert "Traceback" not in answer.err
    assert server.cuts
    assert content_of(tmp_path / "remote.h5") == content_of(tmp_path / "disk.h5")


@pytest.mark.parametrize("name", ["hf:me/blots", pytest.param("hf:me/converted/default", marks=pytest.mark.slow)])
def test_a_data_set_of_the_hub(name: str, server: Loopback, served: Path, vitctl: Run, tmp_path: Path) -> None:
    server.cut_every = 9  # the hub's client waits a second after each
    folder = served / ("datasets/me/blots" if name == "hf:me/blots" else "datasets/me/converted@refs")
    vitctl("patchify", folder, "disk.h5", *SMALL)
    answer = vitctl("patchify", name, "hub.h5", *SMALL, "--json", env=server.hub(tmp_path), before=OWN)
    assert answer.json["data"]["source"] == name
    assert answer.err.count("\n") == 2, answer.err
    assert content_of(tmp_path / "hub.h5") == content_of(tmp_path / "disk.h5")


@pytest.mark.slow
def test_data_by_address_is_patchified_here(server: Loopback, vitctl: Run, tmp_path: Path) -> None:
    line = ("pretrain", "--model", "vit-mu/4", "--res", "16", "--recipe", "digits", "--steps", "1", "--data")
    vitctl(*line, "hf:me/blots:train", "--out", "a", "--set", "eval_every=0", env=server.hub(tmp_path), before=OWN,
           code=None)  # fmt: skip
    assert (tmp_path / "blots-train.h5").exists()


def kill(line: tuple[str, ...], env: dict[str, str], place: Path, when: Callable[[], bool]) -> bool:
    """Kills the command and its workers when `when` holds; False if it was done before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vitctl", *line], cwd=place, env=clean_environment(place) | env, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    while not when() and process.poll() is None:
        time.sleep(0.001)
    is_running = process.poll() is None
    if is_running:
        os.killpg(process.pid, signal.SIGKILL)
    told = process.communicate()[1].decode()
    assert is_running or process.returncode == 0, told
    return is_running


@pytest.mark.parametrize("source", [pytest.param(PATTERN, marks=pytest.mark.slow), "train-{000..001}.tar"])
def test_kills_change_no_byte(source: str, server: Loopback, served: Path, vitctl: Run, tmp_path: Path) -> None:
    vitctl("patchify", f"{served}/{source}", "disk.h5", *SMALL)
    line = ("patchify", f"{server.address}/{source}", "remote.h5", *SMALL, "--resume")
    kills = []
    for requests in (2, 5, 9):
        until = server.requests + requests
        kills.append(kill(line, LOCAL, tmp_path, lambda until=until: server.requests >= until))
    assert kills[0]
    vitctl(*line, env=LOCAL)
    assert content_of(tmp_path / "remote.h5") == content_of(tmp_path / "disk.h5")


def test_a_signature_or_password_is_neither_stored_nor_shown(
    server: Loopback, served: Path, vitctl: Run, tmp_path: Path
) -> None:
    server.login = "Basic dXNlcjpwYXNzd29yZA=="  # user:password
    host = f"127.0.0.1:{server.port}"
    address = f"http://user:password@{host}/list.csv?X-Amz-Signature=5ec7e7"
    answer = vitctl("patchify", address, "a.h5", *SMALL, "--json", env=LOCAL)
    assert answer.json["data"]["source"] == f"http://{host}/list.csv"
    server.login = "other"
    errors = [vitctl("patchify", address, "b.h5", code=3, env=LOCAL).err]
    server.login, server.status = None, 503
    errors.append(vitctl("patchify", address.replace("list", "gone"), "b.h5", code=3, env=LOCAL).err)
    errors.append(
        vitctl("patchify", "http://user:password@127.0.0.1:9/a.tar?sig=5ec7e7", "b.h5", code=3, env=LOCAL).err
    )
    content = (tmp_path / "a.h5").read_bytes() + answer.err.encode() + answer.out.encode() + "".join(errors).encode()
    assert all(secret not in content for secret in (b"password", b"5ec7e7"))
    assert "list.csv: cannot be read (401 Unauthorized)" in errors[0]
    assert "gone.csv: cannot be read (503 Service Unavailable)" in errors[1]


def test_addresses_with_signatures_in_a_manifest_are_rejected(
    server: Loopback, served: Path, vitctl: Run, tmp_path: Path
) -> None:
    image = f"{server.address}/a folder/1%23.png"
    rows = f"path,label\n{image},a\n{image}?sig=5ec7e7,b\n{image}?width=9,c\n/a folder/2#.png,a\na folder/none.png,a\n"
    (tmp_path / "site").mkdir()
    (served / "rows.csv").write_text(rows)
    data = vitctl("patchify", f"{server.address}/rows.csv", "a.h5", *SMALL, "--json", env=LOCAL).json["data"]
    (served / "rows.csv").unlink()
    assert [each["reason"] for each in data["rejected"]] == [
        f"{image} holds a password or a signature, which the patch file would store", "404 Not Found"]  # fmt: skip


def test_one_line_for_what_cannot_be_opened(server: Loopback, served: Path, vitctl: Run, tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"")
    cases = {
        "train-{000..002}.tar": "train-002.tar: does not exist",
        "gone.parquet": "gone.parquet: does not exist",
        "datasets/me/blots/data/x-*.parquet": "no file matches|cannot be listed",
        "a folder/1%23.png": "is one image",
    }
    for source, message in cases.items():
        error = vitctl("patchify", f"{server.address}/{source}", code=3, env=LOCAL).error
        assert any(each in error for each in message.split("|")), error
    server.ranges = False
    error = vitctl("patchify", f"{server.address}/train-000.tar", code=3, env=LOCAL).error
    assert "its server cannot send parts of files; download it first" in error


def test_a_missing_package_is_named(vitctl: Run, tmp_path: Path) -> None:
    if find_spec("s3fs") is None:
        error = vitctl("patchify", "s3://bucket/a.tar", code=3).error
        assert error == "error: s3://bucket/a.tar: needs s3fs, which is missing: pip install s3fs"
    (tmp_path / "aiohttp.py").write_text("raise ImportError")
    error = vitctl("patchify", "https://host/a.tar", code=3, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}).error
    assert error == "error: https://host/a.tar: needs aiohttp, which is missing: pip install aiohttp"
    assert "has a protocol that fsspec does not know" in vitctl("patchify", "what://a/b.tar", code=3).error


def test_nothing_of_it_is_imported_for_files(served: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from vitctl.data.sources import open_source; open_source(sys.argv[1]); "
        "print(sorted({'fsspec', 'aiohttp', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program, served / "train-000.tar"], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


@pytest.fixture
def own(served: Path, tmp_path: Path) -> Path:
    """A copy of one Parquet file that a test may change."""
    path = tmp_path / "site" / "set.parquet"
    path.parent.mkdir()
    path.write_bytes((served / "datasets/me/blots/data/train-00000-of-00001.parquet").read_bytes())
    return path


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_file_that_changes_or_goes_while_it_is_read(change: str, own: Path, vitctl: Run, tmp_path: Path) -> None:
    vitctl("patchify", own, "disk.h5", *SMALL)
    whole, times = own.read_bytes(), os.stat(own)

    def disturb(number: int) -> None:
        if number == state.cut_every and change == "replaced":
            own.write_bytes(whole[:-1] + b"1")
            os.utime(own, (1, 1))
        elif number == state.cut_every:
            own.unlink(missing_ok=True)

    line = ("patchify", "ADDRESS", "out.h5", *SMALL, "--workers", "1", "--resume", "--set", "max_pixels=1000")
    vitctl("patchify", own, "disk.h5", *SMALL, "--set", "max_pixels=1000", "--overwrite")
    with serve_folder(own.parent) as state:
        line = (line[0], f"{state.address}/set.parquet", *line[2:])
        vitctl(*line[:2], "count.h5", *line[3:], env=LOCAL)
        last, state.requests = state.requests, 0
        state.before, state.cut_every = disturb, last - 1
        answer = vitctl(*line, code=3 if change == "replaced" else 4, env=LOCAL)
        expected = {
            "replaced": "set.parquet: was changed while it was read; start over with --overwrite",
            "gone": "set.parquet: cannot be read (404 Not Found); once it can, add --resume",
        }
        assert answer.error.endswith(expected[change])
        assert not (tmp_path / "out.h5").exists()
        state.before, state.cut_every = None, 0
        own.write_bytes(whole)
        os.utime(own, ns=(times.st_atime_ns, times.st_mtime_ns))
        vitctl(*line, env=LOCAL)
    assert content_of(tmp_path / "out.h5") == content_of(tmp_path / "disk.h5")


def test_a_build_is_not_resumed_with_another_version(own: Path, vitctl: Run, tmp_path: Path) -> None:
    with serve_folder(own.parent) as state:
        line = ("patchify", f"{state.address}/set.parquet", "out.h5", *SMALL, "--resume")
        assert kill(line, LOCAL, tmp_path, (tmp_path / ".out.h5.building/plan").exists)
        os.utime(own, (1, 1))
        assert "cannot resume, because files was" in vitctl(*line, code=2, env=LOCAL).error
        vitctl(*line[:-1], "--overwrite", env=LOCAL)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hundred_thousand_pictures_over_a_line_that_is_cut(workers: str, vitctl: Run, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for shard in range(10):
        write_parquet(
            folder / f"train-{shard:05d}-of-00010.parquet", range(shard * 10_000, shard * 10_000 + 10_000), 100
        )
    vitctl("patchify", folder, "disk.h5", *SMALL)
    started = time.monotonic()
    with serve_folder(folder, cut_every=10) as state:
        line = ("patchify", f"{state.address}/train-{{00000..00009}}-of-00010.parquet", "remote.h5", *SMALL)
        vitctl(*line, "--workers", workers, env=LOCAL)
    size, took = sum(file.stat().st_size for file in folder.iterdir()) >> 20, time.monotonic() - started
    print(
        f"{workers} workers: {state.requests} requests, {state.cuts} cut, {state.sent >> 20} of {size} MB, {took:.0f} s"
    )
    assert state.cuts > 20
    assert content_of(tmp_path / "remote.h5") == content_of(tmp_path / "disk.h5")
