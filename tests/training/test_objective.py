"""Losses that make up for the sizes of classes, against those of torch and of the papers."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitctl.config.train import PretrainConfig
from vitctl.data.balance import effective_weights
from vitctl.training.feed import smooth_labels
from vitctl.training.task import make_loss

COUNTS = np.array([1000, 100, 10])
CPU = torch.device("cpu")


def draw(kind: str, count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count,), generator=random)
    targets = {
        "labels": labels,
        "smooth": smooth_labels(labels, 3, 0.1),
        "mixed": 0.3 * F.one_hot(labels, 3) + 0.7 * F.one_hot(labels.flip(0), 3),
        "mixed and smooth": 0.3 * smooth_labels(labels, 3, 0.1) + 0.7 * smooth_labels(labels.flip(0), 3, 0.1),
    }
    return torch.randn(count, 3, generator=random), targets[kind]


def loss_of(logits: torch.Tensor, targets: torch.Tensor, **config: Any) -> torch.Tensor:
    return make_loss(PretrainConfig(**config), COUNTS, CPU)(logits, targets)


SMOOTHING = {"labels": 0.0, "smooth": 0.1, "mixed": 0.0, "mixed and smooth": 0.1}


@pytest.mark.parametrize("kind", SMOOTHING)
def test_effective_weights_are_of_the_classes_of_an_image(kind: str) -> None:
    logits, targets = draw(kind)
    weights = torch.tensor(effective_weights(COUNTS), dtype=torch.float32)
    plain = draw(kind.removesuffix(" and smooth").replace("smooth", "labels"))[1]
    own = weights[plain] if plain.ndim == 1 else (plain * weights).sum(1)
    dense = F.one_hot(targets, 3) if targets.ndim == 1 else targets
    expected = -(own * (dense * logits.log_softmax(1)).sum(1)).mean()
    found = loss_of(logits, targets, loss_weights="effective", smoothing=SMOOTHING[kind])
    torch.testing.assert_close(found, expected)
    if kind == "labels":
        torch.testing.assert_close(found, F.cross_entropy(logits, targets, weights, reduction="sum") / len(logits))


@pytest.mark.parametrize("kind", SMOOTHING)
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_logits_are_adjusted_by_the_log_of_the_share_of_the_targets(kind: str, tau: float) -> None:
    logits, targets = draw(kind)
    prior = smooth_labels(torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS)), 3, SMOOTHING[kind]).mean(0)
    expected = F.cross_entropy(logits + tau * prior.log(), targets)
    found = loss_of(logits, targets, logit_adjustment=tau, smoothing=SMOOTHING[kind])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("config", [{"loss_weights": "effective"}, {"logit_adjustment": 1.0}, {}])
def test_the_mean_of_micro_batches_is_the_loss_of_the_batch(config: dict[str, Any]) -> None:
    logits, targets = draw("labels")
    parts = [loss_of(*part, **config) for part in zip(logits.split(4), targets.split(4), strict=True)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss_of(logits, targets, **config))


def test_without_either_it_is_the_plain_loss_to_the_bit() -> None:
    logits, targets = draw("labels")
    assert torch.equal(loss_of(logits, targets), F.cross_entropy(logits, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_model_that_knows_only_the_prior_has_even_logits_under_adjustment(smoothing: float) -> None:
    """The minimum over constant logits: what is left for the model is even, so argmax prefers no class."""
    logits = torch.zeros(3, requires_grad=True)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    targets = smooth_labels(labels, 3, smoothing)
    loss = loss_of(logits.expand(len(labels), 3), targets, logit_adjustment=1.0, smoothing=smoothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-6
