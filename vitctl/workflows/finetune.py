"""`vitctl finetune`: transfer to another data set, and to another resolution, with a new head or the old one."""

import shutil
import time
from dataclasses import replace
from typing import Any, Unpack

from vitctl import __version__
from vitctl.config.checks import parse_resolution
from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.overrides import override
from vitctl.config.train import TrainConfig
from vitctl.data.subsets import hold_out, limit_split
from vitctl.errors import UsageError
from vitctl.io.run_directory import RunDirectory
from vitctl.io.weights import Weights
from vitctl.models.adapt import adapt_weights, classes_differ, keep_head, pool_norm, replace_head
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import choose_device
from vitctl.training.environment import Environment, make_environment
from vitctl.training.fit import Fit
from vitctl.training.ranks import join_ranks, ranks_here
from vitctl.training.stop import Stop
from vitctl.training.task import make_labeled_task
from vitctl.workflows.choose import warn_enlarged
from vitctl.workflows.load import choose_weights, tell_changes
from vitctl.workflows.train.conclude import TrainResult, conclude_training, read_concluded
from vitctl.workflows.train.start import Data, Request, Ways, find_resumable, start, with_flags

Score = tuple[float, float]  # accuracy, and the loss, negative: a tie goes to the lower one
DEV = ((10_000, 0.10), (100_000, 0.02), (float("inf"), 0.01))  # of a set up to this size, as in the paper


def finetune(
    flags: dict[str, Any] | None = None, reporter: Reporter | None = None, **ways: Unpack[Ways]
) -> TrainResult:
    """`flags` are fields of TrainConfig: `finetune({"source": "weights.npz", "res": "384", "data": "photos/"})`."""
    reporter, began = reporter or SilentReporter(), time.perf_counter()
    request = Request("finetune", dict(flags or {}), **ways)
    device = choose_device(request.flags.get("device") or "auto", ranks_here())
    with join_ranks(device) as ranks:
        weights = None
        if not find_resumable(request.resume, request.out, "finetune"):
            weights = choose_weights(request.flags.get("source"), reporter, False, *parse_normalization_flags(request))
            request.flags.update(model=weights.spec.name, source=weights.path)

        def load_source(config: TrainConfig) -> Weights:
            return choose_weights(config.source, reporter, False, config.mean, config.std)

        def begin(config: TrainConfig, data: Data) -> Weights:
            return transfer_weights(weights or load_source(config), config, data)

        model = weights.spec if weights else model_spec(TrainConfig.model)
        with start(request, model, ranks, device, reporter, begin) as started:
            if started.run and started.run.result:
                return read_concluded(TrainResult, started.run, reporter)
            config, data = started.config, started.data
            begun, train = begin(config, data), limit_split(data.train, config.limit, config.seed)
            if weights:
                tell_changes(weights, begun, reporter)
            warn_enlarged(data.file, begun.spec, reporter)
            with Stop(reporter.warn) as stop:
                place = make_environment(config, train, data.val, ranks, device, reporter, stop)
                tried = run_lr_trials(config, begun, place, started.run)
                if tried:
                    config = with_lr(config, max(tried, key=lambda lr: (*tried[lr], -lr)))
                    reporter.note(f"lr {config.optim.lr:g} was best on the held out part; now on all {train.rows:,}")
                fitted = Fit(config, make_labeled_task(config, begun, place), place, started.run).train()
            named = {f"{lr:g}": top1 for lr, (top1, _) in tried.items()}
            done = replace(started, config=config)
            return conclude_training(done, place, begun.spec, fitted, time.perf_counter() - began, named)


