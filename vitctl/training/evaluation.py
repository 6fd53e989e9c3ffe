"""Evaluation of a model. Every image is counted once, on any number of ranks."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vitctl.io.weights import Tensors
from vitctl.probing.metrics import ClassCounts
from vitctl.training.device import Precision, autocast
from vitctl.training.objective import Normalize, sigmoid
from vitctl.training.ranks import Ranks


@dataclass(frozen=True)
class Evaluation:
    """An evaluation during training."""

    values: dict[str, float]  # for the log
    summary: str
    score: float  # higher is better: it chooses the best weights
    thresholds: tuple[float, ...] = ()  # of sets, the best ones
    figure: str = ""  # beside the progress bar


@dataclass(frozen=True)
class Score:
    images: int
    loss: float  # cross-entropy, in nats
    top1: float
    top5: float
    balanced: float  # the mean accuracy of the classes
    macro_f1: float

    def to_evaluation(self, best: str) -> Evaluation:
        """`best`: what chooses the best weights, by its name in LabeledConfig."""
        values = {name: getattr(self, name) for name in ("loss", "top1", "top5", "balanced", "macro_f1")}
        summary = (
            f"val top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, balanced {self.balanced:.2%}, "
            f"macro F1 {self.macro_f1:.2%}, loss {self.loss:.4f}"
        )
        # The geometric mean of the probability of the right class: a score that is higher for a lower loss.
        score = math.exp(-self.loss) if best == "loss" else values[best]
        return Evaluation({f"val_{name}": value for name, value in values.items()}, summary, score)


@dataclass(frozen=True)
class EvalBatch:
    """A rank's part of a batch. With FSDP every rank must take part in every forward pass, so a rank that has no images
    left computes a copy of one, which does not count."""

    pixels: torch.Tensor  # uint8 [B, ...]
    labels: torch.Tensor  # int64 [B]
    rows: torch.Tensor  # int64 [B], rows of the split
    counts: bool = True


def evaluate_batches(
    model: nn.Module,
    batches: Iterable[EvalBatch],
    normalize: Normalize,
    precision: Precision,
    device: torch.device,
    ranks: Ranks,
    loss: str = "softmax",
) -> Score:
    sums, counts = [0.0, 0.0, 0.0, 0.0], np.zeros((3, 1))
    for batch, logits in compute_logits(model, batches, normalize, precision, device):
        if batch.counts:
            sums = [total + value for total, value in zip(sums, sum_scores(logits, batch.labels, loss), strict=True)]
        counts = counts + batch.counts * count_answers(logits, batch.labels)
    count, total_loss, first, fifth, *rest = ranks.sum([*sums, *counts.ravel().tolist()])
    classes = ClassCounts(*np.reshape(rest, (3, -1)))
    balanced, macro_f1 = classes.balanced_accuracy, classes.macro_f1
    return Score(int(count), total_loss / count, first / count, fifth / count, balanced, macro_f1)


@torch.no_grad()
def compute_logits(
    model: nn.Module, batches: Iterable[EvalBatch], normalize: Normalize, precision: Precision, device: torch.device
) -> Iterator[tuple[EvalBatch, torch.Tensor]]:
    """Each batch with its logits [B, K], in float32."""
    model.eval()
    for batch in batches:
        with autocast(precision, device):
            logits = model(normalize(batch.pixels)).float()
        yield batch, logits


def sum_scores(logits: torch.Tensor, labels: torch.Tensor, loss: str = "softmax") -> list[float]:
    """Sums: images, loss, top-1, top-5. Logits in bf16 may tie; argmax breaks ties, as everywhere else."""
    first = logits.argmax(-1) == labels
    five = (logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]).any(-1) | first
    if loss == "sigmoid":
        total = sigmoid(logits, labels) * len(labels)
    else:
        total = F.cross_entropy(logits, labels, reduction="sum")
    return [float(len(labels)), float(total), float(first.sum()), float(five.sum())]


def count_answers(logits: torch.Tensor, labels: torch.Tensor) -> Any:
    """[3, K]: images, correct, and predictions of each class."""
    truth, predicted = labels.cpu().numpy(), logits.argmax(-1).cpu().numpy()
    return np.stack(list(vars(ClassCounts.of_labels(truth, predicted, logits.shape[-1])).values()))


@contextmanager
def use_weights(model: nn.Module, ema: Tensors | None) -> Iterator[None]:
    """Within this context, the model has the weights of the EMA."""
    if ema is None:
        yield
        return
    parameters = {name: value for name, value in model.named_parameters() if name in ema}
    with torch.no_grad():
        saved = {name: value.detach().clone() for name, value in parameters.items()}
        for name, value in parameters.items():
            value.copy_(ema[name])
        try:
            yield
        finally:
            for name, value in parameters.items():
                value.copy_(saved[name])
            # After a forward pass FSDP keeps the gathered root parameters, which are those of the EMA here.
            getattr(model, "reshard", lambda: None)()
