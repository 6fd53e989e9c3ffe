"""Opens image files. One list of formats decides what is an image, the same on every machine."""

import io
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from vitctl.data.sources.files import LARGE, LARGEST, LargeFile
from vitctl.errors import DataError

# Formats of Pillow that run a program (EPS) or need a plugin are excluded. TGA is last: it has no signature.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "PCX", "TGA",
)  # fmt: skip
PROGRAMS = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # signatures of PostScript
ENDLESS = (b"II", b"MM", b"RIFF", b"GIF8")  # formats that may store their size far from the start, or many frames
PIXEL = 8  # bytes per pixel in a file, at most: four channels of 16 bits
ORIENTATION = 0x0112  # EXIF tag
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers of a frame, which holds the size
NO_IMAGE = "not an image, or in an unsupported format"


def open_image(source: BinaryIO | Path) -> Image.Image:
    """Reads the header with Pillow. Raises Pillow's error if the format is not in FORMATS."""
    return Image.open(source, formats=readable_formats())


@cache
def readable_formats() -> tuple[str, ...]:
    """The FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class QuietImageFile:
    """Silences Pillow while any thread decodes: its warnings about EXIF and palettes, and its limit on pixels.

    `check_pixels` replaces that limit, because it is the same for every format and can be set.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.warnings = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                self.warnings = warnings.catch_warnings()
                self.warnings.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.warnings.__exit__(None, None, None)
                Image.MAX_IMAGE_PIXELS = self.limit


PILLOW = QuietImageFile()


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise DataError(f"decompression bomb: {width}x{height} pixels, over max_pixels={max_pixels}")
    if width < 1 or height < 1:
        raise DataError(f"no pixels: {width}x{height}")


def read_whole(content: Any, max_pixels: int) -> Any:
    """Bytes or pixels as they are. A large file is read to its end only if its first bytes fit such a large image."""
    if not isinstance(content, LargeFile):
        return content
    head = content.read(LARGE)
    return content.whole(max_file_bytes(bytes(head), max_pixels), head)


def max_file_bytes(head: bytes, max_pixels: int) -> int:
    """The largest possible size of an image file that starts with `head`."""
    if head.startswith(ENDLESS) or head[4:8] == b"ftyp":
        return min(LARGE + PIXEL * max_pixels, LARGEST)
    try:
        with PILLOW, open_image(io.BytesIO(head)) as image:
            size = image.size
    except Exception as error:  # decoders raise anything on broken input
        raise DataError(f"{NO_IMAGE}, and larger than {LARGE >> 20} MB") from error
    check_pixels(size, max_pixels)
    return min(LARGE + PIXEL * size[0] * size[1], LARGEST)


def plain_jpeg_format(content: bytes) -> tuple[int, int, int] | None:
    """Width, height and channels of a gray or color JPEG without EXIF, from its markers. None: ask Pillow, which is
    slower."""
    at = 2
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        if marker in FRAMES:
            height, width = int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
            return (width, height, content[at + 9]) if content[at + 9] in (1, 3) else None
        if content[at + 4 : at + 8] == b"Exif" or not 0xC0 <= marker <= 0xFE or marker == 0xDA:
            return None
        at += 2 + length
    return None


def orientation_of(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the pixels may be fine although the EXIF is broken
        return 1


def read_size(content: Any) -> tuple[int, int]:
    """Height and width of an image as it is shown, from its header. Raises whatever a decoder raises."""
    if isinstance(content, np.ndarray):
        return int(content.shape[0]), int(content.shape[1])
    plain = plain_jpeg_format(content)
    size = plain and plain[:2]
    if size is None:
        with PILLOW, open_image(io.BytesIO(content)) as image:
            size = image.size if orientation_of(image) < 5 else image.size[::-1]  # 5 to 8 lie on their side
    return size[1], size[0]
