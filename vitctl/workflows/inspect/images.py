"""The images to inspect a model with, in its size and channels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.inspect import InspectConfig
from vitctl.config.model import ModelSpec
from vitctl.data.patchifier.decode import Target
from vitctl.data.previews import images_at, read_previews
from vitctl.errors import DataError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.weights import Weights
from vitctl.reporting import Reporter, format_count
from vitctl.workflows.inputs.data import choose_data, warn_enlarged
from vitctl.workflows.inputs.preprocess import target_for_model
from vitctl.workflows.inputs.samples import choose_held_out, fit_samples, space_evenly
from vitctl.workflows.inputs.weights import data_of_run
from vitctl.workflows.sheets import label_names

Bytes = np.ndarray[Any, Any]


@dataclass(frozen=True)
class InspectedImages:
    pixels: Bytes  # uint8 [M, H, W, C]
    names: list[str]
    figure_indices: list[int]  # indices of the images in the attention figures
    data: str  # the source of the images
    digest: str
    file: PatchFile | None
    split: str


def open_images(config: InspectConfig, weights: Weights, reporter: Reporter) -> InspectedImages:
    if not config.images:
        return take_from_file(config, weights.spec, reporter)
    return read_paths(config, target_for_model(weights.spec, weights.about.eval_crop), reporter)


def take_from_file(config: InspectConfig, spec: ModelSpec, reporter: Reporter) -> InspectedImages:
    file = PatchFile(choose_data(config.data, reporter, data_of_run(config.source), spec.res))
    warn_enlarged(file, spec, reporter)
    split = file.split(config.split or choose_held_out(file) or next(iter(file.splits)))
    if split.rows < 4:
        raise DataError(f"{file.path}: {split.name} has {format_count(split.rows, 'image')}; inspect needs at least 4")
    rows = space_evenly(split.rows, config.pictures)
    names = [caption_for(file, split, row) for row in rows]
    figure_indices = [int(place) for place in space_evenly(len(rows), config.shown)]
    return InspectedImages(
        fit_samples(split, rows, spec), names, figure_indices, str(file.path), file.digest, file, split.name
    )


def caption_for(file: PatchFile, split: Split, row: int) -> str:
    """The label of an image; its name if it has none, or no class."""
    one = np.array([row])
    is_known = file.header.task == "numbers" or split.labels(one)[0] >= 0
    label = label_names(file, split, one)[0] if is_known else ""
    return label or Path(split.names(one)[0]).name


def read_paths(config: InspectConfig, target: Target, reporter: Reporter) -> InspectedImages:
    paths = images_at(config.images)
    paths = [paths[place] for place in space_evenly(len(paths), config.pictures)]
    images, names = [], []
    for batch in read_previews(paths, target, 32):
        for each in batch:
            if each.pixels is None:
                reporter.warn(f"{each.path}: {each.reason}")
            else:
                images.append(each.pixels)
                names.append(Path(each.path).name)
    if not images:
        raise DataError(f"none of {format_count(len(paths), 'image')} can be read")
    if len(images) < config.pictures:
        reporter.note(f"attention is measured on {format_count(len(images), 'image')}; the paper has 128")
    figure_indices = [int(place) for place in space_evenly(len(images), config.shown)]
    return InspectedImages(np.stack(images), names, figure_indices, ", ".join(config.images), "", None, "")
