"""`vitctl pretrain`: a model from scratch, with labels."""

import time
from typing import Any, Unpack

from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.train import TrainConfig
from vitctl.data.subsets import limit_split
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import choose_device
from vitctl.training.environment import make_environment
from vitctl.training.fit import Fit
from vitctl.training.ranks import join_ranks, ranks_here
from vitctl.training.stop import Stop
from vitctl.training.task import make_labeled_task
from vitctl.workflows.choose import warn_enlarged
from vitctl.workflows.train.conclude import TrainResult, conclude_training, read_concluded
from vitctl.workflows.train.fresh import fresh_spec, fresh_weights_for
from vitctl.workflows.train.start import Data, Request, Ways, start


def pretrain(
    flags: dict[str, Any] | None = None, reporter: Reporter | None = None, **ways: Unpack[Ways]
) -> TrainResult:
    """`flags` are fields of TrainConfig over those of a recipe: `pretrain({"model": "vit-s/16", "epochs": 10})`."""
    reporter, began = reporter or SilentReporter(), time.perf_counter()
    request = Request("pretrain", dict(flags or {}), **ways)
    device = choose_device(request.flags.get("device") or "auto", ranks_here())
    with join_ranks(device) as ranks:
        model = model_spec(request.flags.get("model") or TrainConfig.model, pad=True)  # its size is not known yet
        with start(request, model, ranks, device, reporter, choose_pretrain_spec) as started:
            if started.run and started.run.result:
                return read_concluded(TrainResult, started.run, reporter)
            config, data = started.config, started.data
            train = limit_split(data.train, config.limit, config.seed)
            begun = fresh_weights_for("pretrain", choose_pretrain_spec(config, data), config, data)
            warn_enlarged(data.file, begun.spec, reporter)
            with Stop(reporter.warn) as stop:
                place = make_environment(config, train, data.val, ranks, device, reporter, stop)
                fitted = Fit(config, make_labeled_task(config, begun, place), place, started.run).train()
            return conclude_training(started, place, begun.spec, fitted, time.perf_counter() - began)


def choose_pretrain_spec(config: TrainConfig, data: Data) -> ModelSpec:
    return fresh_spec(config, data, len(data.file.class_names))
