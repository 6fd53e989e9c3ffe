"""Arrays in a zip: zip bombs and wrong lengths are rejected before memory is allocated."""

import io
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import official_files
from vitctl.errors import WeightsError
from vitctl.io.npz import read_arrays
from vitctl.io.recognize import open_weights


def write_bomb(path: Path, name: str, gigabytes: int) -> None:
    """Gigabytes of zeros, compressed to a few megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"shape": (gigabytes * 2**28,), "fortran_order": False, "descr": "<f4"}
        )
        file.write(header.getvalue())
        for _ in range(gigabytes * 16):
            file.write(bytes(2**26))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", ["embedding/kernel.npy", "archive/data.pkl"])
def test_a_bomb_is_rejected_before_it_is_unpacked(name: str, tmp_path: Path) -> None:
    write_bomb(tmp_path / "w.npz", name, 1)
    before = peak()
    with pytest.raises(WeightsError, match=r"is 1\.0 MB but would unpack to 1\.1 GB; refused, because weights do not"):
        open_weights(tmp_path / "w.npz")
    assert peak() - before < 2**27


def test_compressed_arrays_are_read(tmp_path: Path) -> None:
    arrays = official_files.make_vit("original") | {"head/kernel": np.zeros((8, 5), np.float32)}
    np.savez_compressed(tmp_path / "w.npz", **arrays)
    assert open_weights(tmp_path / "w.npz").spec.classes == 5
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(2**24))
    assert read_arrays(tmp_path / "zeros.npz")["a"].shape == (2**24,)


def array_bytes(shape: tuple[int, ...], content: bytes) -> bytes:
    """An .npy whose header has this shape, whatever the content."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": "<f4"})
    return header.getvalue() + content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", [(10**12,), (2**62, 4), (3,), (-1, -4), (0,)])
def test_a_header_that_does_not_match_its_member_is_rejected(
    method: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w", method) as archive:
        archive.writestr("embedding/kernel.npy", array_bytes(shape, bytes(8)))
    with pytest.raises(WeightsError, match="is not as long as its header says; download the file again"):
        open_weights(tmp_path / "w.npz")


def test_overlapping_members_are_all_counted(tmp_path: Path) -> None:
    """A zip's directory may name the same megabytes a thousand times."""
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("embedding/kernel.npy", array_bytes((2**22,), bytes(2**24)))
        (member,) = archive.infolist()
        archive.filelist += [member] * 1000
    with pytest.raises(WeightsError, match="would unpack to"):
        open_weights(tmp_path / "w.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_either_memory_order_are_read(save: Callable[..., Any], tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    save(tmp_path / "w.npz", a=array, b=np.float32(3), c=np.zeros((0, 3)))
    back = read_arrays(tmp_path / "w.npz")
    assert all(torch.equal(torch.from_numpy(back[name].copy()), torch.from_numpy(each)) for name, each in
               (("a", array.copy()), ("c", np.zeros((0, 3)))))  # fmt: skip
    assert back["b"].shape == ()
