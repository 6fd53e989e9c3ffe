"""Sheets of images for people: contact sheets, predictions, reconstructions and attention maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vitctl.io.atomic import atomic_write
from vitctl.patches import unpatchify_images
from vitctl.reporting import printable_text

Array = np.ndarray[Any, Any]
Color = tuple[int, int, int]

INK, QUIET, PAPER, LINE = (24, 26, 30), (112, 118, 128), (255, 255, 255), (226, 229, 233)
RIGHT, WRONG = (43, 138, 62), (194, 51, 38)
GRAY = 128  # a hidden patch
DARK = 0.12  # the brightness where attention is lowest
CELL = 224  # pixels of an image's longer side beside its attention


@lru_cache(maxsize=32)
def font(points: int, bold: bool = False) -> Any:
    """DejaVu Sans, which comes with matplotlib and has the letters of most alphabets."""
    from PIL import ImageFont

    package = find_spec("matplotlib")
    folder = Path(package.submodule_search_locations[0]) if package and package.submodule_search_locations else Path()
    path = folder / "mpl-data" / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    try:
        return ImageFont.truetype(str(path), points)
    except OSError:
        return ImageFont.load_default(points)


def fit_text(text: str, width: float, points: int, bold: bool = False) -> str:
    """The text, shortened in the middle with … until it fits into `width` pixels."""
    letters = font(points, bold)
    if letters.getlength(text) <= width:
        return text
    for length in range(len(text) - 1, 1, -1):
        short = f"{text[: (length + 1) // 2]}…{text[len(text) - length // 2 :]}"
        if letters.getlength(short) <= width:
            return short
    return "…"


def start_sheet(size: tuple[int, int], margin: int, *lines: tuple[str, int, bool, int]) -> tuple[Image.Image, Any]:
    """A white sheet and its pen. `size` has the margins; `lines` are (text, points, bold, y), which may widen it."""
    wide = max(int(font(points, bold).getlength(text)) + 2 * margin for text, points, bold, _ in lines)
    sheet = Image.new("RGB", (max(size[0], wide), size[1]), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (text, points, bold, y) in enumerate(lines):
        pen.text((margin, y), text, QUIET if number else INK, font(points, bold))
    return sheet, pen


def write_sheet(sheet: Image.Image, path: Path) -> None:
    with atomic_write(path) as aside:
        sheet.save(aside, format="png")


def make_image(pixels: Array, size: tuple[int, int], smooth: bool) -> Image.Image:
    """uint8 [H, W, C] at another (width, height); the first channel in gray unless there are three."""
    rgb = pixels if pixels.shape[-1] == 3 else pixels[..., :1].repeat(3, -1)
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return Image.fromarray(np.ascontiguousarray(rgb)).resize(size, resampling)


@dataclass(frozen=True)
class SheetRow:
    label: str
    detail: str  # under the label, in gray
    pictures: Sequence[Array]  # uint8 [H, W, C] each


def draw_sheet(title: str, subtitle: str, rows: Sequence[SheetRow], cell: int = 144) -> Image.Image:
    """A contact sheet: a label and images in each row, as high as the highest and as wide as the widest of a column.

    Small images are enlarged by a whole factor.
    """
    gap, margin, top = 8, 36, 108
    longer = max(max(image.shape[:2]) for row in rows for image in row.pictures)
    scale: float = 2 * cell / longer if longer > 2 * cell else max(1, cell // longer)
    smooth = longer > cell // 2
    pictures = [[scale_image(image, scale, smooth) for image in row.pictures] for row in rows]
    heights = [max(image.height for image in row) for row in pictures]
    widths = [max(image.width for image in column if image) for column in zip_longest(*pictures)]
    gutter = max([0, *(label_width(row) for row in rows)])
    size = (2 * margin + gutter + sum(widths) + gap * (len(widths) - 1), top + sum(heights) + gap * len(rows) + margin)
    sheet, pen = start_sheet(size, margin, (title, 26, True, margin - 8), (subtitle, 16, False, margin + 28))
    pen.line((margin, top - 14, sheet.width - margin, top - 14), LINE, 1)
    y = top
    for row, images, height in zip(rows, pictures, heights, strict=True):
        middle, x = y + height // 2, margin + gutter
        pen.text((margin, middle - 2), shorten_label(row.label), INK, font(18, bold=True), anchor="ls")
        pen.text((margin, middle + 6), row.detail, QUIET, font(14), anchor="la")
        for image, width in zip(images, widths, strict=False):
            left, above = x + (width - image.width) // 2, y + (height - image.height) // 2
            sheet.paste(image, (left, above))
            pen.rectangle((left - 1, above - 1, left + image.width, above + image.height), outline=LINE)  # on white
            x += width + gap
        y += height + gap
    return sheet


def scale_image(pixels: Array, scale: float, smooth: bool) -> Image.Image:
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return make_image(pixels, (width, height), smooth)


def label_width(row: SheetRow) -> int:
    wide = max(font(18, bold=True).getlength(shorten_label(row.label)), font(14).getlength(row.detail))
    return int(wide) + 20 if wide else 0


def shorten_label(label: str) -> str:
    label = printable_text(label)
    return label if len(label) <= 28 else f"{label[:16]}…{label[-11:]}"


@dataclass(frozen=True)
class Verdict:
    pixels: Array  # uint8 [H, W, C]
    answer: str
    probability: float | None
    label: str | None  # the true class, if it is known

    @property
    def color(self) -> Color:
        return INK if self.label is None else RIGHT if self.label == self.answer else WRONG


def draw_predictions(verdicts: Sequence[Verdict], path: Path, title: str, subtitle: str) -> None:
    """Images with the predicted class below; a green or red frame if the true class is known."""
    cell, gap, margin, top, caption = 168, 22, 36, 100, 46
    height, width = verdicts[0].pixels.shape[:2]
    scale = cell / max(height, width)
    width, height = round(width * scale), round(height * scale)
    columns = min(8, len(verdicts))
    rows = -(-len(verdicts) // columns)
    size = (2 * margin + columns * (width + gap) - gap, top + rows * (height + caption + gap) + margin - gap)
    sheet, pen = start_sheet(size, margin, (printable_text(title), 24, True, margin - 10),
                             (printable_text(subtitle), 15, False, margin + 24))  # fmt: skip
    for verdict, (x, y) in zip(verdicts, cells(columns, width + gap, height + caption + gap), strict=False):
        paste_verdict(sheet, pen, verdict, (margin + x, top + y), (width, height))
    write_sheet(sheet, path)


def paste_verdict(sheet: Any, pen: Any, verdict: Verdict, place: tuple[int, int], size: tuple[int, int]) -> None:
    (x, y), (width, height), frame = place, size, 4
    has_label = verdict.label is not None
    if has_label:
        pen.rectangle((x - frame, y - frame, x + width + frame - 1, y + height + frame - 1), verdict.color)
    small = width > verdict.pixels.shape[1] and verdict.pixels.shape[1] < 64
    sheet.paste(make_image(verdict.pixels, size, smooth=not small), place)
    if not has_label:
        pen.rectangle((x - 1, y - 1, x + width, y + height), outline=LINE)
    share = "" if verdict.probability is None else f"{verdict.probability:.0%}"
    room = width - font(14).getlength(share) - 8
    below = y + height + frame + 6
    pen.text((x, below), fit_text(printable_text(verdict.answer), room, 14, True), verdict.color, font(14, True))
    pen.text((x + width, below), share, QUIET, font(14), anchor="ra")
    if has_label and verdict.label != verdict.answer:
        truth = fit_text(f"true: {printable_text(verdict.label or '')}", width, 13)
        pen.text((x, below + 18), truth, QUIET, font(13))


def cells(columns: int, width: int, height: int) -> Iterator[tuple[int, int]]:
    """(x, y) of the cells of a grid, row by row, without end."""
    number = 0
    while True:
        yield number % columns * width, number // columns * height
        number += 1


def draw_reconstructions(
    path: Path, title: str, size: tuple[int, int, int], pixels: Any, corruption: Any, predictions: Any, targets: Any
) -> None:
    """A column for each image: the image, the visible patches, the prediction and the target.

    `pixels` is uint8 [B, N, P*P*C]. `predictions` and `targets` are of the hidden patches, [B, M, P*P*C]; `targets` is
    None if the target is the image itself.
    """
    gap, margin, gutter, top = 8, 28, 118, 62
    parts = [pixels.numpy(), show_visible(pixels.numpy(), corruption)]
    parts += [
        fill_hidden(pixels.numpy(), corruption, each.numpy()) for each in (predictions, targets) if each is not None
    ]
    height, width, patch = size
    rows = [unpatchify_images(patches, height, width, patch) for patches in parts]
    scale = max(1, 128 // max(height, width))
    width, height = width * scale, height * scale
    sheet, pen = start_sheet(
        (gutter + margin + len(pixels) * (width + gap), top + len(rows) * (height + gap) + margin - gap), margin,
        (title, 17, False, margin - 6),
    )  # fmt: skip
    for number, (name, images) in enumerate(zip(("image", "visible", "prediction", "target"), rows, strict=False)):
        y = top + number * (height + gap)
        pen.text((gutter - gap, y + height // 2), name, QUIET, font(13), anchor="rm")
        for column, image in enumerate(images):
            sheet.paste(make_image(image, (width, height), smooth=False), (gutter + column * (width + gap), y))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sheet(sheet, path)


def show_visible(patches: Array, corruption: Any) -> Array:
    """Masked patches in gray, swapped ones with the other patch; hidden ones that stay unchanged are visible."""
    visible = patches.copy()
    hidden, others = corruption.hidden.numpy(), corruption.others.numpy()
    images = np.arange(len(patches))[:, None]
    visible[images, hidden[:, : corruption.masked]] = GRAY
    swapped = hidden[:, corruption.masked : corruption.masked + others.shape[1]]
    visible[images, swapped] = patches[images, others]
    return visible


def fill_hidden(patches: Array, corruption: Any, values: Array) -> Array:
    filled = patches.copy()
    filled[np.arange(len(patches))[:, None], corruption.hidden.numpy()] = values
    return filled


def overlay(image: Array, weights: Array, side: int = CELL) -> Image.Image:
    """uint8 [H, W, C], darkened where the weights [h, w] are low."""
    base = enlarge(image, side)
    heat = Image.fromarray((255 * weights / max(float(weights.max()), 1e-12)).astype(np.uint8))
    heat = heat.resize(base.size, Image.Resampling.LANCZOS)
    blurred = np.asarray(heat.filter(ImageFilter.GaussianBlur(base.size[0] / weights.shape[1])), np.float32)
    low, high = blurred.min(), blurred.max()
    light = DARK + (1 - DARK) * (blurred - low) / max(high - low, 1e-6)
    return Image.fromarray((np.asarray(base, np.float32) * light[:, :, None]).astype(np.uint8))


def enlarge(image: Array, side: int) -> Image.Image:
    """To `side` pixels on the longer side. Pixels of small images stay squares."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return make_image(image, (round(width * scale), round(height * scale)), smooth=max(height, width) >= 64)


