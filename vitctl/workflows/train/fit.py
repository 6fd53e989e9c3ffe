"""One model trained to its end: what pretraining, fine-tuning and each lr of a grid have in common."""

import math
import shlex
import time
from dataclasses import dataclass

import torch
from torch import nn

from vitctl.config.train import TrainConfig
from vitctl.errors import DataError, Interrupted, NoSpace, is_no_space
from vitctl.io.checkpoint import checkpoints, read_checkpoint
from vitctl.io.run_directory import RunDirectory
from vitctl.io.weights import save_weights
from vitctl.models.count import BACKWARD
from vitctl.reporting import Progress
from vitctl.training import compiler, memory
from vitctl.training.loop import Plan, train
from vitctl.training.optimisers import make_optimiser
from vitctl.training.ranks import shared_out
from vitctl.training.state import State, averaged
from vitctl.workflows.train.place import Place, total_steps
from vitctl.workflows.train.records import Records
from vitctl.workflows.train.task import Task

COMPILE_FROM = 50_000  # pictures on a GPU: below that, compiling takes longer than it saves
COMPILE_FROM_FLOPS = 3e14  # on a CPU, of a whole run: ten minutes of two cores, of which a sixth is saved
MOST_LOGGED = 50  # steps between two lines of the log
EVALUATIONS = 20  # at most so many where epochs are short


@dataclass(frozen=True)
class Fitted:
    steps: int
    loss: float  # of the last line of the log
    val: dict[str, float]  # the last that was found on val
    best: float | None
    best_step: int | None
    micro_batch: int
    digest: str
    pictures_per_s: float


class Fit:
    """`Fit(config, task, place, run).to_the_end()`; goes on where the run has a checkpoint."""

    def __init__(self, config: TrainConfig, task: Task, place: Place, run: RunDirectory | None) -> None:
        self.config, self.task, self.place, self.run = config, task, place, run
        self.model = task.model
        self.steps = total_steps(config, place.train.rows)
        micro_batch = self.first_micro_batch()
        shared = shared_out(self.model, place.ranks, config.parallel, place.device)
        self.called = self.compiled(shared)
        self.state = State(self.model, make_optimiser(self.model, config.optim))
        self.state.average = averaged(self.model) if config.ema else None
        self.state.micro_batch = micro_batch
        self.records = Records(config, run, place.ranks, place.train.rows, task, place.reporter)

    def first_micro_batch(self) -> int:
        config, place = self.config, self.place
        share = config.batch // place.ranks.world
        if config.micro_batch != "auto":
            return min(int(config.micro_batch), share)
        task, first = self.task, self.task.feed.at(0)
        size = memory.fitting(self.model, task.objective, first, place.precision, place.device, task.tokens)
        return int(-place.ranks.most(-size))  # the least of all ranks

    def compiled(self, shared: nn.Module) -> nn.Module:
        how = self.config.compile
        if how == "off" or (how == "auto" and not self.pays_to_compile()):
            return shared
        compiler.quiet(may_fail=how == "auto")
        self.place.reporter.note("the model is compiled, which takes a minute when it is done for the first time")
        return torch.compile(shared)  # type: ignore[return-value]

    def pays_to_compile(self) -> bool:
        place, pictures = self.place, self.steps * self.config.batch
        if place.device.type == "cuda":
            return pictures >= COMPILE_FROM
        if place.device.type != "cpu" or place.precision != "bf16" or place.ranks.world > 1:
            return False
        return compiler.is_there() and pictures * BACKWARD * self.task.flops >= COMPILE_FROM_FLOPS

    def to_the_end(self) -> Fitted:
        try:
            return self.trained()
        except OSError as error:
            if self.run is None or not is_no_space(error):
                raise
            raise NoSpace(
                f"{self.run.path}: no room left on the disk at step {self.state.step:,}; its checkpoints stay. Free "
                f"some, then go on with --resume {shlex.quote(str(self.run.root))}"
            ) from error
        finally:
            self.records.writer.close()

    def trained(self) -> Fitted:
        place, batch = self.place, self.config.batch
        self.resume()
        started, first = time.perf_counter(), self.state.step
        with place.reporter.progress("train", self.steps * batch, done=first * batch) as bar:
            may_retry = self.config.micro_batch == "auto" and place.ranks.world == 1  # ranks go in step
            finished = memory.retried(
                lambda: self.train_until(self.plan(), bar), self.state, may_retry, place.reporter.warn
            )
        seconds = time.perf_counter() - started
        self.records.save(self.state)
        self.records.writer.wait()
        place.ranks.meet()
        if not finished:
            raise self.interrupted()
        return self.fitted((self.state.step - first) * batch / max(seconds, 1e-9))

    def train_until(self, plan: Plan, bar: Progress | None = None) -> bool:
        place, task, bar = self.place, self.task, bar or Progress()
        return train(
            self.state, self.called, plan, task.objective, task.feed, self.records, place.ranks, place.stop, bar
        )

    def plan(self) -> Plan:
        config = self.config
        epoch = max(1, round(self.place.train.rows / config.batch))
        often = config.eval_every
        if often is None:
            often = max(epoch, math.ceil(self.steps / EVALUATIONS))
        return Plan(
            steps=self.steps,
            batch=config.batch,
            micro_batch=self.state.micro_batch,
            lr=config.optim.lr,
            schedule=config.schedule,
            clip=config.optim.clip,
            ema=config.ema,
            seed=config.seed,
            precision=self.place.precision,
            device=self.place.device,
            counts_right=self.task.counts_right,
            log_every=config.log_every or max(1, min(MOST_LOGGED, self.steps // 100)),
            eval_every=often or self.steps,
        )

    def resume(self) -> None:
        """From the newest checkpoint that can be read."""
        if self.run is None:
            return
        for path in reversed(checkpoints(self.run.checkpoints)):
            try:
                tensors, facts = read_checkpoint(path)
            except DataError as error:
                self.place.reporter.warn(f"{error}; the one before it is taken")
                continue
            own = self.state.micro_batch
            self.state.restore(tensors, facts)
            share = self.config.batch // self.place.ranks.world
            if self.config.micro_batch != "auto" or share % self.state.micro_batch:
                self.state.micro_batch = own
            self.place.reporter.note(f"{self.run.path}: goes on at step {self.state.step:,} of {self.steps:,}")
            break
        self.place.ranks.meet()
        if self.place.ranks.first:
            self.run.cut(self.state.step)

    def interrupted(self) -> Interrupted:
        line = f"stopped after step {self.state.step:,} of {self.steps:,}"
        return Interrupted(line, self.place.stop.code, self.whole_run())

    def whole_run(self) -> str | None:
        """A trial of a grid is gone on with by way of the run that it belongs to."""
        return str(self.run.root) if self.run else None

    def fitted(self, rate: float) -> Fitted:
        state = self.state
        weights = self.records.at(state, state.weights())
        digest = weights.digest()
        if self.run and self.place.ranks.first:
            save_weights(weights, self.run.weights)
        metrics = self.run.metrics() if self.run else self.records.lines
        logged = [line for line in metrics if "loss" in line]
        judged = [line for line in metrics if "val_loss" in line]
        return Fitted(
            steps=state.step,
            loss=logged[-1]["loss"],
            val={name: value for name, value in judged[-1].items() if name != "step"} if judged else {},
            best=state.best if judged else None,
            best_step=state.best_step if judged else None,
            micro_batch=state.micro_batch,
            digest=digest,
            pictures_per_s=rate,
        )
