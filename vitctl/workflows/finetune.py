"""`vitctl finetune`: transfer to another data set, and to another resolution, with a new head or the old one."""

import shutil
from dataclasses import replace
from typing import Any

from vitctl import __version__
from vitctl.config.eval_crop import parse_eval_crop
from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.option import with_fields
from vitctl.config.train import FinetuneConfig, RunOptions
from vitctl.data.subsets import hold_out
from vitctl.errors import UsageError
from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import RunDirectory
from vitctl.io.weights import Weights
from vitctl.models.adapt import adapt_weights, classes_differ, keep_head, pool_norm, record, replace_head
from vitctl.models.adapt_timm import has_rate, meta_module
from vitctl.models.lora import add_adapters
from vitctl.probing.metrics import MAIN, describe_metrics
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.task import make_labeled_task
from vitctl.workflows.inputs.data import LABEL_WORDS
from vitctl.workflows.inputs.weights import choose_weights, tell_changes
from vitctl.workflows.train.fresh import describe_training
from vitctl.workflows.train.result import TrainResult, make_train_result
from vitctl.workflows.train.run import run_training
from vitctl.workflows.train.start import Base, Data, Started, answer_fields, count_outputs

Score = tuple[float, float, float]  # what chooses, the main metric of the labels, and the negative loss
DEV = (
    (10_000, 0.10),
    (100_000, 0.02),
    (float("inf"), 0.01),
)  # held-out share of a set up to this size, as in the paper


def finetune(
    config: FinetuneConfig, options: RunOptions | None = None, reporter: Reporter | None = None
) -> TrainResult:
    """`finetune(FinetuneConfig(source="weights.npz", res=Res(384), data="photos/"))`

    The recipe decides the fields that are not named.
    """
    reporter = reporter or SilentReporter()
    asked = config.named
    loaded: list[Weights] = []  # of a new run

    def choose(config: FinetuneConfig, is_new: bool) -> tuple[FinetuneConfig, Base]:
        if not is_new:
            return config, Base(model_spec("vit-b/16"))  # unused: a run that is resumed knows its own model
        loaded.append(choose_weights(config.source, reporter, False, config))
        base = Base(loaded[0].spec, loaded[0].about.format.startswith("official"))
        return with_fields(config, source=loaded[0].path), base

    def begin(config: FinetuneConfig, data: Data) -> Weights:
        if not loaded:
            weights = choose_weights(config.source, reporter, False, config)
            return transfer_weights(weights, config, data, asked)
        weights = transfer_weights(loaded[0], config, data, asked)
        tell_changes(loaded[0], weights, reporter)
        return weights

    def fit(started: Started[FinetuneConfig], env: Environment) -> TrainResult:
        config = started.config
        tried = run_lr_trials(config, started.weights, env, started.run)
        if tried:
            config = with_lr(config, max(tried, key=lambda lr: (*tried[lr], -lr)))
            reporter.note(f"lr {config.optim.lr:g} was best on the held-out part; training on all {env.train.rows:,}")
        fitted = Fit(config, make_labeled_task(config, started.weights, env), env, started.run).train()
        named = {f"{lr:g}": score for lr, (_, score, _) in tried.items()}
        return make_train_result(replace(started, config=config), env, fitted, named)

    return run_training(config, options or RunOptions(), reporter, TrainResult, choose, begin, fit)


def transfer_weights(
    weights: Weights, config: FinetuneConfig, data: Data, asked: frozenset[str] = frozenset()
) -> Weights:
    """The weights of step 0: resized positions, other channels, a new head, the class names of the data.

    `asked` are the fields that the user named; other rates are dropped if the architecture does not have them.
    """
    geometry = data.file.geometry
    height, width = config.res or (weights.spec.height, weights.spec.width)
    before = weights.digest()
    weights = adapt_weights(weights, height, width, geometry.channels)
    weights, answers = with_head(weights, config, data)
    weights = with_norm(with_rates(weights, config, asked), config.norm)
    weights = replace(weights, spec=with_pooling(weights.spec, config.head))
    training = describe_training(config, data) | {"from_digest": before, "before": weights.about.training}
    if config.lora.rank:
        add_adapters(meta_module(weights.spec), config.lora, config.seed)  # an error comes before a run is created
        training["lora"] = {"rank": config.lora.rank, "scale": config.lora.scale}
    about = replace(
        weights.about,
        source="",
        **answers,
        training=training,
        created_by=f"vitctl {__version__}",
    ).with_eval_crop(
        parse_eval_crop(config.eval_crop, replace(weights.about.eval_crop, fit=data.file.header.model_fit))
    )
    return replace(weights, about=about, extra={}, notes=())


