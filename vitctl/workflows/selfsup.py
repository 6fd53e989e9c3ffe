"""`vitctl selfsup`: trains a model from scratch, without labels, by predicting hidden patches."""

from dataclasses import asdict, replace

from vitctl.config.model import ModelSpec
from vitctl.config.train import RunOptions, SelfsupConfig
from vitctl.io.weights import Weights
from vitctl.models.masked import check_masked
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.masked import check_unlabeled, make_masked_task
from vitctl.workflows.train.fresh import choose_fresh_model, fresh_spec, make_fresh_weights
from vitctl.workflows.train.result import SelfsupResult, make_result
from vitctl.workflows.train.run import run_training
from vitctl.workflows.train.start import Data, Started

IMAGES = "reconstructions"  # folder in the run directory


def selfsup(
    config: SelfsupConfig, options: RunOptions | None = None, reporter: Reporter | None = None
) -> SelfsupResult:
    """`selfsup(SelfsupConfig(model="vit-s/16", objective="mae", data="photos/"))`

    The recipe sets all other fields.
    """
    return run_training(
        config,
        options or RunOptions(),
        reporter or SilentReporter(),
        SelfsupResult,
        choose_fresh_model,
        make_selfsup_weights,
        fit_masked,
    )


def make_selfsup_weights(config: SelfsupConfig, data: Data) -> Weights:
    weights = make_fresh_weights(encoder_spec(config, data), config, data)
    masking = {"objective": config.objective, "masking": asdict(config.masking)}
    return replace(weights, about=replace(weights.about, training=weights.about.training | masking))


def encoder_spec(config: SelfsupConfig, data: Data) -> ModelSpec:
    """The model without a head. The mean of the patches represents an image, because only patches are trained."""
    check_unlabeled(config)
    spec = fresh_spec(replace(config, hidden=False), data, classes=0)
    check_masked(spec, config.objective, config.masking)
    return spec if config.head else replace(spec, head="gap")


def fit_masked(started: Started[SelfsupConfig], env: Environment, start_time: float) -> SelfsupResult:
    config, run, spec = started.config, started.run, started.weights.spec
    images = run.path / IMAGES if run else None
    task = make_masked_task(config, started.weights, env, images)
    fitted = Fit(config, task, env, run).train()
    patches = spec.grid[0] * spec.grid[1]
    more = {
        "objective": config.objective,
        "hidden": config.masking.counts(patches).hidden,
        "patches": patches,
        "val_top1": fitted.val.get("val_top1"),
        "probe_shots": config.probe,
        "probe_top1": fitted.val.get("probe_top1"),
        "pictures": str(images) if images else None,
    }
    title = f"{spec.name}, {config.objective}, on {started.data.path.name}"
    score = "hidden patches that are correct"
    return make_result(SelfsupResult, started, env, fitted, task.flops, start_time, more, title, score)
