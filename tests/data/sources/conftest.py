"""Small sources of every kind. An image's bytes are only passed on, so any bytes will do: its own path, mostly."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitctl.data.sources import Declared, FoundImage, Hints, Refused, Source, open_source
from vitctl.reporting import SilentReporter

Files = dict[str, bytes | str]


@dataclass
class ScanResult:
    """What a scan yields, by kind."""

    source: Source
    found: list[FoundImage] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    declared: list[Declared] = field(default_factory=list)

    def placed(self) -> dict[str, tuple[Any, Any]]:
        return {each.name: (each.label, each.split) for each in self.found}

    def read(self) -> dict[str, Any]:
        return {each.name: self.source.read(each.name, each.file, each.offset, each.size) for each in self.found}

    def reasons(self) -> dict[str, str]:
        return {each.name: each.reason for each in self.refused}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "the spool"
    folder.mkdir()
    return folder


@pytest.fixture
def look(spool: Path) -> Callable[..., ScanResult]:
    """Opens, prepares and scans."""

    def look(path: Path | str, kind: str = "auto", hints: Hints | None = None) -> ScanResult:
        scan = ScanResult(open_source(str(path), kind, hints))
        scan.source.prepare(spool, SilentReporter())
        for sighting in scan.source.scan():
            kinds = {FoundImage: scan.found, Refused: scan.refused, Declared: scan.declared}
            kinds[type(sighting)].append(sighting)  # type: ignore[attr-defined]
        return scan

    return look


def contents(names: list[str]) -> Files:
    """Files that hold their own names."""
    return {name: name.encode("utf-8", "surrogateescape") for name in names}


def write_folder(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def tar_bytes(files: Files, mode: str = "w", folders: tuple[str, ...] = (), form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as tar:  # type: ignore[call-overload]
        for name in folders:
            header = tarfile.TarInfo(name)
            header.type = tarfile.DIRTYPE
            tar.addfile(header)
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return stream.getvalue()


def zip_bytes(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def idx_bytes(values: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">2x2B{values.ndim}I", 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def npz_bytes(**arrays: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def pixels(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


CLASSES = contents(["cat/1.jpg", "cat/2.png", "dog/1.jpg", "dog/deep/er/3.JPEG"])
SPLITS = contents(["train/cat/1.jpg", "train/dog/2.jpg", "valid/cat/3.jpg", "Test/dog/4.jpg"])
SHARD: Files = {"0.jpg": b"zero", "0.cls": "3", "1.json": json.dumps({"label": 4}), "1.png": b"one"}


def make_idx(root: Path) -> Path:
    files: Files = {}
    for word, count in (("train", 5), ("t10k", 3)):
        files[f"{word}-images-idx3-ubyte.gz"] = gzip.compress(idx_bytes(pixels(count, 6, 4, seed=count)))
        files[f"{word}-labels-idx1-ubyte"] = idx_bytes(np.arange(count))
    return write_folder(root / "idx", files)


def make_cifar(root: Path) -> Path:
    record = pixels(2, 3073) % 10
    files: Files = {f"data_batch_{number}.bin": record.tobytes() for number in range(1, 6)}
    names = "\n".join(f"class {number}" for number in range(10)) + "\n\n"
    return write_folder(root / "cifar", {**files, "test_batch.bin": record[:1].tobytes(), "batches.meta.txt": names})


def make_parquet(root: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = pa.array([{"bytes": b"a", "path": "a.png"}, {"bytes": b"b", "path": None}, {"bytes": b"c", "path": "c"}])
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table = pa.table({"image": images, "label": [0, 1, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (root / "parquet" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        parquet.write_table(table, root / "parquet" / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)
    return root / "parquet"


def make_npz(root: Path) -> Path:
    arrays = {
        "x_train": pixels(5, 4, 6, 3),
        "y_train": np.arange(5)[:, None],
        "x_test": pixels(2, 4, 6, 3),
        "y_test": np.ones(2),
    }
    return write_folder(root, {"arrays.npz": npz_bytes(**arrays)}) / "arrays.npz"


def make_class_tars(root: Path) -> Path:
    inner: Files = {
        f"n0000000{number}.tar": tar_bytes(contents([f"{number}_a.JPEG", f"{number}_b.JPEG"])) for number in range(3)
    }
    return write_folder(root, {"classes.tar": tar_bytes(inner)}) / "classes.tar"


def make_manifest(root: Path) -> Path:
    table = "file,label,set\ncat/1.jpg,cat,train\ndog/1.jpg,dog,val\n"
    return write_folder(root / "listed", {**CLASSES, "list.csv": table}) / "list.csv"


MAKERS: dict[str, Callable[[Path], Path | str]] = {
    "flat": lambda root: write_folder(root / "flat", contents(["1.jpg", "2.jpg"])),
    "classes": lambda root: write_folder(root / "classes", CLASSES),
    "splits": lambda root: write_folder(root / "splits", SPLITS),
    "manifest": make_manifest,
    "tar": lambda root: write_folder(root, {"set.tar": tar_bytes(CLASSES)}) / "set.tar",
    "tar.gz": lambda root: write_folder(root, {"set.tgz": tar_bytes(SPLITS, "w:gz")}) / "set.tgz",
    "zip": lambda root: write_folder(root, {"set.zip": zip_bytes(CLASSES)}) / "set.zip",
    "tar with manifest": lambda root: (
        write_folder(
            root, {"set.tar": tar_bytes({**contents(["im/1.jpg", "im/2.jpg"]), "a.csv": "path,label\nim/2.jpg,b\n"})}
        )
        / "set.tar"
    ),
    "webdataset": lambda root: write_folder(root, {"shard-0.tar": tar_bytes(SHARD)}) / "shard-0.tar",
    "class-tars": make_class_tars,
    "idx": make_idx,
    "cifar": make_cifar,
    "arrays": make_npz,
    "parquet": make_parquet,
    "digits": lambda root: "digits",
}


@pytest.fixture(params=list(MAKERS))
def any_source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str]:
    """One small good source after another, of every kind."""
    return MAKERS[request.param](tmp_path)


@pytest.fixture
def make() -> Any:
    """The makers above, for tests: importlib mode has no other way to share them."""
    import sys

    return sys.modules[__name__]
