"""Which files are images: the one list of formats that are opened, the same on every machine."""

import io
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from vitctl.data.sources.files import LARGE, LARGEST, LargeFile
from vitctl.errors import DataError

# Of all that Pillow knows: none that runs a program (EPS does), or needs a plugin. TGA comes last: it has no magic.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "PCX", "TGA",
)  # fmt: skip
PROGRAMS = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # how PostScript starts
ENDLESS = (b"II", b"MM", b"RIFF", b"GIF8")  # whose size is told elsewhere than at the beginning, or that may be films
PIXEL = 8  # bytes that one takes in a file, at most: four channels of 16 bits
NO_IMAGE = "not an image, or of a kind that is not read"


def open_image(source: BinaryIO | Path) -> Image.Image:
    """By Pillow, which reads its header; an error of Pillow's if it is in none of the formats."""
    return Image.open(source, formats=readable_formats())


@cache
def readable_formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class QuietImageFile:
    """While any thread decodes, Pillow makes no remarks on odd EXIF and palettes; what matters raises.

    Nor does it check for bombs itself: our check counts alike for every format, and can be set.
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
    """Bytes or pixels as they are; of a large file the rest of the bytes, if its head is that of such an image."""
    if not isinstance(content, LargeFile):
        return content
    head = content.read(LARGE)
    return content.whole(max_file_bytes(bytes(head), max_pixels), head)


def max_file_bytes(head: bytes, max_pixels: int) -> int:
    """How many bytes a file can have that begins so."""
    if head.startswith(ENDLESS) or head[4:8] == b"ftyp":
        return min(LARGE + PIXEL * max_pixels, LARGEST)
    try:
        with PILLOW, open_image(io.BytesIO(head)) as picture:
            size = picture.size
    except Exception as error:  # as in decode
        raise DataError(f"{NO_IMAGE}, and of more than {LARGE >> 20} MB") from error
    check_pixels(size, max_pixels)
    return min(LARGE + PIXEL * size[0] * size[1], LARGEST)