def with_head(weights: Weights, config: FinetuneConfig, data: Data) -> tuple[Weights, dict[str, Any]]:
    """A new head, unless the old one is kept and has the classes of the data; and what its answers are."""
    answers, names = answer_fields(config, data), data.file.class_names
    differ = "" if config.keep_head == "never" else answers_differ(weights, data.file)
    if differ and config.keep_head == "always":
        raise UsageError(f"--keep-head: {differ}; leave it out for a new head")
    if differ or config.keep_head == "never":
        return replace_head(weights, count_outputs(data.file), config.head_std, config.seed, differ), answers
    kept = keep_head(weights, names)
    return kept, answers | {"target": kept.about.target}


def answers_differ(weights: Weights, file: PatchFile) -> str:
    """Why the head does not fit these labels; empty if it does."""
    own, task = weights.about.task, file.header.task
    if weights.spec.classes and own != task:
        return f"the weights answer with {LABEL_WORDS[own]} and the data has {LABEL_WORDS[task]} per image"
    return classes_differ(weights, file.class_names) if task != "numbers" or not weights.spec.classes else ""


def with_rates(weights: Weights, config: FinetuneConfig, asked: frozenset[str]) -> Weights:
    """With dropout and stochastic depth. Some of timm's models lack one of them: there, a recipe's rate is dropped."""
    rates = {name: getattr(config, name) for name in ("dropout", "drop_path", "patch_dropout")}
    spec = weights.spec
    for name, rate in rates.items():
        if rate and spec.family == "timm" and not has_rate(spec, name):
            if name in asked:
                raise UsageError(f"{spec.name}: has no {name.replace('_', ' ')}; omit --set {name}={rate:g}")
            weights = record(weights, name.replace("_", " "), rate, 0, "this architecture has none")
            rates[name] = 0.0
    return replace(weights, spec=spec.replace(**rates))


def with_pooling(spec: ModelSpec, head: str | None) -> ModelSpec:
    """Pool the mean of the patches in place of the class token, which stays in the model, as MAE fine-tunes."""
    if head in (None, spec.head):
        return spec
    if spec.family == "timm":
        raise UsageError(f"{spec.name}: timm decides how it pools; omit --set head={head}")
    if (spec.head, head) != ("cls", "gap"):
        raise UsageError(f"these weights have head {spec.head}, which cannot become {head}")
    return replace(spec, head="gap")


def with_norm(weights: Weights, norm: str | None) -> Weights:
    """Put a fresh last norm after the pooling. Weights that have it there already keep theirs."""
    spec = weights.spec
    if norm in (None, spec.norm):
        return weights
    if norm == "tokens" or spec.family in ("bit", "timm"):
        raise UsageError(f"these weights, {spec.name}, cannot have norm {norm}; leave it out by --set norm=none")
    return pool_norm(weights)


def run_lr_trials(
    config: FinetuneConfig, weights: Weights, env: Environment, run: RunDirectory | None
) -> dict[float, Score]:
    """{lr: its score on a held-out part of the training data}."""
    if not config.lrs or run is None:
        return {}
    share = next(share for size, share in DEV if env.train.rows < size)
    rest, dev = hold_out(env.train, share, config.seed)
    env.reporter.note(
        f"{len(config.lrs)} learning rates are tried: {rest.rows:,} images to train on, {dev.rows:,} held out"
    )
    part = replace(env, train=rest, val=dev)
    scores = {}
    for number, lr in enumerate(config.lrs, 1):
        trial = with_lr(config, lr)
        if config.minutes:  # counted from the start of the command, in equal parts, of which the last is the run's
            trial = replace(trial, minutes=config.minutes * number / (len(config.lrs) + 1))
        scores[lr] = run_lr_trial(trial, weights, part, run.part(f"trials/lr-{lr:g}"))
    return scores


def run_lr_trial(config: FinetuneConfig, weights: Weights, env: Environment, run: RunDirectory) -> Score:
    if not run.result:
        fitted = Fit(config, make_labeled_task(config, weights, env), env, run).train()
        env.ranks.barrier()
        if env.ranks.first:
            run.finish(
                {"lr": config.optim.lr} | {name.removeprefix("val_"): value for name, value in fitted.val.items()}
            )
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            for path in (run.weights, run.best):
                path.unlink(missing_ok=True)
        env.ranks.barrier()
    assert run.result is not None
    main, scores = MAIN[weights.about.task], run.result
    env.reporter.note(f"lr {config.optim.lr:g}: {describe_metrics(scores, main, 'loss')} on the held-out part")
    best, loss = main if config.best == "top1" else config.best, float(scores["loss"])
    value = -loss if best == "loss" else float(scores.get(best, 0.0))  # which the held-out part may say nothing of
    return value, float(scores.get(main, 0.0)), -loss


def with_lr(config: FinetuneConfig, lr: float) -> FinetuneConfig:
    return replace(config, optim=replace(config.optim, lr=lr))
