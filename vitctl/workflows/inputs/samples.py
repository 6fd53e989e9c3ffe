"""Chooses the split, and the images of it, that a model is evaluated on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitctl.config.model import ModelSpec
from vitctl.data.loader import load_images
from vitctl.data.patchifier.decode import Target, convert_channels, fit
from vitctl.io.patch_file import PatchFile, Split

HELD_OUT = ("test", "val")  # the first that has images
Bytes = np.ndarray[Any, Any]


def find_held_out(rows: Mapping[str, int], prefer: Sequence[str] = HELD_OUT) -> str | None:
    """The split to evaluate on, given the number of images of each split."""
    return next((name for name in prefer if rows.get(name)), None)


def choose_held_out(file: PatchFile, prefer: Sequence[str] = HELD_OUT) -> str | None:
    return find_held_out({name: split.rows for name, split in file.splits.items()}, prefer)


def space_evenly(rows: int, count: int) -> Bytes:
    """Row numbers: `count` of them, from the first to the last."""
    return np.linspace(0, rows - 1, min(rows, count)).round().astype(np.int64)


def fit_samples(split: Split, rows: Bytes, spec: ModelSpec) -> Bytes:
    """uint8 [B, H, W, C]: these rows in the size and channels of the model."""
    target = Target(spec.height, spec.width, spec.channels)
    images = load_images(split, rows, (spec.height, spec.width)) if split.header.is_whole else split.images(rows)
    return np.stack([fit(convert_channels(image, spec.channels), target) for image in images])
