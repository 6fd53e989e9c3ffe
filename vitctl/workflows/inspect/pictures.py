"""The pictures that a model is looked at with, in its own size and channels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.inspect import InspectConfig
from vitctl.config.model import ModelSpec
from vitctl.data.glimpses import glimpses, pictures_at
from vitctl.data.patchifier.decode import Target
from vitctl.errors import DataError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.weights import Weights
from vitctl.reporting import Reporter, counted
from vitctl.workflows.choose import choose_data, warn_enlarged
from vitctl.workflows.load import trained_on
from vitctl.workflows.samples import HELD_OUT, sized, spaced

Bytes = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Seen:
    pixels: Bytes  # uint8 [M, H, W, C]
    names: list[str]
    shown: list[int]  # those that attention is drawn over
    data: str  # where they are from
    digest: str
    file: PatchFile | None
    split: str


def seen(config: InspectConfig, weights: Weights, reporter: Reporter) -> Seen:
    if not config.images:
        return of_file(config, weights.spec, reporter)
    spec = weights.spec
    return of_paths(config, Target(spec.height, spec.width, spec.channels, weights.about.fit), reporter)


def of_file(config: InspectConfig, spec: ModelSpec, reporter: Reporter) -> Seen:
    file = PatchFile(choose_data(config.data, reporter, trained_on(config.source), (spec.height, spec.width)))
    warn_enlarged(file, spec, reporter)
    held_out = [name for name in HELD_OUT if name in file.splits and file.split(name).rows]
    split = file.split(config.split or (held_out or list(file.splits))[0])
    if split.rows < 4:
        raise DataError(f"{file.path}: {split.name} has {counted(split.rows, 'picture')}; at least 4 are looked at")
    rows = spaced(split.rows, config.pictures)
    names = [captioned(file, split, row) for row in rows]
    chosen = [int(place) for place in spaced(len(rows), config.shown)]
    return Seen(sized(split.images(rows), spec), names, chosen, str(file.path), file.digest, file, split.name)


def captioned(file: PatchFile, split: Split, row: int) -> str:
    label = int(split.labels(np.array([row]))[0])
    return file.class_names[label] if label >= 0 else Path(split.names(np.array([row]))[0]).name


def of_paths(config: InspectConfig, target: Target, reporter: Reporter) -> Seen:
    paths = pictures_at(config.images)
    paths = [paths[place] for place in spaced(len(paths), config.pictures)]
    found, names = [], []
    for batch in glimpses(paths, target, 32):
        for each in batch:
            if each.pixels is None:
                reporter.warn(f"{each.path}: {each.reason}")
            else:
                found.append(each.pixels)
                names.append(Path(each.path).name)
    if not found:
        raise DataError(f"none of {counted(len(paths), 'picture')} can be read")
    if len(found) < config.pictures:
        reporter.note(f"attention is measured on {counted(len(found), 'picture')}; the paper has 128")
    shown = [int(place) for place in spaced(len(found), config.shown)]
    return Seen(np.stack(found), names, shown, ", ".join(config.images), "", None, "")
