"""What a finished run reports."""

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vitctl.inspection.charts import draw_curves
from vitctl.io.run_directory import RunDirectory
from vitctl.models.count import BACKWARD, count
from vitctl.reporting import Reporter
from vitctl.training.device import measure_ceiling
from vitctl.training.environment import Environment
from vitctl.training.fit import Fitted
from vitctl.workflows.train.start import Started

Result = TypeVar("Result", bound="RunResult")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What all three trainers report."""

    run: str | None
    model: str
    res: list[int]
    recipe: str
    data: str
    data_digest: str
    parameters: int
    steps: int
    epochs: float
    minutes: float | None = None  # that were asked for
    stopped: str | None = None  # why it ended before its last step
    batch: int
    micro_batch: int
    ranks: int
    device: str
    precision: str
    seed: int
    loss: float
    val_loss: float | None
    weights: str | None
    digest: str
    images_per_s: float
    ceiling_share: float  # of what this device reaches in products of large matrices
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class TrainResult(RunResult):
    classes: int
    lr: float
    top1: float | None  # on val, of the last step
    top5: float | None
    balanced: float | None = None  # mean accuracy of the classes
    macro_f1: float | None = None
    best_top1: float | None  # on val, of the best step
    best_balanced: float | None = None
    best_macro_f1: float | None = None
    best_step: int | None
    tried: dict[str, float]  # lr -> accuracy, mAP or R² on the held-out part of train
    task: str = "classes"
    scores: dict[str, float] = field(default_factory=dict)  # all metrics on val, of the last step
    best_scores: dict[str, float] = field(default_factory=dict)  # of the best one


@dataclass(frozen=True, kw_only=True)
class SelfsupResult(RunResult):
    objective: str
    hidden: int  # patches of an image
    patches: int
    val_top1: float | None  # share of the hidden patches that are predicted correctly
    probe_shots: int
    probe_top1: float | None  # of the frozen encoder, on val
    pictures: str | None  # folder of reconstructions


def make_result(
    kind: type[Result],
    started: Started[Any],
    env: Environment,
    fitted: Fitted,
    flops: int,
    more: dict[str, Any],
    title: str,
    score: str = "",
) -> Result:
    """The result of a run, saved with its curves. `flops` are those of a forward pass of one image."""
    config, data, run, spec = started.config, started.data, started.run, started.weights.spec
    rate = BACKWARD * flops * fitted.images_per_s / env.ranks.world
    result = kind(
        run=str(run.path) if run else None,
        model=spec.name,
        res=[spec.height, spec.width],
        recipe=config.recipe,
        data=str(data.path),
        data_digest=data.file.digest,
        parameters=count(spec).parameters,
        steps=fitted.steps,
        epochs=fitted.steps * config.batch / env.train.rows,
        minutes=config.minutes,
        stopped=fitted.stopped,
        batch=config.batch,
        micro_batch=fitted.micro_batch,
        ranks=env.ranks.world,
        device=env.device.type,
        precision=env.precision,
        seed=config.seed,
        loss=fitted.loss,
        val_loss=fitted.val.get("val_loss"),
        weights=str(run.weights) if run else None,
        digest=fitted.digest,
        images_per_s=fitted.images_per_s,
        ceiling_share=rate / measure_ceiling(env.precision, env.device),
        elapsed_s=time.perf_counter() - env.start_time,
        **more,
    )
    if run and env.ranks.first:
        draw_curves(run.metrics(), run.path / "curves.png", title, *([score] if score else []))
        run.finish(dataclasses.asdict(result))
    return result


def make_train_result(
    started: Started[Any], env: Environment, fitted: Fitted, tried: dict[str, float] | None = None
) -> TrainResult:
    spec, data, task = started.weights.spec, started.data, started.weights.about.task
    scores, best = (
        {name.removeprefix("val_"): value for name, value in each.items() if name != "step"}
        for each in (fitted.val, fitted.best)
    )
    more = {
        "classes": len(data.file.class_names),
        "task": task,
        "scores": scores,
        "best_scores": best,
        "lr": started.config.optim.lr,
        "top1": fitted.val.get("val_top1"),
        "top5": fitted.val.get("val_top5"),
        "balanced": fitted.val.get("val_balanced"),
        "macro_f1": fitted.val.get("val_macro_f1"),
        "best_top1": fitted.best.get("val_top1"),
        "best_balanced": fitted.best.get("val_balanced"),
        "best_macro_f1": fitted.best.get("val_macro_f1"),
        "best_step": fitted.best_step,
        "tried": tried or {},
    }
    title = f"{spec.name} at {spec.res} on {data.path.name}, recipe {started.config.recipe}"
    return make_result(TrainResult, started, env, fitted, count(spec).flops, more, title)


def read_result(kind: type[Result], run: RunDirectory, reporter: Reporter) -> Result:
    """The result of a run that has finished before."""
    reporter.note(f"{run.path}: is finished; there is nothing left to do")
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in (run.result or {}).items() if name in names})
