"""Some images of a data set, as a model of whatever size and channels sees them."""

from typing import Any

import numpy as np

from vitctl.config.model import ModelSpec
from vitctl.data.patchifier.decode import Target, convert_channels, fit

HELD_OUT = ("test", "val")  # where images are taken from, the first that is there
Bytes = np.ndarray[Any, Any]


def space_evenly(rows: int, count: int) -> Bytes:
    """So many of them, from the first to the last."""
    return np.linspace(0, rows - 1, min(rows, count)).round().astype(np.int64)


def resize_samples(images: Bytes, spec: ModelSpec) -> Bytes:
    """uint8 [B, h, w, c] to [B, H, W, C]."""
    target = Target(spec.height, spec.width, spec.channels)
    return np.stack([fit(convert_channels(image, spec.channels), target) for image in images])
