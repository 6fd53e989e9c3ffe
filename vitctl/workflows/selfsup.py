"""`vitctl selfsup`: a model from scratch, without labels, by patches that are hidden from it."""

import dataclasses
import time
from dataclasses import dataclass, replace
from typing import Any, Unpack

from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.train import TrainConfig
from vitctl.inspection.curves import draw_curves
from vitctl.models.count import BACKWARD, count
from vitctl.models.masked import check_masked
from vitctl.reporting import Reporter, Silent
from vitctl.training.ceiling import ceiling
from vitctl.training.ranks import joined, ranks_here
from vitctl.training.stop import Stop
from vitctl.workflows.choose import warn_enlarged
from vitctl.workflows.train.conclude import concluded
from vitctl.workflows.train.fit import Fit, Fitted
from vitctl.workflows.train.fresh import fresh, spec_of
from vitctl.workflows.train.masked import check_unlabelled, masked
from vitctl.workflows.train.parts import limited
from vitctl.workflows.train.place import Place, place_of
from vitctl.workflows.train.start import Data, Request, Started, Ways, device_of, start
from vitctl.workflows.train.task import Task

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
    hidden: int  # patches of a picture
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
    reporter, began = reporter or Silent(), time.perf_counter()
    request = Request("selfsup", dict(flags or {}), **ways)
    device = device_of(request.flags.get("device") or "auto", ranks_here())
    with joined(device) as ranks:
        model = model_spec(request.flags.get("model") or TrainConfig.model, pad=True)  # its size is not known yet
        with start(request, model, ranks, device, reporter, encoder_spec) as started:
            if started.run and started.run.result:
                return concluded(SelfsupResult, started.run, reporter)
            config, data = started.config, started.data
            train = limited(data.train, config.limit, config.seed)
            begun = fresh("selfsup", encoder_spec(config, data), config, data)
            about = begun.about.training | {
                "objective": config.objective,
                "masking": dataclasses.asdict(config.masking),
            }
            begun = replace(begun, about=replace(begun.about, training=about))
            warn_enlarged(data.file, begun.spec, reporter)
            with Stop(reporter.warn) as stop:
                place = place_of(config, train, data.val, ranks, device, reporter, stop)
                task = masked(config, begun, place, started.run.path / PICTURES if started.run else None)
                fitted = Fit(config, task, place, started.run).to_the_end()
            return conclude(started, place, begun.spec, task, fitted, time.perf_counter() - began)


def encoder_spec(config: TrainConfig, data: Data) -> ModelSpec:
    """Without a head; the mean of the patches stands for a picture, as it is patches that are taught."""
    check_unlabelled(config)
    spec = spec_of(replace(config, hidden=False), data, classes=0)
    check_masked(spec, config.objective, config.masking)
    return spec if config.head else replace(spec, head="gap")


def conclude(
    started: Started, place: Place, spec: ModelSpec, task: Task, fitted: Fitted, elapsed: float
) -> SelfsupResult:
    config, data, run = started.config, started.data, started.run
    flops = BACKWARD * task.flops * fitted.pictures_per_s / place.ranks.world
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
        images_per_s=fitted.pictures_per_s,
        ceiling_share=flops / ceiling(place.precision, place.device),
        elapsed_s=elapsed,
    )
    if run and place.ranks.first:
        title = f"{spec.name}, {config.objective}, on {data.path.name}"
        draw_curves(run.metrics(), run.path / "curves.png", title, "hidden patches that are right")
        run.finish(dataclasses.asdict(result))
    return result
