"""A contact sheet of images with what a model says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vitctl.inspection.lettering import INK, LINE, PAPER, QUIET, fit_text, font
from vitctl.io.atomic import atomic_write
from vitctl.reporting import printable_text

RIGHT, WRONG = (43, 138, 62), (194, 51, 38)
CELL, GAP, MARGIN, TOP, CAPTION, FRAME = 168, 22, 36, 100, 46, 4
COLUMNS = 8


@dataclass(frozen=True)
class Verdict:
    pixels: np.ndarray[Any, Any]  # uint8 [H, W, C]
    answer: str
    probability: float
    label: str | None  # what it is, where that is known

    @property
    def color(self) -> tuple[int, int, int]:
        return INK if self.label is None else RIGHT if self.label == self.answer else WRONG


def draw_predictions(verdicts: Sequence[Verdict], path: Path, title: str, subtitle: str) -> None:
    title, subtitle = printable_text(title), printable_text(subtitle)
    height, width = verdicts[0].pixels.shape[:2]
    scale = CELL / max(height, width)
    size = (round(width * scale), round(height * scale))
    columns = min(COLUMNS, len(verdicts))
    rows = -(-len(verdicts) // columns)
    wide = max(columns * (size[0] + GAP) - GAP, int(font(24, True).getlength(title)),
               int(font(15).getlength(subtitle)))  # fmt: skip
    sheet = Image.new("RGB", (wide + 2 * MARGIN, TOP + rows * (size[1] + CAPTION + GAP) + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 10), title, INK, font(24, True))
    pen.text((MARGIN, MARGIN + 24), subtitle, QUIET, font(15))
    for number, verdict in enumerate(verdicts):
        row, column = divmod(number, columns)
        paste_verdict(
            sheet, pen, verdict, (MARGIN + column * (size[0] + GAP), TOP + row * (size[1] + CAPTION + GAP)), size
        )
    with atomic_write(path) as aside:
        sheet.save(aside, format="png")


def paste_verdict(sheet: Any, pen: Any, verdict: Verdict, place: tuple[int, int], size: tuple[int, int]) -> None:
    (x, y), (width, height) = place, size
    known = verdict.label is not None
    if known:
        pen.rectangle((x - FRAME, y - FRAME, x + width + FRAME - 1, y + height + FRAME - 1), verdict.color)
    sheet.paste(enlarge_small_image(verdict.pixels, size), place)
    if not known:
        pen.rectangle((x - 1, y - 1, x + width, y + height), outline=LINE)
    share = f"{verdict.probability:.0%}"
    room = width - font(14).getlength(share) - 8
    below = y + height + FRAME + 6
    pen.text((x, below), fit_text(printable_text(verdict.answer), room, 14, True), verdict.color, font(14, True))
    pen.text((x + width, below), share, QUIET, font(14), anchor="ra")
    if known and verdict.label != verdict.answer:
        told = fit_text(f"is {printable_text(verdict.label or '')}", width, 13)
        pen.text((x, below + 18), told, QUIET, font(13))


def enlarge_small_image(picture: np.ndarray[Any, Any], size: tuple[int, int]) -> Image.Image:
    """Small images grow by whole pixels' shapes, so that they stay what they are."""
    plain = picture if picture.shape[-1] == 3 else picture[..., :1].repeat(3, -1)
    grows = size[0] > picture.shape[1]
    way = Image.Resampling.NEAREST if grows and picture.shape[1] < 64 else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(plain)).resize(size, way)
