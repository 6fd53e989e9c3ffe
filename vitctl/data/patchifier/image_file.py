"""Which files are pictures: the one list of formats that are opened, the same on every machine."""

from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image

# Of all that Pillow knows: none that runs a program (EPS does), or needs a plugin. TGA comes last: it has no magic.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "PCX", "TGA",
)  # fmt: skip
PROGRAMS = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # how PostScript starts
NO_PICTURE = "not a picture, or of a kind that is not read"


def open_image(source: BinaryIO | Path) -> Image.Image:
    """By Pillow, which reads its header; an error of Pillow's if it is in none of the formats."""
    return Image.open(source, formats=readable_formats())


@cache
def readable_formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
