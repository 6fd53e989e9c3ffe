"""Turns a patch file into the batches of training steps and evaluations."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from vitctl.config.augment import AugmentConfig
from vitctl.config.model import ModelSpec
from vitctl.config.train import LabeledConfig, TrainConfig
from vitctl.data.augmentation.augment import Augment
from vitctl.data.augmentation.mixing import Mixing, MixPlan
from vitctl.data.balance import BalancedOrder, order_sets
from vitctl.data.loader import Batch, Loader, View
from vitctl.errors import DataError
from vitctl.io.patch_file import Ints, Split
from vitctl.io.weights import About
from vitctl.models.input import takes_patches
from vitctl.reporting import format_count
from vitctl.training.evaluation import EvalBatch
from vitctl.training.objective import Examples
from vitctl.training.ranks import Ranks

NO_LABEL = -1


class Feed:
    """The examples of each step, starting at any step: a function of (data, seed, step) only."""

    def __init__(
        self,
        split: Split,
        config: TrainConfig,
        spec: ModelSpec,
        ranks: Ranks,
        device: torch.device,
        about: About | None = None,
    ) -> None:
        """`about`: of the weights that are trained, for their normalization, and the mean and deviation of numbers."""
        about = about or About("vitctl")
        self.config, self.spec, self.ranks, self.target = config, spec, ranks, about.target
        self.smoothing = config.smoothing if isinstance(config, LabeledConfig) else 0.0
        augment = config.augment
        plain = takes_patches(spec) and not augment.mixes_labels and augment == AugmentConfig()
        res = (spec.height, spec.width)
        view = View("patches", spec.patch, res) if plain else View("images", res=res if split.header.is_whole else None)
        self.cropped = split.header.is_whole
        self.augment = None if plain else Augment(augment, config.seed, res, about.mean, about.std)
        self.mixing = Mixing(augment, config.seed) if augment.mixes_labels else None
        self.loader = Loader(
            split,
            config.batch,
            seed=config.seed,
            view=view,
            crop=self.augment,
            rank=ranks.rank,
            world=ranks.world,
            device=device,
            order=choose_order(split, config, spec.classes),
        )

    def __call__(self, step: int) -> Iterator[Examples]:
        return map(self.examples, self.loader.stream(step))

    def at(self, step: int) -> Examples:
        return self.examples(self.loader.at(step))

    def pixels(self, batch: Batch) -> torch.Tensor:
        return self.augment(batch.pixels, batch.epochs, batch.rows, self.cropped) if self.augment else batch.pixels

    def examples(self, batch: Batch) -> Examples:
        pixels, plan = self.pixels(batch), None
        if self.mixing:
            plan = self.mixing.plan(batch.epochs, batch.rows, self.spec.height, self.spec.width)
            pixels = plan.images(pixels)
        return Examples(pixels, self.targets(batch, plan), batch.labels, self.ranks.rank * self.loader.share)

    def targets(self, batch: Batch, plan: MixPlan | None) -> torch.Tensor:
        """What the loss compares with: mixed if the images are, and smoothed."""
        if self.loader.split.header.task != "classes":
            values = self.read_targets(batch.rows.numpy()).to(batch.labels.device)
            return plan.mix(values) if plan else values
        if plan:
            return plan.targets(batch.labels, self.spec.classes, self.smoothing)
        return smooth_labels(batch.labels, self.spec.classes, self.smoothing) if self.smoothing else batch.labels

    def read_targets(self, rows: Ints) -> torch.Tensor:
        """Sets, float32 [B, K], 1 for the classes of an image; or standardized numbers, float32 [B, 1]."""
        split = self.loader.split
        if split.header.task == "sets":
            return smooth_sets(torch.from_numpy(split.label_sets(rows)).float(), self.smoothing)
        mean, deviation = self.target
        return torch.from_numpy((split.targets(rows)[:, None] - mean) / deviation).float()


def smooth_labels(labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def smooth_sets(sets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Each class by itself is in the set or not: both get a half of the smoothing."""
    return sets * (1 - smoothing) + smoothing / 2 if smoothing else sets


def choose_order(split: Split, config: TrainConfig, classes: int) -> BalancedOrder | None:
    if not isinstance(config, LabeledConfig) or config.balance == "none":
        return None
    if split.header.task == "sets":
        return order_sets(split, config.balance, config.seed)
    return BalancedOrder(split.labels(), classes, config.balance, config.seed)


def check_split_labels(split: Split, classes: int) -> Ints:
    """The number of images of each class [classes], after checking that every image has a label."""
    if not split.rows:
        raise DataError(f"split {split.name} is empty")
    task, unlabeled, highest, counts = split.header.task, 0, 0, np.zeros(classes, np.int64)
    for labels in split.slices("targets") if task == "numbers" else split.label_slices():
        unlabeled += int((np.isnan(labels) if task == "numbers" else labels == NO_LABEL).sum())
        if task == "classes":
            highest = max(highest, int(labels.max()))
            counts += np.bincount(labels.clip(0, classes - 1), minlength=classes)
    for packed in split.slices("label_sets") if task == "sets" else ():
        counts += np.unpackbits(packed, axis=1, count=classes, bitorder="little").sum(0, dtype=np.int64)
    if unlabeled:
        raise DataError(f"split {split.name}: {unlabeled} of {split.rows} images have no label; give them one")
    if highest >= classes:
        raise DataError(f"split {split.name}: has a label {highest}, but the model has {classes} classes")
    if task == "classes":
        split.lowest_label = 0  # from now on, reading a label of -1 is an error
    return counts


def check_every_class(split: Split, config: LabeledConfig, counts: Ints, names: Sequence[str]) -> None:
    """What makes up for the sizes of the classes needs an image of each."""
    empty = np.flatnonzero(counts == 0)
    if config.correction and len(empty):
        named = ", ".join(names[number] if names else f"class {number}" for number in empty[:3])
        raise DataError(
            f"split {split.name}: has no images of {format_count(len(empty), 'class')} ({named}), which "
            f"{config.correction} needs; add some, or patchify the data without"
        )
    if config.balance != "none" and split.header.task == "sets" and split.rows <= len(counts):
        raise DataError(f"split {split.name}: has {split.rows} images of {len(counts)} classes; {config.correction} "
                        "needs more images than classes")  # fmt: skip


def evaluation_view(spec: ModelSpec, about: About) -> View:
    form: Literal["patches", "images"] = "patches" if takes_patches(spec) else "images"
    return View(form, spec.patch, (spec.height, spec.width), about.eval_crop)


def eval_batches(split: Split, batch: int, ranks: Ranks, device: torch.device, view: View) -> Iterator[EvalBatch]:
    """A split once. All ranks get the same number of batches, so that none waits for another."""
    for part, counts in split_batches(split, batch, ranks, device, view):
        yield EvalBatch(part.pixels, part.labels, part.rows, counts)


def split_batches(
    split: Split, batch: int, ranks: Ranks, device: torch.device, view: View
) -> Iterator[tuple[Batch, bool]]:
    """(this rank's part of each batch, whether it counts)."""
    share = max(1, min(batch, -(-split.rows // ranks.world)))
    loader = Loader(
        split, share * ranks.world, view=view, shuffle=False, rank=ranks.rank, world=ranks.world, device=device
    )
    done = 0
    for part in loader.once():
        yield part, True
        done += 1
    for _ in range(done, -(-split.rows // (share * ranks.world))):
        yield loader.fetch(np.zeros(1, np.int64), np.zeros(1, np.int64)), False
