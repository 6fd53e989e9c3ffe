"""Writes the log, evaluations, the best weights and checkpoints of a run."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitctl.config.train import TrainConfig
from vitctl.errors import RunError, UsageError, is_out_of_memory
from vitctl.io.background import Background
from vitctl.io.checkpoint import weights_facts, write_checkpoint
from vitctl.io.run_directory import RunDirectory
from vitctl.io.weights import Weights, save_weights
from vitctl.training.environment import Environment
from vitctl.training.pace import Pace
from vitctl.training.state import State, StepSums
from vitctl.training.task import TrainTask, evaluation_batch

SAVE_RATIO = 50  # between checkpoints, this many times the time that saving took: saving costs 2%
SAVE_SECONDS = 60.0  # between checkpoints, at least
DECIDE_EVERY = 20  # steps: with FSDP all ranks decide together, because all must take part in saving


class Recorder:
    def __init__(
        self,
        config: TrainConfig,
        run: RunDirectory | None,
        env: Environment,
        task: TrainTask,
        pace: Pace,
    ) -> None:
        self.pace = pace
        self.config, self.run, self.env, self.task = config, run, env, task
        self.ranks = env.ranks
        self.lines: list[dict[str, float]] = []  # the log of this process
        self.board = tensorboard(run.path) if run and self.ranks.first and config.tensorboard else None
        self.writer = Background()
        self.saved_at, self.save_seconds = time.monotonic(), 0.0

    def log(self, state: State, lr: float) -> None:
        sums, state.sums = state.sums, StepSums()
        line = {
            "step": state.step,
            "epoch": state.step * self.config.batch / self.env.train.rows,
            "lr": lr,
            "loss": sums.loss / sums.steps,
            "top1": sums.correct / sums.images,
            "grad_norm": sums.norm / sums.steps,
        }
        if not self.task.counts_correct:
            del line["top1"]
        if self.config.minutes:
            line["share"] = state.plan.share(state.step)
        self.write(line)

    def evaluate(self, state: State) -> dict[str, str]:
        """Evaluate, and return the figures that the progress bar shows."""
        try:
            with self.pace.time_evaluation(state.step, state.plan):
                evaluation = self.task.evaluate(state)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"out of memory during the evaluation at step {state.step:,}; resume from the last checkpoint with a "
                "smaller --micro-batch"
            ) from error
        if evaluation is None:
            return {}
        self.write({"step": state.step, **evaluation.values})
        self.env.reporter.note(f"step {state.step:,}: {evaluation.summary}")
        state.thresholds = evaluation.thresholds
        if evaluation.score > state.best:
            state.best, state.best_step, state.stale = evaluation.score, state.step, 0
            self.save_best(state)
        elif self.config.patience:
            state.stale += 1
        if evaluation.figure:
            return {"val": evaluation.figure}
        accuracies = {name: evaluation.values.get(f"{name}_top1") for name in ("val", "probe")}
        return {name: f"{accuracy:.1%}" for name, accuracy in accuracies.items() if accuracy is not None}

    def write(self, line: dict[str, float]) -> None:
        self.lines.append(line)
        if self.board is not None:
            for name, value in line.items():
                self.board.add_scalar(name, value, int(line["step"]))
        if self.run and self.ranks.first:
            self.run.log(**line)

    def save_best(self, state: State) -> None:
        tensors = state.weights()
        if self.run and self.ranks.first:
            weights, val = self.weights_at(state, tensors), self.env.val
            training = weights.about.training | ({"selected_on": val.name} if val else {})
            chosen = replace(weights, about=replace(weights.about, training=training))
            self.writer.put(save_weights, chosen, self.run.best)

    def weights_at(self, state: State, tensors: dict[str, torch.Tensor]) -> Weights:
        """Weights of this step, with the facts needed to trace them."""
        weights = self.task.weights(tensors)
        training = weights.about.training | {
            "step": state.step, "average": state.ema is not None, "eval_batch": evaluation_batch(state)
        }  # fmt: skip
        thresholds = state.thresholds or weights.about.thresholds
        return replace(weights, about=replace(weights.about, training=training, thresholds=thresholds))

    def save_if_due(self, state: State) -> None:
        if self.is_checkpoint_due(state):
            self.save(state)

    def is_checkpoint_due(self, state: State) -> bool:
        if self.run is None:
            return False
        if self.config.save_every:
            return state.step % self.config.save_every == 0
        is_due = (
            time.monotonic() - self.saved_at > max(SAVE_SECONDS, SAVE_RATIO * self.save_seconds)
            and not self.writer.busy
        )
        if self.ranks.world == 1 or self.config.parallel == "ddp":
            return is_due and self.ranks.first
        return state.step % DECIDE_EVERY == 0 and self.ranks.broadcast(str(is_due)) == "True"

    def save(self, state: State) -> None:
        """Copy the state now and write it in the background."""
        if self.run is None or (self.config.parallel == "ddp" and not self.ranks.first):
            return
        start_time = time.monotonic()
        tensors, facts = state.tensors(), state.facts() | {"weights": weights_facts(self.weights_at(state, {}))}
        if self.ranks.first:
            self.run.flush()
            self.writer.put(write_checkpoint, self.run.checkpoints, state.step, tensors, facts)
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - start_time


def tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "TensorBoard is not installed: run pip install tensorboard, or leave out --set tensorboard=true"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))
