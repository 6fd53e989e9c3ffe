"""Pictures by their paths, decoded as they are wanted: for looking at them once, without a patch file."""

import glob
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitctl.data.patchifier.decode import Target, decode
from vitctl.data.patchifier.image_file import read_whole
from vitctl.data.sources.files import content_of
from vitctl.data.sources.names import is_junk, is_picture
from vitctl.errors import DataError
from vitctl.machine import cores


@dataclass(frozen=True)
class Glimpse:
    path: str
    pixels: np.ndarray[Any, Any] | None  # uint8 [H, W, C]
    reason: str = ""  # why there are none


def pictures_at(wanted: Sequence[str]) -> list[str]:
    """Files as they are named, the pictures of folders at any depth, and what patterns match; in order, each once."""
    found: dict[str, None] = {}
    for name in wanted:
        found |= dict.fromkeys(expanded(name))
    return list(found)


def expanded(name: str) -> list[str]:
    if os.path.isdir(name):
        within = sorted(walked(name))
        if not within:
            raise DataError(f"{name}: no picture is in this folder")
        return within
    if os.path.lexists(name):
        return [name]
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    if not matches:
        raise DataError(f"{name}: no such file or folder" + (", and no match" if glob.has_magic(name) else ""))
    found = [path for match in matches for path in (walked(match) if os.path.isdir(match) else [match])]
    if not found:
        raise DataError(f"{name}: matches folders that have no picture in them")
    return found


def walked(folder: str) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not is_junk(each))
        yield from (os.path.join(here, each) for each in sorted(files) if is_picture(each) and not is_junk(each))


def glimpses(paths: Sequence[str], target: Target, batch: int) -> Iterator[list[Glimpse]]:
    """Batch by batch; the next one is being decoded while one is looked at."""
    with ThreadPoolExecutor(cores(), "vitctl-decode") as pool:
        waiting: list[Future[Glimpse]] = []
        for start in range(0, len(paths), batch):
            ready, waiting = waiting, [pool.submit(glimpse, path, target) for path in paths[start : start + batch]]
            if ready:
                yield [each.result() for each in ready]
        yield [each.result() for each in waiting]


def glimpse(path: str, target: Target) -> Glimpse:
    try:
        return Glimpse(path, decode(read_whole(content_of(path), target.max_pixels), target))
    except DataError as error:
        return Glimpse(path, None, str(error))
    except OSError as error:
        return Glimpse(path, None, error.strerror or type(error).__name__)
