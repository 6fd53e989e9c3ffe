"""How good a model is on pictures that it was not trained with: every picture counted once, on any number of ranks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.io.weights import Tensors
from vitctl.training.objective import Normalise
from vitctl.training.precision import Precision, autocast
from vitctl.training.ranks import Ranks


@dataclass(frozen=True)
class Judgement:
    """What is kept of an evaluation while a model is trained."""

    values: dict[str, float]  # for the log
    told: str
    goodness: float  # the weights with most of it are the best


@dataclass(frozen=True)
class Score:
    pictures: int
    loss: float  # cross-entropy, in nats
    top1: float
    top5: float

    def judgement(self) -> Judgement:
        values = {"val_loss": self.loss, "val_top1": self.top1, "val_top5": self.top5}
        return Judgement(values, f"val top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, loss {self.loss:.4f}", self.top1)


@dataclass(frozen=True)
class Exam:
    """A rank's part of one round; where a rank has none left, it computes along and counts nothing."""

    pixels: torch.Tensor  # uint8 [B, ...]
    labels: torch.Tensor  # int64 [B]
    rows: torch.Tensor  # int64 [B], which pictures these are
    counts: bool = True


def evaluate(
    model: nn.Module,
    exams: Iterable[Exam],
    normalise: Normalise,
    precision: Precision,
    device: torch.device,
    ranks: Ranks,
) -> Score:
    sums = [0.0, 0.0, 0.0, 0.0]
    for exam, logits in answered(model, exams, normalise, precision, device):
        if exam.counts:
            sums = [total + value for total, value in zip(sums, measured(logits, exam.labels), strict=True)]
    count, loss, first, fifth = ranks.sum(sums)
    return Score(int(count), loss / count, first / count, fifth / count)


@torch.no_grad()
def answered(
    model: nn.Module, exams: Iterable[Exam], normalise: Normalise, precision: Precision, device: torch.device
) -> Iterator[tuple[Exam, torch.Tensor]]:
    """Each round with its logits [B, K], in float32."""
    model.eval()
    for exam in exams:
        with autocast(precision, device):
            logits = model(normalise(exam.pixels)).float()
        yield exam, logits


def measured(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Pictures, loss, right at once, right among five: sums. bf16 logits have ties: argmax decides them everywhere."""
    first = logits.argmax(-1) == labels
    five = (logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]).any(-1) | first
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return [float(len(labels)), float(loss), float(first.sum()), float(five.sum())]


@contextmanager
def using(model: nn.Module, average: Tensors | None) -> Iterator[None]:
    """The averaged weights in place of the model's own."""
    if average is None:
        yield
        return
    own = {name: value for name, value in model.named_parameters() if name in average}
    with torch.no_grad():
        kept = {name: value.detach().clone() for name, value in own.items()}
        for name, value in own.items():
            value.copy_(average[name])
        try:
            yield
        finally:
            for name, value in own.items():
                value.copy_(kept[name])
            # Behind a forward pass FSDP keeps what it gathered at the root, and would take the average for the weights.
            getattr(model, "reshard", lambda: None)()
