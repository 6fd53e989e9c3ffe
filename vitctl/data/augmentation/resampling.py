"""Crops, flips and resizes a whole batch by two matrix products, one along each side. Blurs with other weights.

The weights are multiples of 2^-15 that sum to one, and the pixels are bytes, also after the first product. So every sum
is exact in float32, in whatever order a device adds, and a sample is the same, bit for bit, in every batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

ONE = 2**15  # the unit of the weights: 9 bits of sum and 15 of fraction fill the 24 of a float32


@dataclass(frozen=True)
class Axis:
    """Where the centers of the output pixels lie along one side of the input, and how far apart they are."""

    centers: np.ndarray  # float64 [B, out], in pixels: the center of the first pixel is 0.5
    pace: np.ndarray  # float64 [B]: above 1 the image shrinks

    @classmethod
    def box(cls, start: np.ndarray, length: np.ndarray, out: int) -> "Axis":
        """`out` pixels from `start` over `length`, both float64 [B]."""
        pace = length / out
        return cls(start[:, None] + (np.arange(out) + 0.5) * pace[:, None], pace)

    @classmethod
    def pick(cls, pixels: np.ndarray, pace: np.ndarray) -> "Axis":
        """The pixels with the numbers `pixels`, int64 [B, out], of the whole image resized to `pace`."""
        return cls((pixels + 0.5) * pace[:, None], pace)

    def flip(self, flags: np.ndarray) -> "Axis":
        return Axis(np.where(flags[:, None], self.centers[:, ::-1], self.centers), self.pace)


@dataclass(frozen=True)
class Taps:
    """Each output pixel as a weighted sum of a few input pixels."""

    pixels: np.ndarray  # int64 [B, out, T]
    weights: np.ndarray  # float32 [B, out, T]

    def window(self, part: slice) -> tuple[int, int]:
        """The range of input pixels that this part of the batch needs."""
        return int(self.pixels[part].min()), int(self.pixels[part].max()) + 1

    def matrix(self, part: slice, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """float32 [n, out, stop - start]"""
        pixels, weights = to_device(self.pixels[part] - start, device), to_device(self.weights[part], device)
        return weights.new_zeros(*pixels.shape[:2], stop - start).scatter_add_(2, pixels, weights)


def triangle(distance: np.ndarray) -> np.ndarray:
    d = np.abs(distance)
    return np.where(d < 1.0, 1.0 - d, 0.0)


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -0.5."""
    d = np.abs(distance)
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    return np.where(d < 1.0, near, np.where(d < 2.0, far, 0.0))


FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {  # the kernel and its radius
    "bilinear": (triangle, 1.0),
    "bicubic": (cubic, 2.0),
}


def resample(images: torch.Tensor, rows: Axis, columns: Axis, name: str) -> torch.Tensor:
    """uint8 [B, C, H, W] -> uint8 [B, C, h, w], antialiased. Pixels outside of the image have no weight."""
    height, width = images.shape[-2:]
    return weigh(images, resize_taps(rows, height, name), resize_taps(columns, width, name))


def blur(images: torch.Tensor, sigmas: np.ndarray) -> torch.Tensor:
    """Gaussian blur of uint8 [B, C, H, W], sigmas [B] in pixels, over a reflected border."""
    height, width = images.shape[-2:]
    return weigh(images, blur_taps(sigmas, height), blur_taps(sigmas, width))


def resize_taps(axis: Axis, size: int, name: str) -> Taps:
    kernel, reach = FILTERS[name]
    scale = np.maximum(axis.pace, 1.0)[:, None, None]  # shrinking widens the filter, against aliasing
    first = np.floor(axis.centers[:, :, None] - reach * scale + 0.5)  # [B, out, 1]
    span = np.arange(int(np.ceil(2 * reach * scale.max(initial=1.0))) + 1)
    pixels = first + span  # [B, out, T]
    weights = kernel((pixels + 0.5 - axis.centers[:, :, None]) / scale) * ((pixels >= 0) & (pixels < size))
    return Taps(np.clip(pixels, 0, size - 1).astype(np.int64), round_weights(weights))


def blur_taps(sigmas: np.ndarray, size: int) -> Taps:
    radius = int(np.ceil(3 * sigmas.max(initial=0.0)))
    offsets = np.arange(-radius, radius + 1)
    pixels = reflect(np.arange(size)[:, None] + offsets, size)  # [size, T]
    spread = sigmas[:, None, None]  # [B, 1, 1]
    weights = np.exp(-0.5 * (offsets / spread) ** 2) * (np.abs(offsets) <= np.ceil(3 * spread))  # [B, 1, T]
    shape = (len(sigmas), size, len(offsets))
    return Taps(np.broadcast_to(pixels, shape).copy(), np.broadcast_to(round_weights(weights), shape).copy())


def reflect(pixels: np.ndarray, size: int) -> np.ndarray:
    """Maps pixels outside of the image to their reflections; the border pixel itself is not repeated."""
    period = max(2 * size - 2, 1)
    folded = pixels % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(pixels)


def round_weights(weights: np.ndarray) -> np.ndarray:
    """Rounds weights [.., T] to float32 multiples of 1 / ONE that sum to one, so that a flat image stays flat."""
    fine = np.rint(weights * 2.0**40)  # integers: their sum does not depend on the order, or on zeros
    whole = np.rint(fine / fine.sum(-1, keepdims=True) * ONE)
    largest = whole.argmax(-1)[..., None]
    missing = ONE - whole.sum(-1, keepdims=True)
    np.put_along_axis(whole, largest, np.take_along_axis(whole, largest, -1) + missing, -1)
    rounded: np.ndarray = (whole / ONE).astype(np.float32)
    return rounded


def weigh(images: torch.Tensor, down: Taps, across: Taps) -> torch.Tensor:
    """The two products: uint8 [B, C, H, W] -> uint8 [B, C, h, w]."""
    result = images.new_empty(*images.shape[:2], down.pixels.shape[1], across.pixels.shape[1])
    with full_precision(images.device.type):
        for part in portions(images, len(images)):
            result[part] = weigh_portion(images[part], down, across, part)
    return result


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Turns off bfloat16 autocast and TF32, regardless of the training's settings: the products must be exact."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copies to the device without waiting for it."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def portions(images: torch.Tensor, count: int) -> list[slice]:
    """Slices of `count` images whose float copies fit into a core's cache, or into 256 MiB of an accelerator."""
    budget = 2**17 if images.device.type == "cpu" else 2**26  # floats
    step = max(1, budget // max(1, images[:1].numel()))
    return [slice(start, start + step) for start in range(0, count, step)]


def weigh_portion(images: torch.Tensor, down: Taps, across: Taps, part: slice) -> torch.Tensor:
    top, bottom = down.window(part)
    left, right = across.window(part)
    pixels = images[:, :, top:bottom, left:right].contiguous().float()  # [n, C, H', W']
    wide = pixels.flatten(1, 2) @ across.matrix(part, left, right, images.device).mT  # [n, C*H', w]
    wide = wide.add_(0.5).clamp_(0, 255).floor_().view(*pixels.shape[:3], -1)  # bytes again, [n, C, H', w]
    tall = torch.matmul(down.matrix(part, top, bottom, images.device)[:, None], wide)  # [n, C, h, w]
    return tall.add_(0.5).clamp_(0, 255).to(torch.uint8)
