"""Compares an exported file with its model: on real images, at two batch sizes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vitctl.config.eval_crop import EvalCrop
from vitctl.config.export import ExportConfig
from vitctl.config.model import ModelSpec
from vitctl.data.augmentation.frames import centers_of
from vitctl.data.patchifier.decode import fit, resize
from vitctl.errors import RunError
from vitctl.io.weights import About, Weights
from vitctl.models.adapt import adapt_weights
from vitctl.models.answers import compute_probabilities
from vitctl.probing.metrics import r_squared
from vitctl.reporting import Reporter
from vitctl.workflows.export.examples import ExampleImages
from vitctl.workflows.export.formats import images_of
from vitctl.workflows.inputs.preprocess import target_for_model
from vitctl.workflows.inputs.weights import load_model

BATCHES = (1, 8)
MEASURABLE = 300  # fewest images for which an accuracy is shown
ALONE = 4  # images that are also processed one by one

Bytes = np.ndarray[Any, Any]


class LoadedExport:
    """An exported model. It takes bytes [B, H, W, C] of the model's size, whatever the export itself takes."""

    def __init__(self, model: nn.Module, weights: Weights, config: ExportConfig) -> None:
        self.model, self.takes_bytes = model, config.with_preprocessing
        self.about: About = getattr(model, "about", weights.about)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.ask(surround(pixels, self.about.eval_crop) if self.takes_bytes else images_of(self.about, pixels))

    def ask(self, images: torch.Tensor) -> torch.Tensor:
        """Of what the export takes."""
        return self.model(images).float()  # type: ignore[no-any-return]


def surround(pixels: torch.Tensor, crop: EvalCrop) -> torch.Tensor:
    """Bytes [B, h, w, C] whose center, as the preprocessing takes it, is `pixels` [B, H, W, C]."""
    res = pixels.shape[1], pixels.shape[2]
    outer = crop.outer_size(*res)
    top, left = centers_of(np.array(outer), res).tolist()
    whole = pixels.new_zeros(len(pixels), *outer, pixels.shape[3])
    whole[:, top : top + res[0], left : left + res[1]] = pixels
    return whole


@dataclass(frozen=True)
class Comparison:
    pictures: int
    batches: list[int]
    answers: str  # which outputs are compared: logits, standardized numbers, or features of a model without a head
    max_difference: float  # of the outputs
    mean_difference: float
    largest_logit: float  # or feature
    allowed: float | None  # upper bound of max_difference
    agreement: float  # in top-1; of sets, in whole sets; of numbers, R²; of features, the lowest cosine similarity
    is_set: bool  # what agrees are sets of classes
    top1_model: float | None  # on the same images; None if the model does not have their classes
    top1_export: float | None
    agrees: bool

    def summary(self) -> str:
        text = (
            f"{self.answers} differ from the model's by up to {self.max_difference:.3g} (the largest is "
            f"{self.largest_logit:.3g}), {self.describe_agreement()}"
        )
        return text if self.top1_model is None else f"{text}, {self.accuracy()}"

    def describe_agreement(self) -> str:
        if self.answers == "features":
            return f"cosine similarity is at least {self.agreement:.6g}"
        if self.answers == "numbers":
            return f"R² between them is {self.agreement:.6f}"
        answer = "the set of classes" if self.is_set else "top-1"
        return f"{answer} agrees on {round(self.agreement * self.pictures):,} of {self.pictures:,} images"

    def accuracy(self) -> str:
        """Counts of correct images; also shares, if there are enough images."""
        if self.top1_model is None or self.top1_export is None:
            return ""
        ours, theirs = (
            f"{round(share * self.pictures):,}" + (f" ({share:.2%})" if self.pictures >= MEASURABLE else "")
            for share in (self.top1_model, self.top1_export)
        )
        return f"{theirs} of {self.pictures:,} are correct, {ours} by the model itself"


