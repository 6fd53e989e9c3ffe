"""A full disk is one line with the path and exit code 4, for every writer; the same command then works.

A limit on the size of this process's files stands for the disk.
"""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vitctl.errors import is_no_space
from vitctl.io.save import save_as
from vitctl.io.weights import Weights

Run = Callable[..., Any]
SHEET = ("predict", "seen", "--from", "tiny.safetensors")
FEATURES = ("features", "--from", "tiny.safetensors", "--out", "f.h5")
EXPORT = ("export", "--from", "tiny.safetensors", "--format")
RESIZE = ("interpolate-pos", "--from", "tiny.safetensors", "--res", "96")


@pytest.fixture(autouse=True)
def place(data: str, newest: str, tiny: Weights, blots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data, weights and images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_as(tiny, tmp_path / "tiny.safetensors")
    (tmp_path / "seen").symlink_to(blots / "val" / "ant")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "command", "written"), [
    (100_000, (*EXPORT, "onnx", "--out", "m.onnx"), "m.onnx"),
    (100_000, (*EXPORT, "onnx", "--precision", "int8", "--data", "data.h5", "--out", "m.onnx"), "m.onnx"),
    (100_000, (*EXPORT, "torch", "--out", "m.pt2"), "m.pt2"),
    (100_000, (*EXPORT, "safetensors", "--out", "m.safetensors"), "m.safetensors"),
    (100_000, (*EXPORT, "npz", "--out", "m.npz"), "m.npz"),
    (100_000, (*EXPORT, "hf", "--out", "m"), "m"),
    (1_000, FEATURES, "f.h5"),
    (16_500, FEATURES, "f.h5"),
    (2_000, ("info", "data.h5", "--sheet", "s.png"), "s.png"),
    (2_000, ("info", "data.h5", "--sheet", "s.jpg"), "s.jpg"),
    (2_000, ("evaluate", "--confusion", "c.png"), "c.png"),
    (200, (*SHEET, "--csv", "p.csv"), "p.csv"),
    (2_000, (*SHEET, "--sheet", "p.png"), "p.png"),
    (100_000, (*RESIZE, "--out", "r.safetensors"), "r.safetensors"),
    (100_000, (*RESIZE, "--out", "r.npz"), "r.npz"),
    (2_000, (*RESIZE, "--out", "r.npz", "--plot", "r.png"), "r.png"),
    (100_000, (*RESIZE, "--out", "r.npz", "--plot", "r.png"), "r.npz"),
    (2_000, ("fewshot", "--from", "pixels", "--shots", "5", "--plot", "f.png"), "f.png"),
    (2_000, ("inspect", "--from", "tiny.safetensors", "--out", "i"), "i/"),
    (30_000, ("inspect", "--from", "tiny.safetensors", "--out", "i"), "i/"),
], ids=lambda value: " ".join(value[:5]) if isinstance(value, tuple) else None)  # fmt: skip
def test_every_writer(ran: Run, refused: Callable[..., str], size: int, command: tuple[str, ...],
                      written: str) -> None:  # fmt: skip
    if command[0] == "fewshot":
        ran(*command[:-2])  # its features
    before = set(os.listdir())
    with files_up_to(size):
        line = refused(*command, code=4)
    assert line.startswith(f"error: {written}")
    assert "no space left; free some" in line
    assert set(os.listdir()) - before <= {"f.h5.partial", "r.png", "cache"}
    ran(*command)


@pytest.mark.parametrize(("kind", "written"), [
    ("csv", "f-train.csv"), ("npy", "f-train-features.npy"), ("parquet", "f-train.parquet"),
])  # fmt: skip
def test_features_for_other_tools(ran: Run, refused: Callable[..., str], kind: str, written: str) -> None:
    ran(*FEATURES)
    with files_up_to(8_000):
        line = refused(*FEATURES, "--export", kind, code=4)
    assert line.startswith(f"error: {written}: no space left; free some")
    assert not [name for name in os.listdir() if name.startswith("f-")]
    assert "f.h5: exists" in refused(*FEATURES, code=2)
    ran(*FEATURES, "--export", kind)
    assert Path(written).exists()


@pytest.mark.parametrize("format", ["timm", "hf"])
def test_a_folder_that_was_begun_goes(tiny: Weights, format: Any) -> None:
    with files_up_to(100_000), pytest.raises(OSError, match=r"No space left.*mine") as caught:
        save_as(tiny, Path("mine"), format)
    assert is_no_space(caught.value)
    assert not Path("mine").exists()


@pytest.mark.parametrize("command", [FEATURES, (*EXPORT, "hf", "--out", "m")], ids=lambda words: words[0])
def test_the_process_ends_in_one_line(vitctl: Callable[..., Any], command: tuple[str, ...]) -> None:
    """HDF5 would print about a file that it cannot close, and crash at the end of the process."""
    blocks = 33 if command is FEATURES else 200  # of 512 bytes
    limited = ("sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh")
    answer = vitctl(*command, "--quiet", code=4, before=limited)
    assert [line for line in answer.err.splitlines() if not line.startswith("warning: ")] == [answer.error]
