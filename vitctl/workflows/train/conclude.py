"""What a finished run says."""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from vitctl.config.model import ModelSpec
from vitctl.inspection.charts import draw_curves
from vitctl.io.run_directory import RunDirectory
from vitctl.models.count import BACKWARD, count
from vitctl.reporting import Reporter
from vitctl.training.ceiling import measure_ceiling
from vitctl.training.environment import Environment
from vitctl.training.fit import Fitted
from vitctl.workflows.train.start import Started

Result = TypeVar("Result")


@dataclass(frozen=True)
class TrainResult:
    run: str | None
    model: str
    res: list[int]
    recipe: str
    data: str
    data_digest: str
    classes: int
    parameters: int
    steps: int
    epochs: float
    batch: int
    micro_batch: int
    ranks: int
    device: str
    precision: str
    seed: int
    lr: float
    loss: float
    top1: float | None  # on val, of the last step
    top5: float | None
    val_loss: float | None
    best_top1: float | None
    best_step: int | None
    tried: dict[str, float]  # lr -> accuracy on the part of the training data that was held out
    weights: str | None
    digest: str
    images_per_s: float
    ceiling_share: float  # of what this device does in products of large matrices
    elapsed_s: float


def conclude_training(
    started: Started,
    place: Environment,
    spec: ModelSpec,
    fitted: Fitted,
    elapsed: float,
    tried: dict[str, float] | None = None,
) -> TrainResult:
    config, data, run, val = started.config, started.data, started.run, fitted.val
    size = count(spec)
    flops = BACKWARD * size.flops * fitted.images_per_s / place.ranks.world
    result = TrainResult(
        run=str(run.path) if run else None,
        model=spec.name,
        res=[spec.height, spec.width],
        recipe=config.recipe,
        data=str(data.path),
        data_digest=data.file.digest,
        classes=len(data.file.class_names),
        parameters=size.parameters,
        steps=fitted.steps,
        epochs=fitted.steps * config.batch / place.train.rows,
        batch=config.batch,
        micro_batch=fitted.micro_batch,
        ranks=place.ranks.world,
        device=place.device.type,
        precision=place.precision,
        seed=config.seed,
        lr=config.optim.lr,
        loss=fitted.loss,
        top1=val.get("val_top1"),
        top5=val.get("val_top5"),
        val_loss=val.get("val_loss"),
        best_top1=fitted.best,
        best_step=fitted.best_step,
        tried=tried or {},
        weights=str(run.weights) if run else None,
        digest=fitted.digest,
        images_per_s=fitted.images_per_s,
        ceiling_share=flops / measure_ceiling(place.precision, place.device),
        elapsed_s=elapsed,
    )
    if run and place.ranks.first:
        draw_curves(run.metrics(), run.path / "curves.png", f"{spec.name} on {data.path.name}")
        run.finish(dataclasses.asdict(result))
    return result


def read_concluded(kind: type[Result], run: RunDirectory, reporter: Reporter) -> Result:
    """The result of a run that is finished already."""
    reporter.note(f"{run.path}: is finished; nothing is left to do")
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in (run.result or {}).items() if name in names})