@torch.no_grad()
def compare_export(
    weights: Weights, exported: LoadedExport, pictures: ExampleImages, config: ExportConfig, reporter: Reporter
) -> Comparison:
    model, pixels = load_model(weights), torch.from_numpy(pictures.bytes)
    ours, theirs = [], []
    with reporter.progress("compare", len(pixels)) as bar:
        for batch in torch.split(pixels, BATCHES[1]):
            ours.append(model(images_of(weights.about, batch)))
            theirs.append(exported(batch))
            bar.advance(len(batch))
    expected, actual = torch.cat(ours), torch.cat(theirs)
    check_all_finite(actual, config)
    if not expected.any():
        reporter.warn("all logits of these weights are zero, as with a fresh head; the comparison is meaningless")
    gaps = [(actual - expected).abs().flatten()]
    alone = [exported(picture) for picture in torch.split(pixels[:ALONE], BATCHES[0])]
    gaps.append((torch.cat(alone) - expected[:ALONE]).abs().flatten())
    gaps += [gap.abs().flatten() for gap in compare_other_size(exported, weights, pictures.bytes[:ALONE], config)]
    return summarize_comparison(expected, actual, torch.cat(gaps), pictures.labels, config, weights)


def check_all_finite(actual: torch.Tensor, config: ExportConfig) -> None:
    broken = int((~torch.isfinite(actual)).any(1).sum())
    if broken:
        why = "fp16 overflows above 65,504; " if config.precision == "fp16" else ""
        raise RunError(
            f"the exported file gives outputs that are not finite for {broken} of {len(actual)} images: {why}"
            f"it is kept for inspection; {'use --precision float32' if why else 'are the weights finite?'}"
        )


def compare_other_size(
    exported: LoadedExport, weights: Weights, pixels: Bytes, config: ExportConfig
) -> Iterator[torch.Tensor]:
    """Differences at another image size, if the file takes more than one."""
    spec = weights.spec
    if config.with_preprocessing:
        large = np.stack([resize(each, spec.height * 3 // 2 + 1, spec.width * 2 - 1) for each in pixels])
        target = target_for_model(spec, weights.about.eval_crop)
        small = np.stack([fit(each, target) for each in large])
        yield exported.ask(torch.from_numpy(large)) - load_model(weights)(
            images_of(weights.about, torch.from_numpy(small))
        )
    if config.dynamic_size:
        height, width = other_size(spec)
        resized = torch.from_numpy(np.stack([resize(each, height, width) for each in pixels]))
        yield exported(resized) - load_model(adapt_weights(weights, height, width))(images_of(weights.about, resized))


def choose_sets(about: About, outputs: torch.Tensor) -> Any:
    """bool [M, K]: the classes that are at their thresholds or above."""
    return compute_probabilities(about, outputs).double().numpy() >= np.array(about.thresholds)


def other_size(spec: ModelSpec) -> tuple[int, int]:
    step = 32 if spec.family == "bit" else spec.patch
    return spec.height + step, spec.width + 2 * step


def summarize_comparison(
    expected: torch.Tensor,
    actual: torch.Tensor,
    gaps: torch.Tensor,
    labels: torch.Tensor | None,
    config: ExportConfig,
    weights: Weights,
) -> Comparison:
    spec = weights.spec
    is_set = weights.about.task == "sets" and spec.classes > 0
    largest, difference = float(expected.abs().max()), float(gaps.max())
    if weights.about.task == "numbers":
        agreement = r_squared(expected, actual)
    elif is_set:
        chosen = [choose_sets(weights.about, each) for each in (expected, actual)]
        agreement = float((chosen[0] == chosen[1]).all(1).mean())
    elif spec.classes:
        agreement = float((actual.argmax(1) == expected.argmax(1)).double().mean())
    else:
        agreement = float(torch.cosine_similarity(actual.double(), expected.double()).min())
    allowed = None if config.closeness is None else config.closeness * max(1.0, largest)
    agrees = difference <= allowed if allowed is not None else agreement >= config.agreement
    top1 = [
        None if labels is None else float((each.argmax(1) == labels).double().mean()) for each in (expected, actual)
    ]
    return Comparison(
        pictures=len(expected),
        batches=list(BATCHES),
        answers={"numbers": "numbers"}.get(weights.about.task, "logits") if spec.classes else "features",
        max_difference=difference,
        mean_difference=float(gaps.mean()),
        largest_logit=largest,
        allowed=allowed,
        agreement=agreement,
        is_set=is_set,
        top1_model=top1[0],
        top1_export=top1[1],
        agrees=agrees,  # False for NaN
    )
