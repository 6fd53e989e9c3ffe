"""Contact sheets of the images in a patch file, as stored or augmented."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitctl.config.augment import augmentation
from vitctl.errors import DataError
from vitctl.inspection.sheets import SheetRow, draw_sheet
from vitctl.io.atomic import atomic_write
from vitctl.io.patch_file import PatchFile, Split
from vitctl.randomness import Draws
from vitctl.reporting import format_count

CLASSES, COLUMNS = 12, 8
KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def contact_sheet(file: PatchFile, split_name: str | None, path: Path, seed: int = 0) -> None:
    """One row of random images per class, to which an image of several belongs more than once; without labels, rows of
    random images; of numbers, rows from the lowest to the highest."""
    split = file.split(split_name or next(iter(file.splits)))
    if file.header.task == "numbers":
        save_sheet(draw_numbers(file, split, seed), path)
        return
    members = Members(split)
    present = members.present
    rows: list[SheetRow] = []
    unlabeled = [-1] * math.ceil(min(split.rows, 4 * COLUMNS) / COLUMNS)
    for number, label in enumerate(pick_evenly(present, CLASSES) or unlabeled):
        of_class = members.rows(label)
        start = 0 if label >= 0 else number * COLUMNS
        chosen = draw_random_rows(of_class, start + COLUMNS, seed)[start:]
        name = class_name(file, label)
        rows.append(SheetRow(name, format_count(len(of_class), "image") if name else "", in_true_shape(split, chosen)))
    about = f"{split.name}: {format_count(split.rows, 'image')}"
    if len(present):
        about += f" of {format_count(len(present), 'class')}"
        if len(rows) < len(present):
            about += f", {len(rows)} shown"
    save_sheet(draw_sheet(file.path.name, f"{about}  ·  {file.geometry}", rows), path)


class Members:
    """The images of each class, of one or of several per image."""

    def __init__(self, split: Split) -> None:
        self.labels = split.labels()
        self.packed = split.take("label_sets", None) if split.header.task == "sets" else None  # uint8 [M, K / 8]
        if self.packed is None:
            self.present = np.unique(self.labels[self.labels >= 0])
        else:
            self.present = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(self.packed), bitorder="little"))

    def rows(self, label: int) -> np.ndarray[Any, Any]:
        """The rows of this class; for -1, those whose label is unknown."""
        if self.packed is None or label < 0:
            return np.flatnonzero(self.labels == label)
        return np.flatnonzero(self.packed[:, label >> 3] >> (label & 7) & 1)


def draw_numbers(file: PatchFile, split: Split, seed: int) -> Any:
    """One row of random images for each of up to twelve equal parts of the sorted numbers."""
    targets = split.targets()
    known = np.flatnonzero(~np.isnan(targets))
    order = known[np.argsort(targets[known], kind="stable")]
    rows = []
    count = min(CLASSES, math.ceil(len(order) / COLUMNS))
    for part in np.array_split(order, count) if count else [np.arange(split.rows)]:
        chosen = draw_random_rows(part, COLUMNS, seed)
        chosen = chosen[np.argsort(targets[chosen], kind="stable")]
        low, high = (f"{targets[part[place]]:.4g}" for place in (0, -1))
        name = "" if not count else low if low == high else f"{low} to {high}"
        rows.append(SheetRow(name, format_count(len(part), "image"), in_true_shape(split, chosen)))
    about = f"{split.name}: {format_count(len(order), 'image')} with a number  ·  {file.geometry}"
    return draw_sheet(file.path.name, about, rows)


def label_names(file: PatchFile, split: Split, rows: np.ndarray[Any, Any]) -> list[str]:
    """The class of each image, its classes, or its number."""
    if file.header.task == "numbers":
        return ["" if np.isnan(value) else f"{value:.4g}" for value in split.targets(rows)]
    if file.header.task == "sets":
        return [", ".join(file.class_names[label] for label in np.flatnonzero(each)) for each in split.label_sets(rows)]
    return [class_name(file, label) for label in split.labels(rows).tolist()]


def augmentation_sheet(file: PatchFile, split_name: str | None, preset: str, path: Path, seed: int = 0) -> None:
    """One row per image: as stored, then as augmented in each of eight epochs."""
    from vitctl.data.augmentation.augment import Augment

    config = augmentation(preset)
    split = file.split(split_name or next(iter(file.splits)))
    chosen = draw_random_rows(np.arange(split.rows), CLASSES, seed)
    augment = Augment(config, seed, file.header.training_res if file.header.is_whole else None)
    columns: list[Any] = [in_true_shape(split, chosen)]
    columns += [augment_rows(augment, split, chosen, epoch) for epoch in range(COLUMNS)]
    rows = [
        SheetRow(name, "", [column[number] for column in columns])
        for number, name in enumerate(label_names(file, split, chosen))
    ]
    about = f"first column: the stored image; then epochs 0 to {COLUMNS - 1}  ·  {config.summary()}"
    save_sheet(draw_sheet(f"{file.path.name}: {preset}", about, rows), path)


def augment_rows(augment: Any, split: Split, rows: np.ndarray[Any, Any], epoch: int) -> np.ndarray[Any, Any]:
    """The images of these rows, augmented and mixed: uint8 [B, H, W, C]."""
    import torch

    from vitctl.data.augmentation.mixing import Mixing
    from vitctl.data.loader import Loader, View

    samples = torch.from_numpy(rows)
    loader = Loader(split, len(rows), view=View("images", res=augment.res), crop=augment)
    images = loader.fetch(rows, np.full(len(rows), epoch)).pixels
    images = augment(images, epoch, samples, cropped=split.header.is_whole)
    if augment.config.mixes_labels:
        images = Mixing(augment.config, augment.seed).plan(epoch, samples, *images.shape[1:3]).images(images)
    return np.asarray(images.clamp(0, 255).byte().numpy())


def in_true_shape(split: Split, rows: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The images of these rows [h, w, C] in the shape of their originals, as long as they are stored."""
    images, longest = split.images(rows), max(split.geometry.height, split.geometry.width)
    shapes = [np.maximum(1, size * longest // size.max()) for size in split.sizes(rows)]
    return [resize_pixels(image, *shape.tolist()) for image, shape in zip(images, shapes, strict=True)]


def resize_pixels(pixels: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return resized.reshape(height, width, pixels.shape[-1])


def class_name(file: PatchFile, label: int) -> str:
    if label >= len(file.class_names):
        count = format_count(len(file.class_names), "class")
        raise DataError(f"{file.path}: has label {label} but only {count}; check it with vitctl info --verify")
    return file.class_names[label] if label >= 0 else ""


def pick_evenly(values: np.ndarray[Any, Any], count: int) -> list[int]:
    if len(values) <= count:
        return [int(value) for value in values]
    return [int(value) for value in values[np.linspace(0, len(values) - 1, count).round().astype(int)]]


def draw_random_rows(rows: np.ndarray[Any, Any], count: int, seed: int) -> np.ndarray[Any, Any]:
    """`count` random elements of `rows`; the same ones for the same seed."""
    keys = Draws(seed, 0, rows.astype(np.int64)).bits("sheet")[:, 0]
    return rows[np.argsort(keys, kind="stable")[:count]]


def save_sheet(sheet: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        sheet.save(temporary, format=KINDS[path.suffix.lower()])
