"""Measures attention and layer features in one pass of the images, and probes each layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vitctl.config.fewshot import ProbeConfig
from vitctl.config.inspect import InspectConfig
from vitctl.config.model import ModelSpec
from vitctl.data.loader import Loader, View
from vitctl.inspection.attention import Rollout, attention_layers, batch_for, on_patches, watch_attention
from vitctl.inspection.representations import mean_distances, pixel_distances, uniform_distance
from vitctl.io.patch_file import Split
from vitctl.io.subset import Subset
from vitctl.models.input import Normalizer
from vitctl.probing.draws import draw_orders, take_shots
from vitctl.probing.fewshot import ProbeTask, run_trial
from vitctl.reporting import Reporter
from vitctl.workflows.inspect.images import InspectedImages

Array = np.ndarray[Any, Any]
PROBE, SEED = ProbeConfig(), 0


@dataclass(frozen=True)
class Measured:
    labels: list[str]  # of the attention layers
    distances: Array  # [L, H], the mean over images
    uniform: float
    rollout: Array | None  # [images, h, w]
    heads: Array | None  # of the last layer, [images, H, h, w]
    features: list[Array]  # [M, D] before the first block and after each


class Watch:
    """Collects attention statistics over images, layer by layer."""

    def __init__(self, spec: ModelSpec, layers: int, device: torch.device) -> None:
        self.spec, self.layers = spec, layers
        rows, columns = spec.grid
        grids = [(1, columns), (rows, 1)] if self.axial else [(rows, columns)]  # alternate over the layers
        exact = torch.float32 if device.type == "mps" else torch.float64  # not available on MPS
        self.tables = [pixel_distances(grid, spec.reach).to(exact).to(device) for grid in grids]
        self.uniform = uniform_distance(spec.grid, spec.reach)
        self.sums: list[Array] = [np.zeros(spec.heads) for _ in range(layers)]
        self.count = 0
        self.rollout, self.last = Rollout(), torch.empty(0)

    @property
    def axial(self) -> bool:
        return self.spec.family == "axial"

    def next_batch(self, pictures: int) -> None:
        self.count += pictures
        self.pictures, self.rollout = pictures, Rollout()

    def __call__(self, number: int, attention: torch.Tensor) -> None:
        distances = mean_distances(attention, self.tables[number % len(self.tables)], self.spec.prefix)
        distances = distances.reshape(self.pictures, -1, distances.shape[1]).mean(1)  # axial: over its lines
        self.sums[number] += distances.sum(0).cpu().numpy()
        if not self.axial:
            self.rollout(attention)
            if number == self.layers - 1:
                self.last = on_patches(attention, self.spec.prefix, self.spec.head == "cls")

    def maps(self) -> tuple[Array, Array]:
        """Rollout [B, h, w], and the last layer's heads [B, H, h, w]."""
        assert self.rollout.product is not None
        rolled = on_patches(self.rollout.product, self.spec.prefix, self.spec.head == "cls")
        return tuple(each.reshape(*each.shape[:-1], *self.spec.grid).cpu().numpy() for each in (rolled, self.last))  # type: ignore[return-value]

    def labels(self) -> list[str]:
        if self.axial:
            return [f"{number // 2 + 1}{'rc'[number % 2]}" for number in range(self.layers)]
        return [str(number + 1) for number in range(self.layers)]


@torch.no_grad()
def measure_model(
    model: nn.Module,
    spec: ModelSpec,
    normalize: Normalizer,
    images: InspectedImages,
    device: torch.device,
    reporter: Reporter,
) -> Measured:
    watch = Watch(spec, len(attention_layers(model)), device)
    size, features, rolled, heads = batch_for(spec.heads, spec.tokens), [], {}, {}
    with reporter.progress("inspect", len(images.pixels)) as bar, watch_attention(model, watch):
        for start in range(0, len(images.pixels), size):
            pixels = torch.from_numpy(images.pixels[start : start + size]).to(device)
            watch.next_batch(len(pixels))
            features.append([each.cpu().numpy() for each in pool_layers(model, normalize(pixels), spec.prefix)])
            if not watch.axial:
                for place in set(images.figure_indices) & set(range(start, start + len(pixels))):
                    rolled[place], heads[place] = (each[place - start] for each in watch.maps())
            bar.advance(len(pixels))
    return Measured(
        labels=watch.labels(),
        distances=np.stack(watch.sums) / watch.count,
        uniform=watch.uniform,
        rollout=np.stack([rolled[place] for place in images.figure_indices]) if rolled else None,
        heads=np.stack([heads[place] for place in images.figure_indices]) if heads else None,
        features=[np.concatenate(layer) for layer in zip(*features, strict=True)],
    )


def pool_layers(model: Any, pixels: torch.Tensor, prefix: int) -> Iterator[torch.Tensor]:
    """The mean of the patches' tokens before the first block and after each, [B, D]."""
    for tokens in model.layers(pixels):
        yield tokens[:, prefix:].float().mean(1)


@dataclass(frozen=True)
class Worth:
    """The accuracy of a probe on each layer's frozen features."""

    scores: list[float]
    shots: int
    tested: int  # images
    chance: float


def measure_worth(
    model: nn.Module, spec: ModelSpec, normalize: Normalizer, images: InspectedImages, config: InspectConfig,
    device: torch.device, reporter: Reporter,
) -> Worth | None:  # fmt: skip
    """The paper's probe on every layer; None unless train and the inspected images have labels of one class."""
    if images.file is None or not config.shots or "train" not in images.file.splits or images.split == "train":
        return None
    if images.file.header.task != "classes":
        return None
    train, test = images.file.split("train"), images.file.split(images.split)
    labels, truth, classes = train.labels(), test.labels(), len(images.file.class_names)
    if classes < 2 or (labels < 0).all() or (truth < 0).all():
        return None
    train_rows = take_shots(draw_orders(labels, classes, SEED), config.shots)
    test_rows = take_shots(draw_orders(truth, classes, SEED), max(1, config.judged // classes))
    features = []
    with reporter.progress("probe", len(train_rows) + len(test_rows)) as bar:
        for split, rows in ((train, train_rows), (test, test_rows)):
            features.append(extract_layers(model, spec, normalize, Subset(split, rows, split.name), device, bar))
    scores = []
    for shots, tests in zip(*features, strict=True):
        task = ProbeTask(shots, labels[train_rows], tests, truth[test_rows], classes)
        scores.append(run_trial(task, "lsr", PROBE, None, SEED).top1)
    return Worth(scores, config.shots, len(test_rows), 1 / classes)


@torch.no_grad()
def extract_layers(
    model: nn.Module, spec: ModelSpec, normalize: Normalizer, split: Split, device: torch.device, bar: Any
) -> list[Array]:
    """The features of every layer, [M, D] each."""
    view = View("images", res=(spec.height, spec.width), eval_crop=normalize.about.eval_crop)
    features: list[list[Array]] = []
    for part in Loader(split, 32, view=view, shuffle=False, device=device).once():
        pixels = part.pixels if part.pixels.shape[-1] == spec.channels else match_channels(part.pixels, spec.channels)
        features.append([each.cpu().numpy() for each in pool_layers(model, normalize(pixels), spec.prefix)])
        bar.advance(len(pixels))
    return [np.concatenate(layer) for layer in zip(*features, strict=True)]


def match_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """Repeat gray in every channel, or average the channels."""
    if pixels.shape[-1] == 1:
        return pixels.expand(*pixels.shape[:-1], channels)
    return pixels.float().mean(-1, keepdim=True).round().byte().expand(*pixels.shape[:-1], channels)