def parse_normalization_flags(request: Request) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std by flag or by --set, before the rest of the config is settled."""
    flags = {name: request.flags.get(name) for name in ("mean", "std")}
    settings = [each for each in request.settings if each.partition("=")[0].strip() in flags]
    config = override(with_flags(TrainConfig(), flags), settings)
    return config.mean, config.std


def transfer_weights(weights: Weights, config: TrainConfig, data: Data) -> Weights:
    """The weights of step 0: other positions, other channels, a new head, and the model's own name for classes."""
    geometry = data.file.geometry
    size = parse_resolution(config.res) if config.res else (weights.spec.height, weights.spec.width)
    before = weights.digest()
    weights = adapt_weights(weights, *size, geometry.channels)
    weights = with_head(weights, config, data.file.class_names)
    if weights.spec.family != "timm":
        spec = weights.spec.replace(dropout=config.dropout, drop_path=config.drop_path)
        weights = replace(weights, spec=with_pooling(spec, config.head))
    weights = with_norm(weights, config.norm)
    training = {
        "command": "finetune",
        "recipe": config.recipe,
        "seed": config.seed,
        "data_digest": data.file.digest,
        "from_digest": before,
        "before": weights.about.training,
    }
    about = replace(
        weights.about,
        source="",
        class_names=data.file.class_names,
        fit=data.file.header.fit,
        training=training,
        created_by=f"vitctl {__version__}",
    )
    return replace(weights, about=about, extra={}, notes=())


def with_head(weights: Weights, config: TrainConfig, names: tuple[str, ...]) -> Weights:
    """A new head, unless the weights' own is to be kept and has the classes of the data."""
    differ = "" if config.keep_head == "never" else classes_differ(weights, names)
    if differ and config.keep_head == "always":
        raise UsageError(f"--keep-head: {differ}; leave it out for a new head")
    if differ or config.keep_head == "never":
        return replace_head(weights, len(names), config.head_std, config.seed, differ)
    return keep_head(weights, names)


def with_pooling(spec: ModelSpec, head: str | None) -> ModelSpec:
    """The mean of the patches may be taken in place of the class token, which stays, as MAE fine-tunes."""
    if head in (None, spec.head):
        return spec
    if (spec.head, head) != ("cls", "gap"):
        raise UsageError(f"these weights have head {spec.head}, which cannot become {head}")
    return replace(spec, head="gap")


def with_norm(weights: Weights, norm: str | None) -> Weights:
    """The last norm may be a fresh one behind the pooling. Weights that have it there already keep theirs."""
    spec = weights.spec
    if norm in (None, spec.norm):
        return weights
    if norm == "tokens" or spec.family in ("bit", "timm"):
        raise UsageError(f"these weights, {spec.name}, cannot have norm {norm}; leave it out by --set norm=none")
    return pool_norm(weights)


def run_lr_trials(
    config: TrainConfig, begun: Weights, place: Environment, run: RunDirectory | None
) -> dict[float, Score]:
    """{lr: accuracy, and loss, on a part of the training data that the others are trained without}."""
    if not config.lrs or run is None:
        return {}
    share = next(share for size, share in DEV if place.train.rows < size)
    rest, dev = hold_out(place.train, share, config.seed)
    place.reporter.note(
        f"{len(config.lrs)} learning rates are tried with {rest.rows:,} images on the other {dev.rows:,}"
    )
    part = replace(place, train=rest, val=dev)
    return {lr: run_lr_trial(with_lr(config, lr), begun, part, run.part(f"trials/lr-{lr:g}")) for lr in config.lrs}


def run_lr_trial(config: TrainConfig, begun: Weights, place: Environment, run: RunDirectory) -> Score:
    if not run.result:
        fitted = Fit(config, make_labeled_task(config, begun, place), place, run).train()
        place.ranks.barrier()
        if place.ranks.first:
            run.finish(
                {"lr": config.optim.lr} | {name.removeprefix("val_"): value for name, value in fitted.val.items()}
            )
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            for path in (run.weights, run.best):
                path.unlink(missing_ok=True)
        place.ranks.barrier()
    assert run.result is not None
    place.reporter.note(
        f"lr {config.optim.lr:g}: top-1 {run.result['top1']:.2%}, loss {run.result['loss']:.4f} on the held out part"
    )
    return float(run.result["top1"]), -float(run.result["loss"])


def with_lr(config: TrainConfig, lr: float) -> TrainConfig:
    return replace(config, optim=replace(config.optim, lr=lr))
