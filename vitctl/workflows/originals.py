"""What a patch file knows of its originals: their sizes, what a centered crop would cut away, and sizes by codec."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitctl.errors import DataError
from vitctl.io.jpeg import encode_jpeg
from vitctl.io.patch_file import PatchFile

QUALITY = 95  # of vitctl patchify
ENCODED = 48  # images from which the size of JPEGs is estimated
COUNTED = 100_000  # images of a split from which medians are taken, at most


@dataclass(frozen=True)
class OriginalsInfo:
    smallest: list[int]  # height and width, of different images perhaps
    median: list[int]
    largest: list[int]
    wide: float  # shares of images that are wider than high,
    high: float  # and higher than wide
    cut: float  # the mean share of an image that lies outside of its centered square
    reduced: float  # the share of images that had more pixels along a side than are stored


def describe_originals(file: PatchFile) -> OriginalsInfo | None:
    """None for files of version 1, which know no sizes."""
    samples, sums, count = [], np.zeros(4), 0
    least, most = np.full(2, np.iinfo(np.int32).max), np.zeros(2, np.int64)
    stored = [file.geometry.height, file.geometry.width]
    for sizes in slices_of_sizes(file):
        height, width = sizes.T.astype(np.int64)
        cut = 1 - np.minimum(height, width) / np.maximum(np.maximum(height, width), 1)
        flags = (width > height, height > width, cut, (sizes > stored).any(1))
        sums, count = sums + [each.sum() for each in flags], count + len(sizes)
        least, most = np.minimum(least, sizes.min(0)), np.maximum(most, sizes.max(0))
        samples.append(sizes[:: max(1, len(sizes) * len(file.splits) // COUNTED)])
    if not count:
        return None
    median = np.median(np.concatenate(samples), axis=0).astype(int)
    wide, high, cut_share, reduced = (sums / count).tolist()
    return OriginalsInfo(least.tolist(), median.tolist(), most.tolist(), wide, high, cut_share, reduced)


def slices_of_sizes(file: PatchFile) -> Iterator[Any]:
    for split in file.splits.values():
        yield from split.slices("sizes")


def sizes_by_codec(file: PatchFile) -> dict[str, int]:
    """Bytes of all rows as raw patches and as JPEGs, where these are not stored estimated from a few images."""
    rows = sum(split.rows for split in file.splits.values())
    sizes = {"raw": rows * file.geometry.row}
    split = max(file.splits.values(), key=lambda each: each.rows)
    chosen = np.linspace(0, split.rows - 1, min(split.rows, ENCODED)).astype(np.int64)
    if not len(chosen):
        return sizes
    try:
        images = split.read_jpegs(chosen) if split.encoded else split.images(chosen)
    except DataError:  # info --verify lists what is damaged
        return sizes
    encoded = [len(image) if split.encoded else len(encode_jpeg(image, QUALITY)) for image in images]
    return sizes | {"jpeg": round(rows * sum(encoded) / len(encoded))}
