"""The loop: one for pretraining, fine-tuning and self-supervision."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from vitctl.config.train import ScheduleConfig
from vitctl.errors import RunError
from vitctl.randomness import scramble_int, stream
from vitctl.reporting import Progress
from vitctl.training.objective import Batchlike, Objective
from vitctl.training.optimisers import clip, set_lr
from vitctl.training.precision import Precision, autocast
from vitctl.training.ranks import Ranks
from vitctl.training.schedules import share
from vitctl.training.state import State, follow
from vitctl.training.stop import Stop


@dataclass(frozen=True)
class Plan:
    """What does not change from step to step."""

    steps: int
    batch: int  # global
    micro_batch: int
    lr: float
    schedule: ScheduleConfig
    clip: float
    ema: float
    seed: int
    precision: Precision
    device: torch.device
    log_every: int
    eval_every: int
    counts_right: bool = True

    def lr_at(self, step: int) -> float:
        return float(self.lr * share(self.schedule, step, self.steps))


class Keeper(Protocol):
    """What is done with the results on the way."""

    def log(self, state: State, lr: float) -> None: ...

    def evaluate(self, state: State) -> None: ...

    def save_if_due(self, state: State) -> None: ...


def train(
    state: State,
    called: nn.Module,
    plan: Plan,
    objective: Objective,
    feed: Callable[[int], Iterator[Batchlike]],
    keeper: Keeper,
    ranks: Ranks,
    stop: Stop,
    bar: Progress,
) -> bool:
    """To the last step, or to the one at which a rank was asked to stop; says whether it was the last."""
    called.train()
    state.optimiser.zero_grad(set_to_none=True)
    batches = feed(state.step)
    while state.step < plan.steps:
        lr = plan.lr_at(state.step)
        found = gradients(called, plan, objective, next(batches), state.step)
        loss, right, norm = fetched(found, clip(state.model.parameters(), plan.clip or math.inf))
        loss, right, asked = ranks.sum([loss / ranks.world, right, float(stop.asked)])
        check_finite(loss, norm, state.step, lr, state.model)
        set_lr(state.optimiser, lr)
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        if state.average is not None:
            follow(state.average, state.model, plan.ema)
        state.step += 1
        state.tally.add(loss, right, plan.batch, norm)
        shown = {"top1": f"{right / plan.batch:.0%}"} if plan.counts_right else {}
        bar.advance(plan.batch, loss=loss, **shown, lr=lr)
        if due(state.step, plan.log_every, plan.steps):
            keeper.log(state, lr)
        if due(state.step, plan.eval_every, plan.steps):
            keeper.evaluate(state)
            called.train()
        if asked:
            break
        keeper.save_if_due(state)
    return state.step >= plan.steps


def due(step: int, every: int, steps: int) -> bool:
    """At the end, and every so many steps, but not shortly before the end."""
    return step == steps or (step % every == 0 and 2 * (steps - step) >= every)


def gradients(
    called: nn.Module, plan: Plan, objective: Objective, examples: Batchlike, step: int
) -> list[tuple[float, torch.Tensor]]:
    """Of the mean loss over this rank's share, micro-batch by micro-batch: each with its share, loss and hits."""
    starts = range(0, len(examples), plan.micro_batch)
    found = []
    for start in starts:
        part = examples.part(start, min(start + plan.micro_batch, len(examples)))
        torch.manual_seed(key(plan.seed, step, part.first))
        with together(called, last=start == starts[-1]):
            with autocast(plan.precision, plan.device):
                mean, hits = objective(called, part)
            torch.autograd.backward(mean * (len(part) / len(examples)))
        found.append((len(part) / len(examples), torch.stack([mean.detach().float(), hits.float()])))
    return found


def fetched(found: list[tuple[float, torch.Tensor]], norm: torch.Tensor) -> tuple[float, float, float]:
    """Loss, hits and norm of the gradients: the one time in a step that the device is waited for."""
    *parts, (norm_of, _) = torch.stack([*(values for _, values in found), norm.float().repeat(2)]).tolist()
    loss = sum(mean * share for (share, _), (mean, _) in zip(found, parts, strict=True))
    return loss, sum(hits for _, hits in parts), norm_of


def key(seed: int, step: int, first: int) -> int:
    """The seed of dropout: of the step and the place in the global batch, whichever rank computes it."""
    return scramble_int(scramble_int(stream(seed, "dropout") + step) + first) & (2**63 - 1)


def together(called: Any, last: bool) -> Any:
    """Ranks add up their gradients behind the last micro-batch alone."""
    if hasattr(called, "set_requires_gradient_sync"):
        called.set_requires_gradient_sync(last)
    elif hasattr(called, "no_sync") and not last:
        return called.no_sync()
    return nullcontext()


def check_finite(loss: float, norm: float, step: int, lr: float, model: nn.Module) -> None:
    """Stops before the update that would spoil the weights."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    bad = [
        name for name, value in model.named_parameters() if value.grad is not None and not value.grad.isfinite().all()
    ]
    first = f"; the first gradient that is not finite: {bad[0]}" if bad else ""
    raise RunError(
        f"step {step}: the loss is {loss:.4g}, the gradient's norm {norm:.4g}, at lr {lr:.3g}{first}. Nothing was "
        "updated; the last checkpoint stays. A lower lr, a longer warm-up or optim.clip=1 may help"
    )
