"""JPEG rows of a patch file: encoded by Pillow at the stored size, decoded by torchvision, or by Pillow at a fraction.

Both decoders release the interpreter lock, so that threads decode in parallel.
"""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitctl.io.jpeg_tiles import Window, cut_tiles, tile_blocks

if TYPE_CHECKING:
    import torch

SCALES = (8, 4, 2)  # divisors of the size at which libjpeg decodes without computing the rest
CHROMA_444 = 0  # Pillow's word for colors at full resolution


def encode_jpeg(pixels: np.ndarray[Any, Any], quality: int) -> bytes:
    """uint8 [H, W, C] to a JPEG whose colors are not subsampled."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    content = io.BytesIO()
    tiles = tile_blocks(image.width)  # the pixels are the same; see jpeg_tiles
    image.save(content, "JPEG", quality=quality, subsampling=CHROMA_444, optimize=True, restart_marker_blocks=tiles)
    return content.getvalue()


def decode_jpeg(content: Any, channels: int) -> np.ndarray[Any, Any]:
    """The bytes of a JPEG to uint8 [H, W, C]. Raises RuntimeError or OSError if it is damaged."""
    import torch

    decode = jpeg_operator()
    if decode is None:
        return decode_scaled(content, channels, 1)
    pixels = decode(torch.frombuffer(bytearray(content), dtype=torch.uint8), channels)  # [C, H, W]
    return np.asarray(pixels.permute(1, 2, 0).numpy())


def decode_window(content: Any, shape: tuple[int, int, int], window: Window, divisor: int = 1) -> np.ndarray[Any, Any]:
    """uint8 [h, w, C]: this window of a JPEG that decodes to `shape` at a fraction of its size; a view of more."""
    top, left, height, width = window
    cut = cut_tiles(content, window) if divisor == 1 else None
    if cut is None:
        pixels = decode_scaled(content, shape[2], divisor) if divisor > 1 else decode_jpeg(content, shape[2])
        return check_decoded(pixels, shape)[top : top + height, left : left + width]
    tiles, (above, before, *size) = cut
    pixels = check_decoded(decode_jpeg(tiles, shape[2]), (size[0], size[1], shape[2]))
    return pixels[top - above : top - above + height, left - before : left - before + width]


def decode_on_device(contents: "Sequence[Any]", channels: int, device: "torch.device") -> "list[torch.Tensor]":
    """Several JPEGs to uint8 [C, H, W] each, on a device: CUDA has a decoder of its own in torchvision."""
    import torch

    encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    decode = jpeg_operator()
    if decode is None:
        raise AttributeError("torchvision has no JPEG decoder")
    if device.type == "cuda":
        return list(torch.ops.image.decode_jpegs_cuda(encoded, channels, device))
    return [decode(each, channels) for each in encoded]


def decode_scaled(content: Any, channels: int, divisor: int) -> np.ndarray[Any, Any]:
    """The same at a fraction of the size, which takes less time than decoding it all and shrinking it."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        if divisor > 1:
            image.draft(None, (image.width // divisor, image.height // divisor))
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))  # a copy that may be written to
    return pixels.reshape(*pixels.shape[:2], channels)


def divisor_for(size: tuple[int, int], least: tuple[int, int]) -> int:
    """The largest divisor that leaves at least `least` of `size` (height, width) and no fraction of a pixel."""
    return next(
        (
            each
            for each in SCALES
            if all(side % each == 0 and side // each >= enough for side, enough in zip(size, least, strict=True))
        ),
        1,
    )


def jpeg_operator() -> "Callable[[torch.Tensor, int], torch.Tensor] | None":
    """torchvision's operator, without its deprecated wrapper. None if this release does not have it."""
    import torch

    try:
        import torchvision.io  # noqa: F401 - registers the operator

        return torch.ops.image.decode_jpeg
    except (ImportError, AttributeError):
        return None


def check_decoded(pixels: np.ndarray[Any, Any], shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    if pixels.shape != shape:
        raise OSError(f"decodes to {pixels.shape}, not to {shape}")
    return pixels
