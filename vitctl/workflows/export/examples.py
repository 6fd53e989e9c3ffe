"""Real images in the size of the exported model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitctl.config.export import ExportConfig
from vitctl.config.model import ModelSpec
from vitctl.data.loader import load_images
from vitctl.data.patchifier.decode import convert_channels
from vitctl.errors import DataError, UsageError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.weights import Weights
from vitctl.reporting import Reporter
from vitctl.workflows.inputs.data import choose_data
from vitctl.workflows.inputs.samples import choose_held_out, fit_samples, space_evenly
from vitctl.workflows.inputs.weights import data_of_run

FEW, MANY = 32, 1000
STORED = 2  # images that are encoded as files
Bytes = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ExampleImages:
    path: str
    split: str
    bytes: Bytes  # uint8 [M, H, W, C] in the model's size
    stored: Bytes  # a few, as stored in the data
    labels: torch.Tensor | None  # int64 [M], the model's own numbers; None if the model lacks some classes
    train: Split
    spec: ModelSpec

    def calibration(self, count: int, batch: int = 16) -> Iterator[Bytes]:
        """Images of train, in batches."""
        rows = space_evenly(self.train.rows, count)
        for part in np.split(rows, range(batch, len(rows), batch)):
            yield fit_samples(self.train, part, self.spec)


def choose_examples(weights: Weights, config: ExportConfig, reporter: Reporter) -> ExampleImages:
    file = PatchFile(choose_data(config.data, reporter, data_of_run(config.source), weights.spec.res))
    own = weights.about.class_names
    if config.precision == "int8" and not config.data and own and not set(file.class_names) <= set(own):
        raise UsageError(
            f"int8 needs images of the model's classes for calibration, and {file.path} has other classes; "
            "name a patch file with --data"
        )
    name = choose_held_out(file) or next(iter(file.splits))
    split, train = file.split(name), file.split("train" if "train" in file.splits else name)
    if not split.rows:
        raise DataError(f"{file.path}: has no images to compare on; use other --data")
    rows = space_evenly(split.rows, config.pictures or (FEW if config.precision == "float32" else MANY))
    labels = model_labels(weights, file, split.labels(rows))
    stored = np.stack([convert_channels(each, weights.spec.channels) for each in load_images(split, rows[:STORED])])
    return ExampleImages(
        str(file.path), name, fit_samples(split, rows, weights.spec), stored, labels, train, weights.spec
    )


def model_labels(weights: Weights, file: PatchFile, labels: Bytes) -> torch.Tensor | None:
    """The labels as the model's own class numbers; None unless it has all classes of the data, one per image."""
    own = weights.about.class_names
    if not own or not set(file.class_names) <= set(own) or (labels < 0).any() or file.header.task != "classes":
        return None
    return torch.tensor([own.index(name) for name in file.class_names])[torch.from_numpy(labels)]
