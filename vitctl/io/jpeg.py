"""JPEG rows of a patch file: encoded by Pillow at the stored size, decoded by torchvision, or by Pillow at a fraction.

Both decoders release the interpreter lock, so that threads decode in parallel.
"""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

SCALES = (8, 4, 2)  # divisors of the size at which libjpeg decodes without computing the rest
CHROMA_444 = 0  # Pillow's word for colors at full resolution


def encode_jpeg(pixels: np.ndarray[Any, Any], quality: int) -> bytes:
    """uint8 [H, W, C] to a JPEG whose colors are not subsampled."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality, subsampling=CHROMA_444, optimize=True)
    return content.getvalue()


def decode_jpeg(content: Any, channels: int) -> np.ndarray[Any, Any]:
    """The bytes of a JPEG to uint8 [H, W, C]. Raises RuntimeError or OSError if it is damaged."""
    import torch

    decode = jpeg_operator()
    if decode is None:
        return decode_scaled(content, channels, 1)
    pixels = decode(torch.frombuffer(bytearray(content), dtype=torch.uint8), channels)  # [C, H, W]
    return np.asarray(pixels.permute(1, 2, 0).numpy())


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
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
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
