import errno
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vitctl import errors
from vitctl.cli import make_app


def test_every_error_has_the_exit_code_of_its_class() -> None:
    codes = {"UsageError": 2, "ConfigError": 2, "OutputExists": 2, "InputError": 3, "DataError": 3, "WeightsError": 3,
             "RunError": 4, "NoSpace": 4}  # fmt: skip
    for name, code in codes.items():
        assert getattr(errors, name)("x").exit_code == code
    assert errors.Interrupted("x").exit_code == 130
    assert errors.Interrupted("x", 143).exit_code == 143


@pytest.mark.parametrize(("word", "expected"), [("vaal", "did you mean 'val'?"), ("zzz", "known: train, val, test")])
def test_did_you_mean(word: str, expected: str) -> None:
    assert errors.did_you_mean(word, ["train", "val", "test"]) == expected


def test_did_you_mean_does_not_list_hundreds() -> None:
    assert errors.did_you_mean("zzz", [str(number) for number in range(100)]) == "100 are known"


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "full"),
    OSError(errno.EDQUOT, "over quota"),
    Exception("Error while serializing: I/O error: No space left on device (os error 28)"),  # as safetensors says it
    Exception("Error while serializing: I/O error: File too large (os error 27)"),
    RuntimeError("file write failed: time = now, errno = 122, error message = 'Disk quota exceeded'"),  # HDF5
    OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),  # pyarrow
    errors.NoSpace("reported already"),
])  # fmt: skip
def test_no_space_is_recognized_in_any_library(error: Exception) -> None:
    assert errors.is_no_space(error)
    try:
        try:
            raise error
        except Exception as caught:
            raise ValueError("a library's own") from caught
    except ValueError as wrapped:
        assert errors.is_no_space(wrapped)


def test_other_errors_are_not_no_space() -> None:
    for error in (OSError(errno.ENOENT, "gone"), ValueError("x"), ValueError("got 28 numbers (os error 2)")):
        assert not errors.is_no_space(error)


def test_out_of_memory_is_recognized_on_any_device() -> None:
    class OutOfMemoryError(RuntimeError):  # torch's name
        pass

    for error in (
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory: 9 bytes"),
    ):
        assert errors.is_out_of_memory(error)
    assert not errors.is_out_of_memory(RuntimeError("shapes do not fit"))


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("library", "line", "code"),
    [
        ("hdf5plugin", "patchify digits zstd.h5 --compress --set codec=zstd", 3),
        ("pyarrow", "features --from weights.safetensors --data data.h5 --export parquet", 2),
        ("tensorboard", "pretrain --model vit-mu/16 --data data.h5 --steps 1 --set tensorboard=true", 2),
    ],
)
def test_a_missing_library_is_named_as_pip_knows_it(
    library: str, line: str, code: int, vitctl: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vitctl("patchify", "digits", "data.h5", "--res", "16", "--quiet")
    monkeypatch.chdir(tmp_path)
    for module in (library, "torch.utils.tensorboard") if library == "tensorboard" else (library,):
        monkeypatch.setitem(sys.modules, module, None)
    answer = CliRunner().invoke(make_app(), line.split())
    assert answer.exit_code == code, answer.output
    (error,) = [each for each in answer.stderr.splitlines() if each.startswith("error: ")]
    assert re.search(rf"pip install {library}\b", error)


def test_no_text_advises_pip_install_vitctl() -> None:
    """vitctl is on no index, so pip would install somebody else's package of that name."""
    for path in (ROOT / "README.md", *(ROOT / "vitctl").rglob("*.py"), *(ROOT / "vitctl").rglob("*.md")):
        assert not re.search(r"pip install (-\S+ )*['\"]?vitctl", path.read_text(encoding="utf-8")), path
