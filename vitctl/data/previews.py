"""Images by their paths, decoded as they are wanted: for looking at them once, without a patch file."""

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
from vitctl.data.sources.names import is_image_name, is_junk
from vitctl.errors import DataError
from vitctl.machine import cores


@dataclass(frozen=True)
class Preview:
    path: str
    pixels: np.ndarray[Any, Any] | None  # uint8 [H, W, C]
    reason: str = ""  # why there are none


def images_at(wanted: Sequence[str]) -> list[str]:
    """Files as they are named, the images of folders at any depth, and what patterns match; in order, each once."""
    found: dict[str, None] = {}
    for name in wanted:
        found |= dict.fromkeys(expand_folder(name))
    return list(found)


def expand_folder(name: str) -> list[str]:
    if os.path.isdir(name):
        within = sorted(walk_folder(name))
        if not within:
            raise DataError(f"{name}: no image is in this folder")
        return within
    if os.path.lexists(name):
        return [name]
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    if not matches:
        raise DataError(f"{name}: no such file or folder" + (", and no match" if glob.has_magic(name) else ""))
    found = [path for match in matches for path in (walk_folder(match) if os.path.isdir(match) else [match])]
    if not found:
        raise DataError(f"{name}: matches folders that have no image in them")
    return found


def walk_folder(folder: str) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not is_junk(each))
        yield from (os.path.join(here, each) for each in sorted(files) if is_image_name(each) and not is_junk(each))


def read_previews(paths: Sequence[str], target: Target, batch: int) -> Iterator[list[Preview]]:
    """Batch by batch; the next one is being decoded while one is looked at."""
    with ThreadPoolExecutor(cores(), "vitctl-decode") as pool:
        waiting: list[Future[Preview]] = []
        for start in range(0, len(paths), batch):
            ready, waiting = waiting, [pool.submit(read_preview, path, target) for path in paths[start : start + batch]]
            if ready:
                yield [each.result() for each in ready]
        yield [each.result() for each in waiting]


def read_preview(path: str, target: Target) -> Preview:
    try:
        return Preview(path, decode(read_whole(content_of(path), target.max_pixels), target))
    except DataError as error:
        return Preview(path, None, str(error))
    except OSError as error:
        return Preview(path, None, error.strerror or type(error).__name__)
