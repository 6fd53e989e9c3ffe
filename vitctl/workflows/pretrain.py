"""`vitctl pretrain`: a model from scratch, with labels."""

import time
from typing import Any, Unpack

from vitctl import __version__
from vitctl.config.checks import resolution
from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.train import TrainConfig
from vitctl.io.weights import HALF, About, Weights, for_channels
from vitctl.models.create import create_model, named_tensors
from vitctl.reporting import Reporter, Silent
from vitctl.training.ranks import joined, ranks_here
from vitctl.training.stop import Stop
from vitctl.workflows.train.conclude import TrainResult, conclude, concluded
from vitctl.workflows.train.fit import Fit
from vitctl.workflows.train.parts import limited
from vitctl.workflows.train.place import place_of
from vitctl.workflows.train.start import Data, Request, Ways, device_of, start
from vitctl.workflows.train.task import labelled


def pretrain(
    flags: dict[str, Any] | None = None, reporter: Reporter | None = None, **ways: Unpack[Ways]
) -> TrainResult:
    """`flags` are fields of TrainConfig over those of a recipe: `pretrain({"model": "vit-s/16", "epochs": 10})`."""
    reporter, began = reporter or Silent(), time.perf_counter()
    request = Request("pretrain", dict(flags or {}), **ways)
    device = device_of(request.flags.get("device") or "auto", ranks_here())
    with joined(device) as ranks:
        model = model_spec(request.flags.get("model") or TrainConfig.model, pad=True)  # its size is not known yet
        started = start(request, model, ranks, device, reporter, spec_of)
        if started.run and started.run.result:
            return concluded(started.run, reporter)
        config, data = started.config, started.data
        train = limited(data.train, config.limit, config.seed)
        begun = fresh(config, data)
        with Stop() as stop:
            place = place_of(config, train, data.val, ranks, device, reporter, stop)
            fitted = Fit(config, labelled(config, begun, place), place, started.run).to_the_end()
        return conclude(started, place, begun.spec, fitted, time.perf_counter() - began)


def fresh(config: TrainConfig, data: Data) -> Weights:
    """The weights of step 0."""
    spec = spec_of(config, data)
    model = create_model(spec, seed=config.seed, head_bias=config.head_bias)
    mean, std = (for_channels(values, spec.channels) for values in HALF)
    training = {
        "command": "pretrain",
        "recipe": config.recipe,
        "seed": config.seed,
        "data_digest": data.file.digest,
    }
    about = About(
        "vitctl",
        "a fresh model",
        mean,
        std,
        data.file.class_names,
        training=training,
        created_by=f"vitctl {__version__}",
    )
    return Weights(spec, named_tensors(model), about)


def spec_of(config: TrainConfig, data: Data) -> ModelSpec:
    geometry = data.file.geometry
    height, width = resolution(config.res) if config.res else (geometry.height, geometry.width)
    options: dict[str, Any] = {
        "height": height,
        "width": width,
        "channels": geometry.channels,
        "classes": len(data.file.class_names),
        "pad": config.pad,
        "dropout": config.dropout,
        "drop_path": config.drop_path,
    }
    options |= {name: getattr(config, name) for name in ("head", "positions") if getattr(config, name) is not None}
    spec = model_spec(config.model, **options)
    return spec.changed(hidden=spec.dim) if config.hidden and spec.family in ("vit", "hybrid") else spec
