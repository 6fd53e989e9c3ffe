"""Contact sheets: images in rows with a label each, to be looked at by a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vitctl.inspection.lettering import INK, LINE, PAPER, QUIET, font
from vitctl.reporting import printable_text

Pictures = Sequence[np.ndarray[Any, Any]]  # uint8 [H, W, C] each

CELL = 144  # pixels of an image's longer side, at least
GAP, MARGIN = 8, 36


@dataclass(frozen=True)
class SheetRow:
    label: str
    detail: str  # under the label, in gray
    pictures: Pictures


def draw_sheet(title: str, subtitle: str, rows: Sequence[SheetRow]) -> Image.Image:
    """One row of images a label, on white, with the title above."""
    first = rows[0].pictures[0]
    scale = max(1, CELL // max(first.shape[:2]))  # small images grow by whole pixels, so that they stay what they are
    height, width = first.shape[0] * scale, first.shape[1] * scale
    if not scale > 1 and max(height, width) > 2 * CELL:
        height, width = round(height * 2 * CELL / max(first.shape[:2])), round(width * 2 * CELL / max(first.shape[:2]))
    columns = max(len(row.pictures) for row in rows)
    gutter = max([0, *(label_width(row) for row in rows)])
    top = MARGIN + 72
    canvas = Image.new(
        "RGB", (2 * MARGIN + gutter + columns * (width + GAP) - GAP, top + len(rows) * (height + GAP) + MARGIN), PAPER
    )
    canvas = widen(canvas, title, subtitle)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN - 8), title, INK, font(26, bold=True))
    pen.text((MARGIN, MARGIN + 28), subtitle, QUIET, font(16))
    pen.line((MARGIN, top - 14, canvas.width - MARGIN, top - 14), LINE, 1)
    for number, row in enumerate(rows):
        y = top + number * (height + GAP)
        write_label(pen, row, y, height)
        for column, picture in enumerate(row.pictures):
            cell = sheet_image(picture).resize(
                (width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            )
            x = MARGIN + gutter + column * (width + GAP)
            canvas.paste(cell, (x, y))
            pen.rectangle((x - 1, y - 1, x + width, y + height), outline=LINE)  # images on white need an edge
    return canvas


def widen(canvas: Image.Image, title: str, subtitle: str) -> Image.Image:
    needed = int(max(font(26, bold=True).getlength(title), font(16).getlength(subtitle))) + 2 * MARGIN
    return canvas if canvas.width >= needed else Image.new("RGB", (needed, canvas.height), PAPER)


def label_width(row: SheetRow) -> int:
    wide = max(font(18, bold=True).getlength(shorten_label(row.label)), font(14).getlength(row.detail))
    return int(wide) + 20 if wide else 0


def write_label(pen: ImageDraw.ImageDraw, row: SheetRow, y: int, height: int) -> None:
    if row.label:
        pen.text((MARGIN, y + height // 2 - 2), shorten_label(row.label), INK, font(18, bold=True), anchor="ls")
    if row.detail:
        pen.text((MARGIN, y + height // 2 + 6), row.detail, QUIET, font(14), anchor="la")


def shorten_label(label: str) -> str:
    label = printable_text(label)
    return label if len(label) <= 28 else f"{label[:16]}…{label[-11:]}"


def sheet_image(picture: np.ndarray[Any, Any]) -> Image.Image:
    gray = picture.shape[2] == 1
    return Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if gray else picture)).convert("RGB")
