"""Cuts the frames of whole images out of the rows of a patch file: by the CPU, or by the device that will use them."""

import numpy as np
import torch

from vitctl.data.augmentation.frames import Frames, Ints
from vitctl.io.jpeg import decode_on_device, encode_jpeg
from vitctl.io.patch_file import Split


def cut_frames(split: Split, rows: Ints, frames: Frames) -> torch.Tensor:
    """uint8 [B, h, w, C], one image at a time."""
    stored = split.geometry.height, split.geometry.width
    divisors = frames.divisors(stored) if split.encoded else np.ones_like(rows)
    pieces = split.windows(rows, frames.windows(stored, divisors), divisors)
    out = np.empty((len(rows), *frames.res, split.geometry.channels), np.uint8)
    for index, pixels in enumerate(pieces):
        out[index] = frames.cut(index, torch.from_numpy(pixels)).numpy()
    return torch.from_numpy(out)


def cut_on_device(split: Split, rows: Ints, frames: Frames, device: torch.device) -> torch.Tensor:
    """The same from JPEGs that the device decodes. Its last bits may differ from the CPU's."""
    shape = split.geometry
    images = decode_on_device(split.read_jpegs(rows), shape.channels, device)
    windows = frames.windows((shape.height, shape.width), np.ones_like(rows)).tolist()
    cut = []
    for index, (image, window) in enumerate(zip(images, windows, strict=True)):
        top, left, height, width = window
        cut.append(frames.cut(index, image[:, top : top + height, left : left + width].permute(1, 2, 0)))
    return torch.stack(cut)


def can_decode(device: torch.device) -> bool:
    """Whether the device decodes JPEGs: CUDA, if torchvision was built with its decoder."""
    if device.type != "cuda":
        return False
    try:
        decode_on_device([encode_jpeg(np.zeros((16, 16, 3), np.uint8), 95)], 3, device)
    except (RuntimeError, AttributeError):
        return False
    return True
