"""`vitctl selfsup`: a model from scratch, without labels, by patches that are hidden from it."""

import dataclasses
import time
from dataclasses import dataclass, replace
from typing import Any, Unpack

from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.train import TrainConfig
from vitctl.data.subsets import limit_split
from vitctl.inspection.charts import draw_curves
from vitctl.models.count import BACKWARD, count
from vitctl.models.masked import check_masked
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.ceiling import measure_ceiling
from vitctl.training.device import choose_device
from vitctl.training.environment import Environment, make_environment
from vitctl.training.fit import Fit, Fitted
from vitctl.training.masked import check_unlabeled, make_masked_task
from vitctl.training.ranks import join_ranks, ranks_here
from vitctl.training.stop import Stop
from vitctl.training.task import TrainTask
from vitctl.workflows.choose import warn_enlarged
from vitctl.workflows.train.conclude import read_concluded
from vitctl.workflows.train.fresh import fresh_spec, fresh_weights_for
from vitctl.workflows.train.start import Data, Request, Started, Ways, start

PICTURES = "reconstructions"  # in the run directory


@dataclass(frozen=True)
class SelfsupResult:
    run: str | None
    model: str
    res: list[int]
    objective: str
    recipe: str
    data: str
    data_digest: str
    parameters: int  # of the encoder
    steps: int
    epochs: float
    batch: int
    micro_batch: int
    ranks: int
    device: str
    precision: str
    seed: int
    hidden: int  # patches of an image
    patches: int
    loss: float
    val_loss: float | None
    val_top1: float | None  # hidden patches that are told rightly
    probe_shots: int
    probe_top1: float | None  # of the frozen encoder, on val
    weights: str | None
    pictures: str | None
    digest: str
    images_per_s: float
    ceiling_share: float
    elapsed_s: float


def selfsup(
    flags: dict[str, Any] | None = None, reporter: Reporter | None = None, **ways: Unpack[Ways]
) -> SelfsupResult:
    """`flags` are fields of TrainConfig: `selfsup({"model": "vit-s/16", "objective": "mae", "data": "photos/"})`."""
    reporter, began = reporter or SilentReporter(), time.perf_counter()
    request = Request("selfsup", dict(flags or {}), **ways)
    device = choose_device(request.flags.get("device") or "auto", ranks_here())
    with join_ranks(device) as ranks:
        model = model_spec(request.flags.get("model") or TrainConfig.model, pad=True)  # its size is not known yet
        with start(request, model, ranks, device, reporter, encoder_spec) as started:
            if started.run and started.run.result:
                return read_concluded(SelfsupResult, started.run, reporter)
            config, data = started.config, started.data
            train = limit_split(data.train, config.limit, config.seed)
            begun = fresh_weights_for("selfsup", encoder_spec(config, data), config, data)
            about = begun.about.training | {
                "objective": config.objective,
                "masking": dataclasses.asdict(config.masking),
            }
            begun = replace(begun, about=replace(begun.about, training=about))
            warn_enlarged(data.file, begun.spec, reporter)
            with Stop(reporter.warn) as stop:
                place = make_environment(config, train, data.val, ranks, device, reporter, stop)
                task = make_masked_task(config, begun, place, started.run.path / PICTURES if started.run else None)
                fitted = Fit(config, task, place, started.run).train()
            return conclude_selfsup(started, place, begun.spec, task, fitted, time.perf_counter() - began)


def encoder_spec(config: TrainConfig, data: Data) -> ModelSpec:
    """Without a head; the mean of the patches stands for an image, as it is patches that are taught."""
    check_unlabeled(config)
    spec = fresh_spec(replace(config, hidden=False), data, classes=0)
    check_masked(spec, config.objective, config.masking)
    return spec if config.head else replace(spec, head="gap")


def conclude_selfsup(
    started: Started, place: Environment, spec: ModelSpec, task: TrainTask, fitted: Fitted, elapsed: float
) -> SelfsupResult:
    config, data, run = started.config, started.data, started.run
    flops = BACKWARD * task.flops * fitted.images_per_s / place.ranks.world
    patches = spec.grid[0] * spec.grid[1]
    result = SelfsupResult(
        run=str(run.path) if run else None,
        model=spec.name,
        res=[spec.height, spec.width],
        objective=config.objective,
        recipe=config.recipe,
        data=str(data.path),
        data_digest=data.file.digest,
        parameters=count(spec).parameters,
        steps=fitted.steps,
        epochs=fitted.steps * config.batch / place.train.rows,
        batch=config.batch,
        micro_batch=fitted.micro_batch,
        ranks=place.ranks.world,
        device=place.device.type,
        precision=place.precision,
        seed=config.seed,
        hidden=config.masking.counts(patches).hidden,
        patches=patches,
        loss=fitted.loss,
        val_loss=fitted.val.get("val_loss"),
        val_top1=fitted.val.get("val_top1"),
        probe_shots=config.probe,
        probe_top1=fitted.val.get("probe_top1"),
        weights=str(run.weights) if run else None,
        pictures=str(run.path / PICTURES) if run else None,
        digest=fitted.digest,
        images_per_s=fitted.images_per_s,
        ceiling_share=flops / measure_ceiling(place.precision, place.device),
        elapsed_s=elapsed,
    )
    if run and place.ranks.first:
        title = f"{spec.name}, {config.objective}, on {data.path.name}"
        draw_curves(run.metrics(), run.path / "curves.png", title, "hidden patches that are right")
        run.finish(dataclasses.asdict(result))
    return result
