"""What is cut out of whole images, in the coordinates of the originals.

An image is stored squashed. Its crop is either a window that is resized, as by torchvision's RandomResizedCrop, or a
window of the resized image, as by its Resize and CenterCrop. Both are in whole pixels, as there. Images are cut one by
one in the threads that read them, by torch's kernel for bytes: so a crop does not depend on the batch, and a JPEG may
be decoded at a fraction of its size where its window has pixels to spare.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vitctl.config.eval_crop import SHORT_SIDE, EvalCrop
from vitctl.data.augmentation.resampling import reflect
from vitctl.io.jpeg import SCALES

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Frames:
    window: Ints  # [B, 4]: top, left, height and width in the stored image
    size: Ints  # [B, 2]: height and width that the window is resized to
    start: Ints  # [B, 2]: top and left of the result in the resized window, beyond whose border pixels are reflected
    flip: np.ndarray[Any, np.dtype[np.bool_]]  # [B]
    res: tuple[int, int]  # height and width of the result
    filter: str = "bicubic"

    def divisors(self, stored: tuple[int, int]) -> Ints:
        """[B], by which a decoder may divide the stored size and leave the window as many pixels as are resized."""
        most = np.min(self.window[:, 2:] / self.size, axis=1)  # [B]
        fits = [scale for scale in (*SCALES, 1) if stored[0] % scale == 0 and stored[1] % scale == 0]
        return np.select([most >= scale for scale in fits], fits, 1)

    def windows(self, stored: tuple[int, int], divisors: Ints) -> Ints:
        """[B, 4]: the windows in images that are decoded at a fraction of their size, in whole pixels inside of it."""
        shape = np.array(stored) // divisors[:, None]
        begin, length = np.rint(self.window / divisors[:, None]).astype(np.int64).reshape(-1, 2, 2).swapaxes(0, 1)
        length = np.clip(length, 1, shape)
        return np.concatenate([np.clip(begin, 0, shape - length), length], axis=1)

    def cut(self, index: int, window: torch.Tensor) -> torch.Tensor:
        """uint8 [h, w, C] of the pixels of the window [H, W, C]."""
        image, size = window, (int(self.size[index, 0]), int(self.size[index, 1]))
        if size != tuple(window.shape[:2]):
            image = resize_bytes(window, size, self.filter)
        cropped = take_window(image, int(self.start[index, 0]), int(self.start[index, 1]), self.res)
        return cropped.flip(1) if self.flip[index] else cropped


def resize_bytes(image: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """uint8 [H, W, C] to [*size, C], antialiased. CUDA has no kernel for bytes."""
    batch = image.contiguous()[None].permute(0, 3, 1, 2)  # channels last: the fast path of the CPU's kernel
    if image.device.type == "cpu":
        return F.interpolate(batch, size=size, mode=mode, antialias=True)[0].permute(1, 2, 0)
    resized = F.interpolate(batch.float(), size=size, mode=mode, antialias=True)
    return resized.round().clamp(0, 255).byte()[0].permute(1, 2, 0)


def take_window(image: torch.Tensor, top: int, left: int, res: tuple[int, int]) -> torch.Tensor:
    """[*res, C] of [H, W, C]."""
    height, width = image.shape[:2]
    if top >= 0 and left >= 0 and top + res[0] <= height and left + res[1] <= width:
        return image[top : top + res[0], left : left + res[1]]
    rows, columns = (
        torch.from_numpy(reflect(np.arange(start, start + out), side)).to(image.device)
        for start, out, side in ((top, res[0], height), (left, res[1], width))
    )
    return image[rows][:, columns]


def frame_boxes(boxes: np.ndarray[Any, Any], sizes: Ints, stored: tuple[int, int]) -> Ints:
    """int64 [B, 4]: boxes (top, left, height, width) in originals of `sizes` [B, 2], as pixels of the stored images."""
    scale = np.array(stored) / sizes  # [B, 2]
    length = np.clip(np.rint(boxes[:, 2:] * scale), 1, stored)
    begin = np.clip(np.rint(boxes[:, :2] * scale), 0, stored - length)
    return np.concatenate([begin, length], axis=1).astype(np.int64)


def frame_whole(sizes: Ints, stored: tuple[int, int]) -> Ints:
    """The windows [B, 4] of whole images."""
    return np.tile(np.array([0, 0, *stored]), (len(sizes), 1))


def resize_short_side(sizes: Ints, least: tuple[int, int]) -> Ints:
    """int64 [B, 2]: `sizes` [B, 2] scaled so that both sides reach `least` and one equals it, rounded as torchvision
    does."""
    by_height = sizes[:, 0] * least[1] <= sizes[:, 1] * least[0]  # [B], whether the height decides
    height = np.where(by_height, least[0], np.maximum(least[1] * sizes[:, 0] // sizes[:, 1], least[0]))
    width = np.where(by_height, np.maximum(least[0] * sizes[:, 1] // sizes[:, 0], least[1]), least[1])
    return np.stack([height, width], axis=1)


def resize_for_center(sizes: Ints, res: tuple[int, int], crop: EvalCrop) -> Ints:
    """int64 [B, 2]: what images of `sizes` [B, 2] are resized to before their centers are taken."""
    outer = crop.outer_size(*res)
    return resize_short_side(sizes, outer) if crop.fit == "crop" else np.tile(np.array(outer), (len(sizes), 1))


def centers_of(sizes: Ints, res: tuple[int, int], crop: EvalCrop = SHORT_SIDE) -> Ints:
    """int64 [..., 2]: top and left of the centers of images of `sizes` [..., 2], rounded as torchvision does."""
    starts: Ints = np.rint((sizes - np.array(res)) / 2).astype(np.int64)
    return starts - centers_of(np.array(crop.outer_size(*res)), res) if crop.border else starts


def frame_centers(sizes: Ints, stored: tuple[int, int], res: tuple[int, int], crop: EvalCrop = SHORT_SIDE) -> Frames:
    """The centers of images, for an evaluation. There is no border to pad, so that those are cropped."""
    crop = replace(crop, fit="crop") if crop.fit == "pad" else crop
    resized = resize_for_center(sizes, res, crop)
    start, out = centers_of(resized, res, crop), crop.result_size(*res)
    return Frames(frame_whole(sizes, stored), resized, start, np.zeros(len(sizes), bool), out, crop.filter)
