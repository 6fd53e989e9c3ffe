"""Attention rollout (Abnar and Zuidema), and the last layer's heads, over the images: Figure 6 and appendix D.8."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from vitctl.inspection.lettering import INK, PAPER, QUIET, fit_text, font
from vitctl.io.atomic import atomic_write
from vitctl.reporting import printable_text

Array = np.ndarray[Any, Any]

DARK = 0.12  # of the light that is left where nothing is looked at
CELL, GAP, MARGIN, TOP, CAPTION = 224, 10, 30, 92, 26


class Rollout:
    """R = A'_L ... A'_1 with A' = (A + I) / 2, A the mean over heads; a layer at a time."""

    def __init__(self) -> None:
        self.product: torch.Tensor | None = None  # [B, T, T]

    def __call__(self, attention: torch.Tensor) -> None:
        mean = attention.mean(1)
        step = (mean + torch.eye(mean.shape[-1], device=mean.device)) / (mean.sum(-1, keepdim=True) + 1)
        self.product = step if self.product is None else step @ self.product


def on_patches(weights: torch.Tensor, prefix: int, by_token: bool) -> torch.Tensor:
    """[..., T, T] to what patches get, [..., N]: from the class token, or on the mean from all patches."""
    queries = weights[..., 0, :] if by_token else weights[..., prefix:, :].mean(-2)
    return queries[..., prefix:]


def overlay(picture: Array, weights: Array, side: int = CELL) -> Image.Image:
    """uint8 [H, W, C] in the light of weights [h, w]: dark where nothing is looked at."""
    base = enlarge(picture, side)
    heat = Image.fromarray((255 * weights / max(float(weights.max()), 1e-12)).astype(np.uint8))
    heat = heat.resize(base.size, Image.Resampling.LANCZOS)
    blurred = np.asarray(heat.filter(ImageFilter.GaussianBlur(base.size[0] / weights.shape[1])), np.float32)
    low, high = blurred.min(), blurred.max()
    light = DARK + (1 - DARK) * (blurred - low) / max(high - low, 1e-6)
    return Image.fromarray((np.asarray(base, np.float32) * light[:, :, None]).astype(np.uint8))


def enlarge(picture: Array, side: int) -> Image.Image:
    """To so many pixels on the longer side; few pixels stay squares."""
    plain = picture if picture.shape[-1] == 3 else picture[..., :1].repeat(3, -1)
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    way = Image.Resampling.NEAREST if max(height, width) < 64 else Image.Resampling.LANCZOS
    size = (round(width * scale), round(height * scale))
    return Image.fromarray(np.ascontiguousarray(plain)).resize(size, way)


def draw_rollout(pictures: Sequence[Array], maps: Array, names: Sequence[str], path: Path, title: str, detail: str,
                 columns: int = 4) -> None:  # fmt: skip
    """Pairs as in Figure 6: an image, and beside it what is looked at. `maps` [M, h, w]."""
    cells = [
        [enlarge(picture, CELL), overlay(picture, weights)] for picture, weights in zip(pictures, maps, strict=True)
    ]
    width, height = cells[0][0].size
    columns = min(columns, len(cells))
    pair, rows = 2 * width + 4, -(-len(cells) // columns)
    sheet, pen = start_sheet(columns * (pair + 2 * GAP) - 2 * GAP, rows * (height + CAPTION + GAP), title, detail)
    for number, (pictured, name) in enumerate(zip(cells, names, strict=True)):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * (pair + 2 * GAP), TOP + row * (height + CAPTION + GAP)
        for place, image in enumerate(pictured):
            sheet.paste(image, (x + place * (width + 4), y))
        pen.text((x, y + height + 5), fit_text(printable_text(name), pair, 13), QUIET, font(13))
    write_sheet(sheet, path)


def draw_heads(pictures: Sequence[Array], maps: Array, path: Path, title: str, detail: str, most: int = 16) -> None:
    """A row for each image, a column for each head. `maps` [M, heads, h, w]."""
    heads = min(maps.shape[1], most)
    side = CELL if heads <= 4 else 160 if heads <= 8 else 112
    width, height = enlarge(pictures[0], side).size
    sheet, pen = start_sheet((heads + 1) * (width + GAP) - GAP, len(pictures) * (height + GAP) + CAPTION, title, detail)
    for column in range(heads + 1):
        name = "image" if column == 0 else f"head {column}"
        pen.text((MARGIN + column * (width + GAP), TOP), name, QUIET, font(13))
    for row, (picture, weights) in enumerate(zip(pictures, maps, strict=True)):
        images = [enlarge(picture, side), *(overlay(picture, weights[head], side) for head in range(heads))]
        for column, image in enumerate(images):
            sheet.paste(image, (MARGIN + column * (width + GAP), TOP + CAPTION + row * (height + GAP)))
    write_sheet(sheet, path)


def start_sheet(width: int, height: int, title: str, detail: str) -> tuple[Image.Image, Any]:
    wide = max(width, int(font(22, True).getlength(title)), int(font(14).getlength(detail)))
    sheet = Image.new("RGB", (wide + 2 * MARGIN, TOP + height + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 8), title, INK, font(22, True))
    pen.text((MARGIN, MARGIN + 24), detail, QUIET, font(14))
    return sheet, pen


def write_sheet(sheet: Image.Image, path: Path) -> None:
    with atomic_write(path) as aside:
        sheet.save(aside, format="png")
