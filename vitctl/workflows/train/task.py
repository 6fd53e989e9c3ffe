"""What a run teaches a model: everything in which training with labels differs from training without."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from torch import nn

from vitctl.config.train import TrainConfig
from vitctl.io.weights import Tensors, Weights
from vitctl.models.count import count
from vitctl.models.create import build, fill
from vitctl.training.evaluation import Judgement, evaluate, using
from vitctl.training.objective import Batchlike, Objective, Supervised
from vitctl.training.precision import quick_attention
from vitctl.training.state import State
from vitctl.workflows.train.feed import Feed, Normaliser, check_labels, exams
from vitctl.workflows.train.place import Place

BEHIND = ("norm.", "fc_norm.", "attn_pool.", "pre_logits.", "head.")  # the blocks


class Feeder(Protocol):
    """The examples of each step, from any step on."""

    def __call__(self, step: int) -> Iterator[Batchlike]: ...

    def at(self, step: int) -> Batchlike: ...


@dataclass(frozen=True)
class Task:
    model: nn.Module
    tokens: int  # of a picture
    flops: int  # of a picture forward
    objective: Objective
    feed: Feeder
    judge: Callable[[State], Judgement | None]  # on pictures that are not trained on
    weights: Callable[[Tensors], Weights]  # the trained tensors, as what is kept
    counts_right: bool  # whether the objective has right answers to count


def labelled(config: TrainConfig, begun: Weights, place: Place) -> Task:
    """A class for every picture; weights to begin with."""
    spec = begun.spec
    check_labels(place.train, spec.classes)
    model = build(spec)
    fill(model, begun.tensors, begun.about.source or spec.name)
    freeze(prepared(model, config, place), config.freeze)
    normalise = Normaliser(spec, begun.about)
    return Task(
        model=model,
        tokens=spec.tokens,
        flops=count(spec).flops,
        objective=Supervised(normalise, config.loss),
        feed=Feed(place.train, config, spec, place.ranks, place.device),
        judge=partial(on_val, model, normalise, place),
        weights=lambda tensors: replace(begun, tensors=tensors),
        counts_right=not config.augment.mixes_labels,  # two classes at once are not right or wrong
    )


def evaluation_batch(state: State) -> int:
    """Without gradients twice as much fits. Weights carry it: in bf16 another batch size gives other last bits."""
    return 2 * state.micro_batch


def on_val(model: nn.Module, normalise: Normaliser, place: Place, state: State) -> Judgement | None:
    if place.val is None:
        return None
    with using(model, state.average):
        rounds = exams(place.val, normalise.spec, evaluation_batch(state), place.ranks, place.device)
        return evaluate(model, rounds, normalise, place.precision, place.device, place.ranks).judgement()


def prepared(model: nn.Module, config: TrainConfig, place: Place) -> nn.Module:
    """On its device, computed the quick way there."""
    model.to(place.device)
    quick_attention(model, place.precision, place.device)
    if config.checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    return model


def freeze(model: nn.Module, what: str | None) -> None:
    """All but the head ("backbone"), or the stem and so many blocks."""
    if what is None:
        return
    for name, value in model.named_parameters():
        if what == "backbone":
            held = not name.startswith("head.")
        else:
            block = name.split(".")[1] if name.startswith("blocks.") else ""
            held = int(block) < int(what) if block else not name.startswith(BEHIND)
        value.requires_grad_(value.requires_grad and not held)
