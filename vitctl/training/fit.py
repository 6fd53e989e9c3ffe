"""One training run, from its newest checkpoint to its last step: pretraining, fine-tuning, or one lr of a grid."""

import math
import shlex
import time
from dataclasses import dataclass

import torch
from torch import nn

from vitctl.config.train import FinetuneConfig, TrainConfig
from vitctl.errors import DataError, Interrupted, NoSpace, is_no_space
from vitctl.io.checkpoint import checkpoints, read_checkpoint
from vitctl.io.run_directory import RunDirectory
from vitctl.io.weights import save_weights
from vitctl.models.count import BACKWARD
from vitctl.reporting import Progress, format_count
from vitctl.training import memory
from vitctl.training.device import can_compile, quiet_compiler
from vitctl.training.environment import Environment
from vitctl.training.loop import LoopConfig, train
from vitctl.training.optimizers import head_of, make_optimizer
from vitctl.training.pace import UNKNOWN, Budget, Pace, StepPlan, TimedPace
from vitctl.training.ranks import wrap
from vitctl.training.recorder import Recorder
from vitctl.training.state import State, init_ema
from vitctl.training.task import TrainTask

COMPILE_FROM = 50_000  # images on a GPU: for fewer, compiling takes longer than it saves
COMPILE_FROM_FLOPS = 3e14  # of a run on a CPU: about ten minutes on two cores, of which compiling saves a sixth
COMPILE_FROM_MINUTES = 10
LOG_EVERY = 50  # steps, at most
EVALUATIONS = 20  # at most, if epochs are short
END_SECONDS = 1.0  # after the last evaluation, for curves and the result, and this share of the time of all imports
END_SHARE = 0.9  # for the imports of curves and the end of the process
SAVED_COPIES = 6  # of the weights at the end: a checkpoint, best and last weights
WRITE_RATE = 3e8  # bytes per second


@dataclass(frozen=True)
class Fitted:
    steps: int
    loss: float  # the last logged one
    val: dict[str, float]  # the last evaluation
    best: dict[str, float]  # the evaluation that was best
    best_step: int | None
    stopped: str | None  # why it ended before its last step
    micro_batch: int
    digest: str
    images_per_s: float


