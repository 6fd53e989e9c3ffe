"""Letters on images, and the colors of a page of them."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

INK, QUIET, PAPER, LINE = (24, 26, 30), (112, 118, 128), (255, 255, 255), (226, 229, 233)


@lru_cache(maxsize=32)
def font(points: int, bold: bool = False) -> Any:
    """DejaVu Sans, which matplotlib brings along: it has the letters of most alphabets."""
    from PIL import ImageFont

    found = find_spec("matplotlib")
    folder = Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else Path()
    path = folder / "mpl-data" / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    try:
        return ImageFont.truetype(str(path), points)
    except OSError:
        return ImageFont.load_default(points)


def fit_text(text: str, width: float, points: int, bold: bool = False) -> str:
    """As much of a text as fits into so many pixels, with … for what is left out of its middle."""
    letters = font(points, bold)
    if letters.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if letters.getlength(short) <= width:
            return short
    return "…"
