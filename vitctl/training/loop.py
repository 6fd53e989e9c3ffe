"""The training loop of pretraining, fine-tuning and self-supervision."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitctl.config.train import ScheduleConfig, count_steps
from vitctl.errors import RunError
from vitctl.randomness import scramble_int, stream
from vitctl.reporting import Progress
from vitctl.training.device import Precision, autocast
from vitctl.training.objective import Batchlike, Objective
from vitctl.training.optimizers import clip_gradients, set_lr
from vitctl.training.pace import Pace
from vitctl.training.ranks import Ranks
from vitctl.training.recorder import Recorder
from vitctl.training.schedules import lr_share
from vitctl.training.state import State, update_ema
from vitctl.training.stop import Stop

LOGS = 100  # lines of a timed run


@dataclass(frozen=True)
class LoopConfig:
    """Settings that do not change from step to step."""

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
    log_every: int | None  # steps; None: LOGS times in the run
    eval_every: int | None  # steps; None: as the plan says
    patience: int | None  # evaluations without a better one
    rows: int = 1  # images in an epoch
    head_first: float = 0  # steps or share of the run in which only the head learns

    def goes_on(self, state: State) -> bool:
        return state.step < state.plan.steps and not self.is_stale(state)

    def is_stale(self, state: State) -> bool:
        """Whether val has not improved for so long that the run stops."""
        return self.patience is not None and state.stale >= self.patience

    def epoch(self, step: int) -> int:
        return math.ceil(step * self.batch / self.rows)

    def lr_at(self, state: State) -> float:
        steps = state.plan.scale
        return float(self.lr * lr_share(self.schedule.fit_to(steps), state.plan.position(state.step), steps))

    def ema_decay(self, step: int) -> float:
        """After `step` steps. With a ramp, the first weights do not weigh down the average of a short run."""
        return min(self.ema, (1 + step) / (10 + step)) if self.ema_ramp else self.ema

    def body_share(self, state: State) -> float:
        """The share of the lr for all but the head: zero first, then a linear warm-up of the same length."""
        step, head_steps = state.plan.position(state.step), count_steps(self.head_first, state.plan.scale)
        return min(1.0, max(0.0, (step - head_steps) / head_steps)) if head_steps else 1.0


def train(
    state: State,
    model: nn.Module,
    config: LoopConfig,
    objective: Objective,
    feed: Callable[[int], Iterator[Batchlike]],
    recorder: Recorder,
    pace: Pace,
    ranks: Ranks,
    stop: Stop,
    bar: Progress,
) -> bool:
    """Train until the run is finished, or until any rank is asked to stop; return whether it is finished.

    `model` is the module to call: state.model itself, or state.model wrapped by DDP or compiled.
    """
    model.train()
    state.optimizer.zero_grad(set_to_none=True)
    batches = feed(state.step)
    while config.goes_on(state):
        lr = config.lr_at(state)
        parts = accumulate_gradients(model, config, objective, next(batches), state.step)
        gradient_norm = clip_gradients(state.model.parameters(), config.clip or math.inf)
        loss, correct, norm = fetch_scalars(parts, gradient_norm)
        # All ranks stop after the same step, because each of them sees the sum of all requests. So they do plan again.
        requests = float(stop.requested), float(pace.is_due(state.step + 1))
        loss, correct, stops, replans = ranks.sum([loss / ranks.world, correct, *requests])
        check_finite_step(loss, norm, state.step, lr, state.model)
        set_lr(state.optimizer, lr, config.body_share(state))
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        ranks.average_batch_norms(state.model)
        if state.ema is not None:
            update_ema(state.ema, state.model, config.ema_decay(state.step + 1))
        state.step += 1
        state.sums.add(loss, correct, config.batch, norm)
        show_step(bar, config, state, loss)
        if is_due(state, config.log_every, LOGS):
            recorder.log(state, lr)
        if is_due(state, config.eval_every, state.plan.evaluations):
            bar.advance(0, None, **recorder.evaluate(state))
            model.train()
        if config.is_stale(state) and state.sums.steps:
            recorder.log(state, lr)
        if replans:
            state.plan = pace.replan(state.step, state.plan)
        if stops:
            break
        recorder.save_if_due(state)
    return not config.goes_on(state)


def show_step(bar: Progress, config: LoopConfig, state: State, loss: float) -> None:
    step, steps = state.step, state.plan.steps
    of = (f"/{config.epoch(steps)}", f"/{steps}") if state.plan.is_known else ("", "")
    total = steps * config.batch if state.plan.is_known else None
    bar.advance(config.batch, total, epoch=f"{config.epoch(step)}{of[0]}", step=f"{step}{of[1]}", loss=loss)


def is_due(state: State, every: int | None, times: int) -> bool:
    """At the last step, and every `every` steps, except shortly before the last one; without it, `times` times."""
    step, steps = state.step, state.plan.steps
    if every is None:
        return step == steps or state.plan.passes(step, times)
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
