"""Evaluation of a model. Every image is counted once, on any number of ranks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.io.weights import Tensors
from vitctl.training.device import Precision, autocast
from vitctl.training.objective import Normalize
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

    def to_evaluation(self) -> Evaluation:
        values = {"val_loss": self.loss, "val_top1": self.top1, "val_top5": self.top5}
        return Evaluation(values, f"val top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, loss {self.loss:.4f}", self.top1)


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
) -> Score:
    sums = [0.0, 0.0, 0.0, 0.0]
    for batch, logits in compute_logits(model, batches, normalize, precision, device):
        if batch.counts:
            sums = [total + value for total, value in zip(sums, sum_scores(logits, batch.labels), strict=True)]
    count, loss, first, fifth = ranks.sum(sums)
    return Score(int(count), loss / count, first / count, fifth / count)


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


def sum_scores(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Sums: images, loss, top-1, top-5. Logits in bf16 may tie; argmax breaks ties, as everywhere else."""
    first = logits.argmax(-1) == labels
    five = (logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]).any(-1) | first
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return [float(len(labels)), float(loss), float(first.sum()), float(five.sum())]


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
