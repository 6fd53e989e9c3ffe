"""`vitctl pretrain`: a model from scratch, with labels."""

import time
from typing import Any, Unpack

from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.train import TrainConfig
from vitctl.reporting import Reporter, Silent
from vitctl.training.ranks import joined, ranks_here
from vitctl.training.stop import Stop
from vitctl.workflows.choose import warn_enlarged
from vitctl.workflows.train.conclude import TrainResult, conclude, concluded
from vitctl.workflows.train.fit import Fit
from vitctl.workflows.train.fresh import fresh, spec_of
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
        with start(request, model, ranks, device, reporter, pretrained_spec) as started:
            if started.run and started.run.result:
                return concluded(TrainResult, started.run, reporter)
            config, data = started.config, started.data
            train = limited(data.train, config.limit, config.seed)
            begun = fresh("pretrain", pretrained_spec(config, data), config, data)
            warn_enlarged(data.file, begun.spec, reporter)
            with Stop(reporter.warn) as stop:
                place = place_of(config, train, data.val, ranks, device, reporter, stop)
                fitted = Fit(config, labelled(config, begun, place), place, started.run).to_the_end()
            return conclude(started, place, begun.spec, fitted, time.perf_counter() - began)


def pretrained_spec(config: TrainConfig, data: Data) -> ModelSpec:
    return spec_of(config, data, len(data.file.class_names))
