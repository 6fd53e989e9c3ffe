"""Evaluation where a label is a set of classes or a number: from the outputs for all images of a split."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from vitctl.io.patch_file import Split
from vitctl.io.weights import About
from vitctl.models.answers import compute_numbers, compute_probabilities
from vitctl.probing.metrics import (
    MAIN,
    SetScores,
    best_thresholds,
    describe_metrics,
    mean_absolute_error,
    mean_of,
    positive_curves,
    r_squared,
    score_sets,
)
from vitctl.training.evaluation import EvalBatch, Evaluation
from vitctl.training.ranks import Ranks
from vitctl.training.tally import check_finite_logits

VALUES = 1 << 22  # of a table in double precision at once


class OutputReport(Protocol):
    def to_evaluation(self, best: str) -> Evaluation:
        """`best`: what chooses the best weights, by its name in LabeledConfig."""


@dataclass(frozen=True)
class SetClassScore:
    name: str
    pictures: int  # that have this class
    average_precision: float | None  # None without such images
    precision: float | None  # at the threshold; None if it is never predicted
    recall: float | None
    f1: float | None
    threshold: float
    answers: int  # images for which it was predicted


@dataclass(frozen=True)
class SetReport:
    loss: float  # binary cross-entropy, summed over the classes
    scores: SetScores
    thresholds: Any  # float64 [K]

    def to_evaluation(self, best: str) -> Evaluation:
        score = {"top1": self.scores.mean_average_precision, "macro_f1": self.scores.macro_f1}.get(best, math.nan)
        if math.isnan(score):  # also where no image of val has a class
            score = score_of_loss(self.loss)
        return make_evaluation("sets", {"loss": self.loss, **vars(self.scores)}, score, self.thresholds.tolist())


@dataclass(frozen=True)
class NumberReport:
    loss: float  # the squared error of standardized numbers
    r_squared: float
    mean_absolute_error: float
    root_mean_square_error: float

    def to_evaluation(self, best: str) -> Evaluation:
        return make_evaluation("numbers", vars(self), score_of_loss(self.loss))  # it chooses what R² would choose


def make_evaluation(task: str, values: dict[str, float], score: float, thresholds: Sequence[float] = ()) -> Evaluation:
    """Metrics of which val says nothing are left out: the log cannot hold NaN."""
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    named, figure = {f"val_{name}": value for name, value in known.items()}, describe_metrics(known, MAIN[task])
    return Evaluation(named, f"val {describe_metrics(known)}", score, tuple(thresholds), figure)


def score_of_loss(loss: float) -> float:
    """Between 0 and 1, higher for a lower loss."""
    return 1 / (1 + loss)


def collect_outputs(
    pairs: Iterable[tuple[EvalBatch, torch.Tensor]], rows: int, width: int, ranks: Ranks
) -> torch.Tensor:
    """float32 [rows, width] on the CPU: the outputs of all ranks for each row of a split."""
    outputs = torch.zeros(rows, width)
    for batch, logits in pairs:
        if batch.counts:
            check_finite_logits(logits)
            outputs[batch.rows] = logits.cpu()
    return ranks.add_tensors(outputs)


def measure_outputs(about: About, outputs: torch.Tensor, split: Split) -> OutputReport:
    """On val, whose best thresholds are those of the report."""
    if about.task == "numbers":
        return measure_numbers(about, outputs, split.targets())
    return measure_sets(about, outputs, split.label_sets().astype(bool))


def measure_sets(about: About, outputs: torch.Tensor, truth: Any, thresholds: Any = None) -> SetReport:
    """`outputs` and `truth` [M, K]; at `thresholds` [K], or at the best ones."""
    probabilities = compute_probabilities(about, outputs).numpy()
    if thresholds is None:
        thresholds = best_thresholds(probabilities, truth)
    return SetReport(binary_loss(outputs, truth), score_sets(probabilities, truth, thresholds), thresholds)


def binary_loss(outputs: torch.Tensor, truth: Any) -> float:
    loss, step = 0.0, max(1, VALUES // max(1, outputs.shape[1]))
    for start in range(0, len(outputs), step):
        part = slice(start, start + step)
        right = torch.from_numpy(truth[part]).double()
        loss += float(F.binary_cross_entropy_with_logits(outputs[part].double(), right, reduction="sum"))
    return loss / len(outputs)


def measure_numbers(about: About, outputs: torch.Tensor, truth: Any) -> NumberReport:
    """`outputs` [M, 1], `truth` float64 [M]."""
    answers = compute_numbers(about, outputs)
    squared = mean_of((answers - truth) ** 2)
    return NumberReport(
        squared / about.target[1] ** 2,
        r_squared(truth, answers),
        mean_absolute_error(truth, answers),
        math.sqrt(squared),
    )


def score_classes(
    about: About, outputs: torch.Tensor, truth: Any, thresholds: Any, names: list[str]
) -> list[SetClassScore]:
    """The table per class."""
    probabilities = compute_probabilities(about, outputs).numpy()
    scores = []
    for number, curve in enumerate(positive_curves(probabilities, truth)):
        chosen, right = probabilities[:, number] >= thresholds[number], truth[:, number]
        images, answers, correct = (int(each.sum()) for each in (right, chosen, right & chosen))
        scores.append(
            SetClassScore(
                name=names[number],
                pictures=images,
                average_precision=mean_of(curve.correct / curve.accepted) if images else None,
                precision=correct / answers if answers else None,
                recall=correct / images if images else None,
                f1=2 * correct / (images + answers) if images + answers else None,
                threshold=float(thresholds[number]),
                answers=answers,
            )
        )
    return scores
