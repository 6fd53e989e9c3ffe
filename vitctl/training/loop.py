"""The training loop of pretraining, fine-tuning and self-supervision."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitctl.config.train import ScheduleConfig
from vitctl.errors import RunError
from vitctl.randomness import scramble_int, stream
from vitctl.reporting import Progress
from vitctl.training.device import Precision, autocast
from vitctl.training.objective import Batchlike, Objective
from vitctl.training.optimizers import clip_gradients, set_lr
from vitctl.training.ranks import Ranks
from vitctl.training.recorder import Recorder
from vitctl.training.schedules import lr_share
from vitctl.training.state import State, update_ema
from vitctl.training.stop import Stop


@dataclass(frozen=True)
class LoopConfig:
    """Settings that do not change from step to step."""

    steps: int
    batch: int  # over all ranks
    micro_batch: int
    lr: float  # the peak
    schedule: ScheduleConfig
    clip: float
    ema: float
    ema_ramp: bool
    seed: int
    precision: Precision
    device: torch.device
    log_every: int
    eval_every: int
    rows: int = 1  # images in an epoch
    head_steps: int = 0  # in which only the head learns

    def epoch(self, step: int) -> int:
        return math.ceil(step * self.batch / self.rows)

    def lr_at(self, step: int) -> float:
        return float(self.lr * lr_share(self.schedule, step, self.steps))

    def ema_decay(self, step: int) -> float:
        """After `step` steps. With a ramp, the first weights do not weigh down the average of a short run."""
        return min(self.ema, (1 + step) / (10 + step)) if self.ema_ramp else self.ema

    def body_share(self, step: int) -> float:
        """The share of the lr for all but the head: zero first, then a linear warm-up of the same length."""
        return min(1.0, max(0.0, (step - self.head_steps) / self.head_steps)) if self.head_steps else 1.0


def train(
    state: State,
    model: nn.Module,
    config: LoopConfig,
    objective: Objective,
    feed: Callable[[int], Iterator[Batchlike]],
    recorder: Recorder,
    ranks: Ranks,
    stop: Stop,
    bar: Progress,
) -> bool:
    """Train until the last step, or until any rank is asked to stop; return whether the last step was reached.

    `model` is the module to call: state.model itself, or state.model wrapped by DDP or compiled.
    """
    model.train()
    state.optimizer.zero_grad(set_to_none=True)
    batches = feed(state.step)
    while state.step < config.steps:
        lr = config.lr_at(state.step)
        parts = accumulate_gradients(model, config, objective, next(batches), state.step)
        gradient_norm = clip_gradients(state.model.parameters(), config.clip or math.inf)
        loss, correct, norm = fetch_scalars(parts, gradient_norm)
        # All ranks stop after the same step, because each of them sees the sum of all requests.
        loss, correct, stops = ranks.sum([loss / ranks.world, correct, float(stop.requested)])
        check_finite_step(loss, norm, state.step, lr, state.model)
        set_lr(state.optimizer, lr, config.body_share(state.step))
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        ranks.average_batch_norms(state.model)
        if state.ema is not None:
            update_ema(state.ema, state.model, config.ema_decay(state.step + 1))
        state.step += 1
        state.sums.add(loss, correct, config.batch, norm)
        step, epoch = f"{state.step}/{config.steps}", f"{config.epoch(state.step)}/{config.epoch(config.steps)}"
        bar.advance(config.batch, epoch=epoch, step=step, loss=loss)
        if is_due(state.step, config.log_every, config.steps):
            recorder.log(state, lr)
        if is_due(state.step, config.eval_every, config.steps):
            bar.advance(0, **recorder.evaluate(state))
            model.train()
        if stops:
            break
        recorder.save_if_due(state)
    return state.step >= config.steps


def is_due(step: int, every: int, steps: int) -> bool:
    """At the last step, and every `every` steps, except shortly before the last one."""
    return step == steps or (step % every == 0 and 2 * (steps - step) >= every)


def accumulate_gradients(
    model: nn.Module, config: LoopConfig, objective: Objective, examples: Batchlike, step: int
) -> list[tuple[float, torch.Tensor]]:
    """Backpropagate the mean loss of this rank's examples, one micro-batch at a time.

    Returns (weight, [mean loss, correct]) of each micro-batch. The values stay on the device: reading them here would
    make the CPU wait for the device once per micro-batch.
    """
    starts = range(0, len(examples), config.micro_batch)
    results = []
    for start in starts:
        part = examples.part(start, min(start + config.micro_batch, len(examples)))
        # Dropout depends on the step and on the position in the global batch, not on the number of ranks.
        torch.manual_seed(sample_key(config.seed, step, part.first))
        weight = len(part) / len(examples)  # the last micro-batch may be smaller
        with sync_only_last(model, last=start == starts[-1]):
            with autocast(config.precision, config.device):
                loss, correct = objective(model, part)
            torch.autograd.backward(loss * weight)
        results.append((weight, torch.stack([loss.detach().float(), correct.float()])))
    return results


def fetch_scalars(parts: list[tuple[float, torch.Tensor]], norm: torch.Tensor) -> tuple[float, float, float]:
    """Loss, correct predictions and gradient norm as Python numbers: the only time a step waits for the device."""
    *values, (norm_value, _) = torch.stack([*(value for _, value in parts), norm.float().repeat(2)]).tolist()
    loss = sum(mean * weight for (weight, _), (mean, _) in zip(parts, values, strict=True))
    return loss, sum(correct for _, correct in values), norm_value


def sample_key(seed: int, step: int, first: int) -> int:
    """The seed of dropout for the micro-batch that starts at `first` in the global batch."""
    return scramble_int(scramble_int(stream(seed, "dropout") + step) + first) & (2**63 - 1)


def sync_only_last(model: Any, last: bool) -> Any:
    """Ranks exchange gradients after the last micro-batch only: the sum is the same, with one message per step."""
    if hasattr(model, "set_requires_gradient_sync"):  # FSDP2
        model.set_requires_gradient_sync(last)
    elif hasattr(model, "no_sync") and not last:  # DDP
        return model.no_sync()
    return nullcontext()


def check_finite_step(loss: float, norm: float, step: int, lr: float, model: nn.Module) -> None:
    """Stop before an update with values that are not finite."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    bad = [
        name for name, value in model.named_parameters() if value.grad is not None and not value.grad.isfinite().all()
    ]
    first = f"; the first gradient that is not finite is {bad[0]}" if bad else ""
    raise RunError(
        f"step {step}: the loss is {loss:.4g} and the gradient norm {norm:.4g} at lr {lr:.3g}{first}. The weights were "
        "not updated and the last checkpoint is kept. Try a lower lr, a longer warm-up or --set optim.clip=1"
    )
