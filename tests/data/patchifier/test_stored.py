import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.patchifier import stored as storing
from vitctl.data.patchifier.stored import choose_format, choose_sample, largest_patch
from vitctl.data.patchifier.workspace import Build
from vitctl.data.sources import FoundImage, Source


class Shapes(Source):
    """Images of these heights and widths; one that cannot be read where there is none."""

    kind = "listed"

    def __init__(self, sizes: list[tuple[int, int] | None]) -> None:
        self.sizes = sizes

    def sightings(self) -> Any:
        yield from (FoundImage(f"{row}", None, None, 0, row) for row in range(len(self.sizes)))

    def no_images_message(self) -> str:
        return "none"

    def read(self, name: str, file: int, offset: int, size: int) -> bytes:
        shape, content = self.sizes[offset], io.BytesIO()
        if shape is None:
            return b"no image"
        Image.new("L", (shape[1], shape[0])).save(content, "PNG")
        return content.getvalue()


def choose(tmp_path: Path, sizes: list[tuple[int, int] | None], rows: int = 100, **options: Any) -> Any:
    shard = int(options.get("shard") or 0)
    build = Build(Shapes(sizes), PatchifyConfig(source="x", **options), tmp_path / "out.h5", shard)
    build.space.folder.mkdir(exist_ok=True)
    places = np.stack([np.zeros(len(sizes), int), np.arange(len(sizes)), np.zeros(len(sizes), int)], 1)
    return choose_format(build, [b"name"] * len(sizes), places, rows)


@pytest.mark.parametrize(
    ("sizes", "stored"),
    [
        ([(480, 640), (3000, 4000)], (352, 352)),
        ([(32, 32)] * 9, (32, 32)),
        ([(28, 28), None], (28, 28)),
        ([(32, 32), (28, 28)], (32, 32)),
        ([(40, 48)] * 5, (48, 48)),
        ([(105, 105)] * 5, (112, 112)),
        ([(192, 256)] * 99 + [(2000, 3000)], (256, 256)),  # what 95% of the images have
        ([(192, 256)] * 9 + [(2000, 3000)], (352, 352)),
        ([None, None], (352, 352)),
        ([(1, 1)], (1, 1)),
    ],
)
def test_the_default_size_is_what_the_images_have(tmp_path: Path, sizes: Any, stored: tuple[int, int]) -> None:
    geometry = choose(tmp_path, sizes).geometry
    assert (geometry.height, geometry.width) == stored


def test_images_that_a_resolution_would_enlarge_are_told(tmp_path: Path) -> None:
    (warning,) = choose(tmp_path, [(32, 32)] * 9 + [(300, 300)], res=Res(224)).warnings
    assert warning.startswith("90% of the images are smaller than --res 224 (32 to 300 pixels long, half of them up to")
    assert not choose(tmp_path, [(300, 300)] * 9, res=Res(224)).warnings
    (note,) = choose(tmp_path, [(32, 32)] * 9).notes
    assert note == "images are 32x32: stored at 32 (--res N for another size)"


def test_jpeg_is_chosen_where_raw_rows_take_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos: list[tuple[int, int] | None] = [(480, 640)]
    monkeypatch.setattr(storing.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 10**13))  # type: ignore[attr-defined]
    assert choose(tmp_path, photos, rows=50_000).codec == "raw"  # 18.6 GB
    large = choose(tmp_path, photos, rows=60_000)
    assert large.codec == "jpeg"
    assert large.notes == (
        "raw rows would take 22.3 GB, more than 20 GB: stored as JPEG, about 3.2 GB (--codec raw for the faster rows)",
    )
    assert choose(tmp_path, photos, rows=60_000, codec="raw").codec == "raw"
    assert choose(tmp_path, photos, rows=60_000, compress=True).codec == "gzip"
    monkeypatch.setattr(storing.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 10**9))  # type: ignore[attr-defined]
    assert "more than a fourth of the free disk" in choose(tmp_path, photos, rows=1000).notes[0]
    assert choose(tmp_path, photos, rows=1000, shards=4).codec == "raw"  # all shards must agree


def test_a_sample_is_runs_of_neighbors_over_all_rows() -> None:
    assert choose_sample(10).tolist() == list(range(10))
    sample = choose_sample(1_000_000)
    assert len(sample) == 256
    assert (sample[0], sample[-1]) == (0, 999_999)
    assert (np.diff(sample) == 1).sum() == 248


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (28, 7), (32, 8), (64, 16), (96, 16), (7, 1), (13, 1)])
def test_small_images_get_a_patch_that_leaves_sixteen(side: int, patch: int) -> None:
    assert largest_patch(side, side) == patch
