"""What a run leaves behind while it goes: the log, scores on val, the best weights, checkpoints."""

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
from vitctl.reporting import Reporter
from vitctl.training.ranks import Ranks
from vitctl.training.state import State, StepSums
from vitctl.workflows.train.task import Task, evaluation_batch

PATIENCE = 50  # a checkpoint is made when so many times its price have gone by
SOONEST = 60.0  # seconds between two of them
TOGETHER = 20  # steps between two decisions of several ranks


class Records:
    def __init__(
        self,
        config: TrainConfig,
        run: RunDirectory | None,
        ranks: Ranks,
        rows: int,
        task: Task,
        reporter: Reporter,
    ) -> None:
        self.config, self.run, self.ranks, self.rows = config, run, ranks, rows
        self.task, self.reporter = task, reporter
        self.lines: list[dict[str, float]] = []  # of this process
        self.board = tensorboard(run.path) if run and ranks.first and config.tensorboard else None
        self.writer = Background()
        self.saved, self.price = time.monotonic(), 0.0

    def log(self, state: State, lr: float) -> None:
        tally, state.tally = state.tally, StepSums()
        line = {
            "step": state.step,
            "epoch": state.step * self.config.batch / self.rows,
            "lr": lr,
            "loss": tally.loss / tally.steps,
            "top1": tally.right / tally.pictures,
            "grad_norm": tally.norm / tally.steps,
        }
        if not self.task.counts_right:
            del line["top1"]
        self.write(line)

    def evaluate(self, state: State) -> None:
        try:
            found = self.task.judge(state)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"out of memory at the evaluation of step {state.step:,}; go on from the last checkpoint with a "
                "smaller --micro-batch"
            ) from error
        if found is None:
            return
        self.write({"step": state.step, **found.values})
        self.reporter.note(f"step {state.step:,}: {found.told}")
        if found.goodness > state.best:
            state.best, state.best_step = found.goodness, state.step
            self.keep_best(state)

    def write(self, line: dict[str, float]) -> None:
        self.lines.append(line)
        if self.board is not None:
            for name, value in line.items():
                self.board.add_scalar(name, value, int(line["step"]))
        if self.run and self.ranks.first:
            self.run.log(**line)

    def keep_best(self, state: State) -> None:
        tensors = state.weights()
        if self.run and self.ranks.first:
            self.writer.put(save_weights, self.at(state, tensors), self.run.best)

    def at(self, state: State, tensors: dict[str, torch.Tensor]) -> Weights:
        """The weights of a step, with what it takes to trace them."""
        weights = self.task.weights(tensors)
        training = weights.about.training | {
            "step": state.step, "average": state.average is not None, "eval_batch": evaluation_batch(state)
        }  # fmt: skip
        return replace(weights, about=replace(weights.about, training=training))

    def save_if_due(self, state: State) -> None:
        if self.due(state):
            self.save(state)

    def due(self, state: State) -> bool:
        if self.run is None:
            return False
        if self.config.save_every:
            return state.step % self.config.save_every == 0
        now = time.monotonic() - self.saved > max(SOONEST, PATIENCE * self.price) and not self.writer.busy
        if self.ranks.world == 1 or self.config.parallel == "ddp":
            return now and self.ranks.first
        return state.step % TOGETHER == 0 and self.ranks.agreed(str(now)) == "True"

    def save(self, state: State) -> None:
        """A copy is taken now and written while the run goes on."""
        if self.run is None or (self.config.parallel == "ddp" and not self.ranks.first):
            return
        started = time.monotonic()
        tensors, facts = state.tensors(), state.facts() | {"weights": weights_facts(self.at(state, {}))}
        if self.ranks.first:
            self.run.flush()
            self.writer.put(write_checkpoint, self.run.checkpoints, state.step, tensors, facts)
        self.saved = time.monotonic()
        self.price = self.saved - started


def tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("TensorBoard is not installed: pip install tensorboard, or leave it out") from error
    return SummaryWriter(str(folder / "tensorboard"))
