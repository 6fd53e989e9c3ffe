"""A JSON file with any number of right answers for each image: ImageNet-ReaL's list, or {name: answers}."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitctl.errors import DataError
from vitctl.io.files import read_json

IMAGENET = re.compile(r"ILSVRC2012_val_(\d{8})\.")

Answers = list[list[int | str]]


def read_answers(path: Path, images: Sequence[str]) -> Answers:
    """The answers of each image. An object is indexed by an image's path or file name, a list as in `find_rows`."""
    content = read_json(path)
    if isinstance(content, dict):
        entries = [content.get(name, content.get(Path(name).name)) for name in images]
        if all(entry is None for entry in entries):
            raise DataError(f"{path}: contains none of the images; its keys must be names such as {images[0]}")
    elif isinstance(content, list):
        entries = [content[row] for row in find_rows(path, content, images)]
    else:
        raise DataError(f"{path}: must be a list of answers, or an object that maps image names to answers")
    return [check_answers(path, entry) for entry in entries]


def find_rows(path: Path, content: list[Any], images: Sequence[str]) -> list[int]:
    """The row of each image in a list: by ImageNet's numbers, or else in the order of sorted names."""
    numbers = [int(match[1]) for name in images if (match := IMAGENET.search(name))]
    if len(numbers) == len(images):
        if max(numbers) > len(content):
            raise DataError(f"{path}: has {len(content):,} answers, but the data has image number {max(numbers):,}")
        return [number - 1 for number in numbers]
    if len(content) != len(images):
        raise DataError(f"{path}: has {len(content):,} answers for {len(images):,} images; use {{name: answers}}")
    rows = [0] * len(images)
    for row, image in enumerate(sorted(range(len(images)), key=images.__getitem__)):
        rows[image] = row
    return rows


def check_answers(path: Path, entry: Any) -> list[int | str]:
    answers = [] if entry is None else entry if isinstance(entry, list) else [entry]
    if not all(isinstance(answer, (int, str)) and not isinstance(answer, bool) for answer in answers):
        raise DataError(f"{path}: answers must be class numbers or class names, not {str(entry)[:60]}")
    return answers