class Fit:
    """`Fit(config, task, env, run).train()`; resumes from the newest checkpoint of the run."""

    def __init__(self, config: TrainConfig, task: TrainTask, env: Environment, run: RunDirectory | None) -> None:
        self.config, self.task, self.env, self.run = config, task, env, run
        self.model = task.model
        steps = UNKNOWN if config.minutes else config.total_steps(env.train.rows)
        micro_batch = self.choose_micro_batch()
        wrapped = wrap(self.model, env.ranks, config.parallel, env.device)
        self.wrapped = self.compile_model(wrapped)
        starts_with_head = isinstance(config, FinetuneConfig) and config.head_steps(steps)
        optimizer = make_optimizer(self.model, config.optim, head_of(self.model) if starts_with_head else ())
        self.state = State(self.model, optimizer, StepPlan(steps, steps))
        self.state.ema = init_ema(self.model) if config.ema else None
        self.state.micro_batch = micro_batch
        self.pace = self.make_pace()
        self.recorder = Recorder(config, run, env, task, self.pace)

    def make_pace(self) -> Pace:
        config, env, run = self.config, self.env, self.run
        if not config.minutes:
            return Pace()
        written = SAVED_COPIES * sum(value.nbytes for value in self.model.parameters())
        budget = Budget(
            seconds=60 * config.minutes,
            end=END_SECONDS + END_SHARE * env.import_seconds + written / WRITE_RATE,
            evaluation_steps=env.val.rows / config.batch / BACKWARD if env.val else 0.0,
            evaluate_every=config.eval_every,
        )
        recorded = run.plans() if run else []
        record = run.log_plan if run else lambda **_: None
        return TimedPace(
            budget, lambda: time.perf_counter() - env.start_time, recorded, record, env.ranks, env.reporter
        )

    def choose_micro_batch(self) -> int:
        config, env = self.config, self.env
        share = config.batch // env.ranks.world
        if config.micro_batch != "auto":
            return min(int(config.micro_batch), share)
        task = self.task
        size = memory.find_micro_batch(
            self.model, task.objective, task.feed.at(0), env.precision, env.device, task.tokens
        )
        return int(-env.ranks.max(-size))  # the smallest of all ranks

    def compile_model(self, model: nn.Module) -> nn.Module:
        mode = self.config.compile
        if mode == "off" or (mode == "auto" and not self.pays_to_compile()):
            return model
        quiet_compiler(may_fail=mode == "auto")
        self.env.reporter.note("compiling the model, which takes about a minute the first time")
        return torch.compile(model)  # type: ignore[return-value]

    def pays_to_compile(self) -> bool:
        env, config = self.env, self.config
        images = config.total_steps(env.train.rows) * config.batch
        if env.device.type == "cuda":
            return config.minutes >= COMPILE_FROM_MINUTES if config.minutes else images >= COMPILE_FROM
        if env.device.type != "cpu" or env.precision != "bf16" or env.ranks.world > 1 or not can_compile():
            return False
        if config.minutes:
            return config.minutes >= COMPILE_FROM_MINUTES
        return images * BACKWARD * self.task.flops >= COMPILE_FROM_FLOPS

    def train(self) -> Fitted:
        try:
            return self.run_steps()
        except OSError as error:
            if self.run is None or not is_no_space(error):
                raise
            raise NoSpace(
                f"{self.run.path}: no space left on the disk at step {self.state.step:,}. Its checkpoints are kept: "
                f"free some space and resume with --resume {shlex.quote(str(self.run.root))}"
            ) from error
        finally:
            self.recorder.writer.close()

    def run_steps(self) -> Fitted:
        env, batch = self.env, self.config.batch
        self.resume()
        start_time, first, plan = time.perf_counter(), self.state.step, self.state.plan
        total = plan.steps * batch if plan.is_known else None
        with env.reporter.progress("train", total, done=first * batch) as bar:
            may_retry = self.config.micro_batch == "auto" and env.ranks.world == 1  # all ranks must use the same one
            finished = memory.retry_with_less_memory(
                lambda: self.run_loop(bar), self.state, may_retry, env.reporter.warn
            )
        seconds = time.perf_counter() - start_time
        self.state.plan = self.pace.replan(self.state.step, self.state.plan)
        self.recorder.save(self.state)
        self.recorder.writer.wait()
        env.ranks.barrier()
        if not finished:
            raise self.make_interrupt()
        return self.finish((self.state.step - first) * batch / max(seconds, 1e-9))

    def train_until(self, step: int) -> bool:
        """For measurements: as if this were the last step."""
        self.state.plan = StepPlan(step, step)
        return self.run_loop(Progress())

    def run_loop(self, bar: Progress) -> bool:
        env, task, loop = self.env, self.task, self.loop_config()
        return train(
            self.state,
            self.wrapped,
            loop,
            task.objective,
            task.feed,
            self.recorder,
            self.pace,
            env.ranks,
            env.stop,
            bar,
        )

    def loop_config(self) -> LoopConfig:
        config, rows = self.config, self.env.train.rows
        log_every, eval_every = config.log_every, config.eval_every
        if not config.minutes:
            steps, epoch = config.total_steps(rows), max(1, round(rows / config.batch))
            log_every = log_every or max(1, min(LOG_EVERY, steps // 100))
            eval_every = max(epoch, math.ceil(steps / EVALUATIONS)) if eval_every is None else eval_every
        return LoopConfig(
            batch=config.batch,
            micro_batch=self.state.micro_batch,
            lr=config.optim.lr,
            schedule=config.schedule,
            clip=config.optim.clip,
            ema=config.ema,
            ema_ramp=config.ema_ramp,
            seed=config.seed,
            precision=self.env.precision,
            device=self.env.device,
            log_every=log_every,
            eval_every=UNKNOWN if eval_every == 0 else eval_every,
            patience=config.patience,
            rows=rows,
            head_first=config.head_first if isinstance(config, FinetuneConfig) else 0,
        )

    def resume(self) -> None:
        """Resume from the newest readable checkpoint."""
        if self.run is None:
            return
        for path in reversed(checkpoints(self.run.checkpoints)):
            try:
                tensors, facts = read_checkpoint(path)
            except DataError as error:
                self.env.reporter.warn(f"{error}; using the checkpoint before it")
                continue
            micro_batch = self.state.micro_batch
            self.state.restore(tensors, facts)
            share = self.config.batch // self.env.ranks.world
            if self.config.micro_batch != "auto" or share % self.state.micro_batch:
                self.state.micro_batch = micro_batch
            self.env.reporter.note(f"{self.run.path}: resuming at step {self.describe_step()}")
            break
        self.env.ranks.barrier()
        if self.env.ranks.first:
            self.run.cut(self.state.step)

    def make_interrupt(self) -> Interrupted:
        line = f"stopped after step {self.describe_step()}"
        return Interrupted(line, self.env.stop.code, self.resumable_run())

    def describe_step(self) -> str:
        step, plan = self.state.step, self.state.plan
        return f"{step:,} of {plan.steps:,}" if plan.is_known else f"{step:,}"

    def describe_stop(self) -> str | None:
        """Why the run ended before its last step."""
        if self.state.step >= self.state.plan.steps:
            return None
        state = self.state
        text = f"val has not improved for {format_count(state.stale, 'evaluation')}, since step {state.best_step:,}"
        self.env.reporter.note(f"stopped after step {self.describe_step()}: {text}")
        return text

    def resumable_run(self) -> str | None:
        """The run to resume. A trial of a grid is resumed through the run that it belongs to."""
        return str(self.run.root) if self.run else None

    def finish(self, rate: float) -> Fitted:
        state = self.state
        weights = self.recorder.weights_at(state, state.weights())
        digest = weights.digest()
        if self.run and self.env.ranks.first:
            save_weights(weights, self.run.weights)
        metrics = self.run.metrics() if self.run else self.recorder.lines
        logged = [line for line in metrics if "loss" in line]
        evaluated = {int(line["step"]): line for line in metrics if "val_loss" in line}
        last = evaluated[max(evaluated)] if evaluated else {}
        return Fitted(
            steps=state.step,
            loss=logged[-1]["loss"],
            val={name: value for name, value in last.items() if name != "step"},
            best=evaluated.get(state.best_step, {}),
            best_step=state.best_step if evaluated else None,
            stopped=self.describe_stop(),
            micro_batch=state.micro_batch,
            digest=digest,
            images_per_s=rate,
        )
