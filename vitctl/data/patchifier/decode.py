"""Decodes one image to uint8 [H, W, C] at the target size.

Most JPEGs go through torchvision's decoder, which is faster, and everything else through Pillow. All are resized by the
same antialiased bicubic kernel on bytes. The JPEG decoder itself reduces photos of more than twice the target size to a
half, a quarter or an eighth.
"""

import io
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from vitctl.config.eval_crop import SHORT_SIDE, EvalCrop
from vitctl.data.augmentation.frames import centers_of, resize_for_center
from vitctl.data.patchifier.image_file import (
    NO_IMAGE,
    ORIENTATION,
    PILLOW,
    PROGRAMS,
    check_pixels,
    open_image,
    orientation_of,
    plain_jpeg_format,
)
from vitctl.errors import DataError
from vitctl.io.jpeg import decode_jpeg, jpeg_operator
from vitctl.machine import C_STDERR


@dataclass(frozen=True)
class Target:
    """The image to produce."""

    height: int
    width: int
    channels: int
    fit: str = "crop"
    draft: bool = True
    max_pixels: int = 89_478_485
    center: EvalCrop | None = None  # in place of `fit`: resized before it is cropped, as torchvision does
    filter: str = "bicubic"


def decode(content: bytes | np.ndarray[Any, Any], target: Target) -> np.ndarray[Any, Any]:
    """Encoded bytes, or pixels uint8 [h, w] or [h, w, c], to uint8 [H, W, C]. Raises DataError with the reason."""
    if isinstance(content, np.ndarray):
        return fit(convert_channels(content, target.channels), target)
    if not content:
        raise DataError("empty file")
    if content.startswith(PROGRAMS):
        raise DataError("PostScript is a program, not an image; save it as PNG")
    try:
        with C_STDERR:
            return decode_bytes(content, target)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything on broken input, and every such image is a reject
        raise DataError(explain_reject(error)) from error


def decode_bytes(content: bytes, target: Target) -> np.ndarray[Any, Any]:
    plain = plain_jpeg_format(content)
    size = plain and plain[:2]
    if size and HAS_JPEG and not is_large(size, target):
        check_pixels(size, target.max_pixels)
        return fit(decode_jpeg(content, target.channels), target)
    with PILLOW:
        return decode_by_pillow(content, target)


def decode_by_pillow(content: bytes, target: Target) -> np.ndarray[Any, Any]:
    """Opens the image with Pillow; torchvision still decodes a JPEG if it can."""
    with open_image(io.BytesIO(content)) as image:
        check_pixels(image.size, target.max_pixels)
        jpeg = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
        if jpeg and is_large(image.size, target):
            return decode_reduced(image, target)
        rotated = orientation_of(image) not in (0, 1)
        if jpeg and HAS_JPEG and not rotated:
            return fit(decode_jpeg(content, target.channels), target)
        upright = ImageOps.exif_transpose(image) if rotated else image
        return fit(convert_channels(flatten(upright), target.channels), target)


def is_large(size: tuple[int, int], target: Target) -> bool:
    """Whether the decoder may halve a JPEG and still leave more pixels than the target."""
    (height, width), fits = (target.height, target.width), target.fit
    if target.center:
        (height, width), fits = size_before_center(size[1], size[0], target), target.center.fit
    return target.draft and fits in ("crop", "whole") and size[0] > 2 * width and size[1] > 2 * height


