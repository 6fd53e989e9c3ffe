"""Decodes image files by their paths, for a single pass over them without a patch file."""

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
    reason: str = ""  # why they are missing


def images_at(names: Sequence[str]) -> list[str]:
    """Files by name, the images in folders at any depth, and what patterns match: in order, without repeats."""
    return list(dict.fromkeys(path for name in names for path in expand_folder(name)))


def expand_folder(name: str) -> list[str]:
    if os.path.isdir(name):
        images = sorted(walk_folder(name))
        if not images:
            raise DataError(f"{name}: no image in this folder")
        return images
    if os.path.lexists(name):
        return [name]
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    if not matches:
        raise DataError(f"{name}: no such file or folder" + (", and no match" if glob.has_magic(name) else ""))
    images = [path for match in matches for path in (walk_folder(match) if os.path.isdir(match) else [match])]
    if not images:
        raise DataError(f"{name}: matches only folders without images")
    return images


def walk_folder(folder: str) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not is_junk(each))
        yield from (os.path.join(here, each) for each in sorted(files) if is_image_name(each) and not is_junk(each))


def read_previews(paths: Sequence[str], target: Target, batch: int) -> Iterator[list[Preview]]:
    """Batch by batch. The next one is decoded while the caller uses one."""
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
