"""A JSON file with the right answers for images, any number of them: ImageNet-ReaL's list, or {name: answers}."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitctl.errors import DataError
from vitctl.io.files import check_regular_file

IMAGENET = re.compile(r"ILSVRC2012_val_(\d{8})\.")

Answers = list[list[int | str]]


def read_answers(path: Path, pictures: Sequence[str]) -> Answers:
    """For each image, by its path or its file's name; a list goes by ImageNet's numbers, or in the order of names."""
    check_regular_file(path)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON that can be read ({getattr(error, 'strerror', None) or error})") from error
    if isinstance(content, dict):
        found = [content.get(name, content.get(Path(name).name)) for name in pictures]
        if all(each is None for each in found):
            raise DataError(f"{path}: names none of the images; they are called like {pictures[0]}")
    elif isinstance(content, list):
        found = [content[place] for place in find_rows(path, content, pictures)]
    else:
        raise DataError(f"{path}: is neither a list of answers nor an object with names of images")
    return [check_answers(path, each) for each in found]


def find_rows(path: Path, content: list[Any], pictures: Sequence[str]) -> list[int]:
    numbers = [IMAGENET.search(name) for name in pictures]
    if all(numbers):
        order = [int(match[1]) - 1 for match in numbers if match]
        if max(order) >= len(content):
            raise DataError(f"{path}: has {len(content):,} answers, but an image has number {max(order) + 1:,}")
        return order
    if len(content) != len(pictures):
        raise DataError(f"{path}: has {len(content):,} answers for {len(pictures):,} images; write {{name: answers}}")
    rank = {place: number for number, place in enumerate(sorted(range(len(pictures)), key=lambda at: pictures[at]))}
    return [rank[place] for place in range(len(pictures))]


def check_answers(path: Path, answers: Any) -> list[int | str]:
    told = [] if answers is None else answers if isinstance(answers, list) else [answers]
    if not all(isinstance(each, (int, str)) and not isinstance(each, bool) for each in told):
        raise DataError(f"{path}: answers are numbers or names of classes, not {str(answers)[:60]}")
    return told
