"""What a file stores of each image: its resolution, fit and codec, chosen from the headers of a sample."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.patchifier.image_file import read_size
from vitctl.data.patchifier.workspace import Build
from vitctl.data.sources.contract import Source
from vitctl.data.sources.files import LargeFile
from vitctl.errors import DataError
from vitctl.io.patch_format import Geometry
from vitctl.patches import round_to
from vitctl.reporting import format_size

Ints = np.ndarray[Any, np.dtype[np.int64]]
PHOTO = 352  # default height and width of photos: few crops at 224 are enlargements
SMALL = 96  # squares of one size up to this one keep it by default
STEP = 16  # other stored sizes are multiples of it
MOST = 0.95  # the share of images that the default size does not reduce
LARGEST_PATCH = 16
FEWEST = 16  # patches in a small image with the default patch size
RAW_LIMIT, FREE_SHARE = 20 * 10**9, 4  # bytes of raw rows; the part of the free disk that they may take
RUNS, RUN = 8, 32  # neighbors are sampled together, because a source may hold them in one block
HEAD = 1 << 20  # bytes of a large file


@dataclass(frozen=True)
class StoredFormat:
    geometry: Geometry
    fit: str
    codec: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def choose_format(build: Build, names: Sequence[bytes], places: Ints, rows: int) -> StoredFormat:
    """From a sample of the source: names and places [n, 3] (file, offset, size). `rows` are planned in all shards."""
    config, source = build.config, build.source
    sizes = sample_sizes(source, names, places)
    res = config.res or choose_res(source, sizes)
    channels = config.channels or (1 if source.native and source.native[2] == 1 else 3)
    patch = config.patch or (LARGEST_PATCH if config.res else largest_patch(*res))
    geometry = Geometry(patch, res.height, res.width, channels)
    codec, notes = choose_codec(build, geometry, rows)
    if not config.res and not source.native and max(res) < PHOTO and len(sizes):
        notes.insert(0, f"images are {describe_sizes(sizes)}: stored at {res} (--res N for another size)")
    warnings = [warning] if source.kind != "digits" and (warning := warn_enlarged_originals(config, sizes)) else []
    fit = config.fit or ("crop" if source.native else "whole")
    return StoredFormat(geometry, fit, codec, tuple(notes), tuple(warnings))


def choose_res(source: Source, sizes: Ints) -> Res:
    """352x352, or what the images have: small squares of one size keep it, of others the longest sides decide."""
    if source.native:
        return Res(*source.native[:2]) if is_small(source) else Res(PHOTO)
    if not len(sizes):
        return Res(PHOTO)
    if sizes.max() <= SMALL and (sizes == sizes[0, 0]).all():
        return Res(int(sizes[0, 0]))
    longest = int(np.quantile(sizes.max(1), MOST, method="higher"))
    return Res(min(PHOTO, round_to(longest, STEP, up=True)))


def is_small(source: Source) -> bool:
    return source.native is not None and max(source.native[:2]) <= SMALL


def largest_patch(height: int, width: int) -> int:
    """The largest patch of at most 16 that divides both sides and leaves FEWEST patches; if none does, any number."""
    fits = [patch for patch in range(1, LARGEST_PATCH + 1) if height % patch == 0 and width % patch == 0]
    enough = [patch for patch in fits if height * width >= FEWEST * patch * patch]
    return (enough or fits)[-1]


def warn_enlarged_originals(config: PatchifyConfig, sizes: Ints) -> str:
    """The warning if the requested size is more than most images have."""
    if not config.res or not len(sizes):
        return ""
    smaller = float(np.mean((sizes < list(config.res)).all(1)))
    if smaller < 1 - MOST:
        return ""
    return (
        f"{smaller:.0%} of the images are smaller than --res {config.res} ({describe_sizes(sizes)}) and are enlarged, "
        "which adds nothing; omit --res to keep their size"
    )


def describe_sizes(sizes: Ints) -> str:
    """'32x32', or the median and the range of the longer sides."""
    if (sizes == sizes[0]).all():
        return f"{sizes[0][0]}x{sizes[0][1]}"
    longest = sizes.max(1)
    return f"{longest.min()} to {longest.max()} pixels long, half of them up to {int(np.median(longest))}"


def choose_codec(build: Build, geometry: Geometry, rows: int) -> tuple[str, list[str]]:
    """The codec, and a note if raw rows would take too much. The free disk decides only where there is a single file:
    all shards must agree, on several machines too."""
    if build.config.wanted_codec != "auto":
        return build.config.wanted_codec, []
    raw = rows * geometry.row
    limit = RAW_LIMIT
    if build.config.shards is None:
        limit = min(limit, shutil.disk_usage(build.space.folder).free // FREE_SHARE)
    if raw <= limit:
        return "raw", []
    why = "20 GB" if limit == RAW_LIMIT else "a fourth of the free disk"
    about = f"raw rows would take {format_size(raw)}, more than {why}: stored as JPEG, about {format_size(raw // 7)}"
    return "jpeg", [f"{about} (--codec raw for the faster rows)"]


def choose_sample(rows: int) -> Ints:
    """Row numbers of runs of neighbors, evenly spaced over all rows."""
    if rows <= RUNS * RUN:
        return np.arange(rows)
    starts = np.linspace(0, rows - RUN, RUNS).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(RUN))


def sample_sizes(source: Source, names: Sequence[bytes], places: Ints) -> Ints:
    """int64 [n, 2]: height and width of the images that can be read."""
    if source.native:
        return np.array([source.native[:2]])
    sizes = []
    for name, place in zip(names, places.tolist(), strict=True):
        try:
            content = source.read(name.decode(), *place)
            sizes.append(read_size(bytes(content.read(HEAD)) if isinstance(content, LargeFile) else content))
        except (DataError, OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError):
            continue  # the workers say what is wrong with it
    return np.array(sizes, np.int64).reshape(-1, 2)