def decode_reduced(image: Image.Image, target: Target) -> np.ndarray[Any, Any]:
    """A large JPEG: the decoder halves it for as long as it stays over twice the target, then Pillow resizes it.

    The reduced size is rounded up. `draft` returns the box that the image fills in it, with fractions of a pixel, and
    the crop is computed in that box; otherwise the result would be shifted.
    """
    width, height = image.size
    mode = "L" if target.channels == 1 else "RGB"
    orientation = orientation_of(image)
    turned = replace(target, height=target.width, width=target.height) if orientation in (5, 6, 7, 8) else target
    size = turned.width, turned.height
    whole = 0, 0, width, height
    if target.center:
        size = size_before_center(height, width, turned)[::-1]
    is_cut = target.fit == "crop" and not target.center
    left, top, crop_width, crop_height = crop_box(width, height, *size) if is_cut else whole
    reduced = image.draft(mode, (2 * width * size[0] // crop_width, 2 * height * size[1] // crop_height))
    box = reduced[1] if reduced else whole
    image.load()
    x, y = (box[2] - box[0]) / width, (box[3] - box[1]) / height
    right, bottom = min((left + crop_width) * x, image.width), min((top + crop_height) * y, image.height)
    kernel = Image.Resampling[(target.center or target).filter.upper()]
    small = image.convert(mode).resize(size, kernel, box=(left * x, top * y, right, bottom))
    if orientation not in (0, 1):
        small.getexif()[ORIENTATION] = orientation
        small = ImageOps.exif_transpose(small)
    pixels = np.asarray(small).reshape(small.height, small.width, target.channels)
    return take_middle(pixels, target, target.center) if target.center else pixels


def flatten(image: Image.Image) -> np.ndarray[Any, Any]:
    """Any Pillow mode to uint8 [H, W] or [H, W, 3]. Transparency becomes white, and 16-bit gray its high byte."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    if image.mode == "I":
        values = np.asarray(image)  # int32, as Pillow reads some 16-bit files
        if values.min() < 0 or values.max() > 65535:
            raise DataError("32-bit pixels have no known range; save the image with 8 or 16 bits")
        return (values >> 8).astype(np.uint8)
    if image.mode == "F":
        raise DataError("floating-point pixels have no known range; save the image with 8 or 16 bits")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    gray = image.mode in ("1", "L")
    return np.asarray(image.convert("L" if gray else "RGB"))


def convert_channels(pixels: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any]:
    """uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] to [H, W, C]; color to gray by the ITU-R 601 luma."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 4:
        return convert_channels(flatten(Image.fromarray(np.ascontiguousarray(pixels))), channels)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[:, :, None]


def fit(pixels: np.ndarray[Any, Any], target: Target) -> np.ndarray[Any, Any]:
    """uint8 [h, w, C] to [H, W, C]: a centered crop with its aspect ratio, or the whole image, squashed or padded."""
    height, width = pixels.shape[:2]
    if center := target.center:
        fits, (high, wide) = "pad" if center.fit == "pad" else "squash", size_before_center(height, width, target)
        resized = fit(pixels, Target(high, wide, target.channels, fits, filter=center.filter))
        return take_middle(resized, target, center)
    if target.fit in ("squash", "whole") or (height, width) == (target.height, target.width):
        return resize(pixels, target.height, target.width, target.filter)
    if target.fit == "crop":
        left, top, crop_width, crop_height = crop_box(width, height, target.width, target.height)
        crop = pixels[top : top + crop_height, left : left + crop_width]
        return resize(crop, target.height, target.width, target.filter)
    scale = min(target.height / height, target.width / width)
    inner_height = min(target.height, max(1, round(height * scale)))
    inner_width = min(target.width, max(1, round(width * scale)))
    top, left = (target.height - inner_height) // 2, (target.width - inner_width) // 2
    padded = np.full((target.height, target.width, pixels.shape[2]), 255, np.uint8)
    inner = resize(pixels, inner_height, inner_width, target.filter)
    padded[top : top + inner_height, left : left + inner_width] = inner
    return padded


def size_before_center(height: int, width: int, target: Target) -> tuple[int, int]:
    """What an image of this size is resized to before its center is taken."""
    sizes, res = np.array([[height, width]]), (target.height, target.width)
    high, wide = resize_for_center(sizes, res, target.center or SHORT_SIDE)[0].tolist()
    return high, wide


def take_middle(pixels: np.ndarray[Any, Any], target: Target, crop: EvalCrop) -> np.ndarray[Any, Any]:
    height, width = crop.result_size(target.height, target.width)
    top, left = centers_of(np.array(pixels.shape[:2]), (target.height, target.width), crop).tolist()
    return pixels[top : top + height, left : left + width]


def crop_box(width: int, height: int, target_width: int, target_height: int) -> tuple[int, int, int, int]:
    """left, top, width, height of the largest centered box with the target's shape."""
    if width * target_height > height * target_width:
        crop = max(1, round(height * target_width / target_height))
        return (width - crop) // 2, 0, crop, height
    crop = max(1, round(width * target_height / target_width))
    return 0, (height - crop) // 2, width, crop


def resize(pixels: np.ndarray[Any, Any], height: int, width: int, mode: str = "bicubic") -> np.ndarray[Any, Any]:
    """uint8 [h, w, C] to [height, width, C], antialiased, on bytes."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if not pixels.flags.writeable:
        pixels = pixels.copy()  # torch warns when it wraps read-only memory
    batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # [1, C, h, w], channels last: its fast path
    return F.interpolate(batch, size=(height, width), mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()


def explain_reject(error: Exception) -> str:
    """One line for the list of rejects, the same on every run: without addresses and paths."""
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "it", " ".join(str(error).split()))
    text = re.sub(r"^decode_jpeg, \S+, ", "damaged JPEG: ", text)
    if "truncated" in text.lower():
        return "truncated file"
    if "cannot identify image file" in text:
        return NO_IMAGE
    if isinstance(error, OSError) and error.errno:
        return error.strerror or type(error).__name__
    return (text or type(error).__name__)[:200]


HAS_JPEG = jpeg_operator() is not None