def draw_rollout(images: Sequence[Array], maps: Array, names: Sequence[str], path: Path, title: str, detail: str,
                 columns: int = 4) -> None:  # fmt: skip
    """Pairs as in Figure 6: an image, and the image times its attention map of `maps` [M, h, w]."""
    pairs = [(enlarge(image, CELL), overlay(image, weights)) for image, weights in zip(images, maps, strict=True)]
    width, height = pairs[0][0].size
    columns, pair = min(columns, len(pairs)), 2 * width + 4
    gap, caption = 10, 26
    rows = -(-len(pairs) // columns)
    sheet, pen, left, top = start_map_sheet(
        columns * (pair + 2 * gap) - 2 * gap, rows * (height + caption + gap), title, detail
    )
    grid = cells(columns, pair + 2 * gap, height + caption + gap)
    for images_of_pair, name, (x, y) in zip(pairs, names, grid, strict=False):
        for number, image in enumerate(images_of_pair):
            sheet.paste(image, (left + x + number * (width + 4), top + y))
        text = fit_text(printable_text(name), pair, 13)
        pen.text((left + x, top + y + height + 5), text, QUIET, font(13))
    write_sheet(sheet, path)


def draw_heads(images: Sequence[Array], maps: Array, path: Path, title: str, detail: str, most: int = 16) -> None:
    """A row for each image, a column for each head. `maps` [M, heads, h, w]."""
    heads, gap, caption = min(maps.shape[1], most), 10, 26
    side = CELL if heads <= 4 else 160 if heads <= 8 else 112
    width, height = enlarge(images[0], side).size
    sheet, pen, left, top = start_map_sheet(
        (heads + 1) * (width + gap) - gap, len(images) * (height + gap) + caption, title, detail
    )
    for column in range(heads + 1):
        name = f"head {column}" if column else "image"
        pen.text((left + column * (width + gap), top), name, QUIET, font(13))
    for row, (image, weights) in enumerate(zip(images, maps, strict=True)):
        tiles = [enlarge(image, side), *(overlay(image, weights[head], side) for head in range(heads))]
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (left + column * (width + gap), top + caption + row * (height + gap)))
    write_sheet(sheet, path)


def start_map_sheet(width: int, height: int, title: str, detail: str) -> tuple[Image.Image, Any, int, int]:
    """A sheet, its pen, and the left and top of its content."""
    margin, top = 30, 92
    sheet, pen = start_sheet((width + 2 * margin, top + height + margin - 10), margin, (title, 22, True, margin - 8),
                             (detail, 14, False, margin + 24))  # fmt: skip
    return sheet, pen, margin, top
