"""What a model makes of hidden patches, beside what was there."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vitctl.inspection.lettering import INK, PAPER, QUIET, font
from vitctl.io.atomic import atomic_write
from vitctl.patches import unpatchify_images

GRAY = 128  # a hidden patch
CELL, GAP, MARGIN, GUTTER, TOP = 128, 8, 28, 118, 62
ROWS = ("image", "what it sees", "its answer", "as asked for")


def draw_reconstructions(
    path: Path, title: str, size: tuple[int, int, int], pixels: Any, corruption: Any, answers: Any, asked: Any
) -> None:
    """`pixels` uint8 [B, N, P*P*C]; `answers` [B, M, P*P*C] for the hidden patches, and what was asked for where that
    is not the image itself. A column for each image."""
    told = [pixels.numpy(), show_visible(pixels.numpy(), corruption)]
    told += [
        fill_hidden(pixels.numpy(), corruption, values.numpy()) for values in (answers, asked) if values is not None
    ]
    height, width, patch = size
    scale = max(1, CELL // max(height, width))
    rows = [unpatchify_images(patches, height, width, patch) for patches in told]
    sheet = Image.new("RGB", (GUTTER + MARGIN + len(pixels) * (width * scale + GAP),
                              TOP + len(rows) * (height * scale + GAP) + MARGIN - GAP), PAPER)  # fmt: skip
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), title, INK, font(17))
    for number, (name, pictures) in enumerate(zip(ROWS, rows, strict=False)):
        top = TOP + number * (height * scale + GAP)
        pen.text((GUTTER - GAP, top + height * scale // 2), name, QUIET, font(13), anchor="rm")
        for column, picture in enumerate(pictures):
            sheet.paste(patch_image(picture, scale), (GUTTER + column * (width * scale + GAP), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as aside:
        sheet.save(aside, format="png")


def show_visible(patches: Any, corruption: Any) -> Any:
    """Hidden patches in gray; those that got another patch show it, and those that stay are there."""
    shown = patches.copy()
    hidden, others = corruption.hidden.numpy(), corruption.others.numpy()
    lines = np.arange(len(patches))[:, None]
    shown[lines, hidden[:, : corruption.masked]] = GRAY
    swapped = hidden[:, corruption.masked : corruption.masked + others.shape[1]]
    shown[lines, swapped] = patches[lines, others]
    return shown


def fill_hidden(patches: Any, corruption: Any, values: Any) -> Any:
    shown = patches.copy()
    shown[np.arange(len(patches))[:, None], corruption.hidden.numpy()] = values
    return shown


def patch_image(picture: Any, scale: int) -> Image.Image:
    """Of one channel in gray; of two, or more than three, the first."""
    plain = picture if picture.shape[-1] == 3 else picture[..., :1].repeat(3, -1)
    size = (picture.shape[1] * scale, picture.shape[0] * scale)
    return Image.fromarray(np.ascontiguousarray(plain)).resize(size, Image.Resampling.NEAREST)
