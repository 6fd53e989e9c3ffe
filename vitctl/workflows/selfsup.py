"""`vitctl selfsup`: trains a model from scratch, without labels, by predicting hidden patches."""

from dataclasses import asdict, replace

from vitctl import __version__
from vitctl.config.model import ModelSpec
from vitctl.config.option import with_fields
from vitctl.config.train import RunOptions, SelfsupConfig
from vitctl.errors import UsageError
from vitctl.io.weights import Weights
from vitctl.models.adapt import adapt_weights, replace_head
from vitctl.models.masked import check_masked
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.masked import check_unlabeled, make_masked_task
from vitctl.workflows.inputs.weights import choose_weights, tell_changes
from vitctl.workflows.train.fresh import choose_fresh_model, describe_training, fresh_spec, make_fresh_weights
from vitctl.workflows.train.result import SelfsupResult, make_result
from vitctl.workflows.train.run import run_training
from vitctl.workflows.train.start import Base, Data, Started

IMAGES = "reconstructions"  # folder in the run directory


def selfsup(
    config: SelfsupConfig, options: RunOptions | None = None, reporter: Reporter | None = None
) -> SelfsupResult:
    """`selfsup(SelfsupConfig(model="vit-s/16", objective="mae", data="photos/"))`

    The recipe sets all other fields.
    """
    reporter = reporter or SilentReporter()
    loaded: list[Weights] = []

    def choose(config: SelfsupConfig, is_new: bool) -> tuple[SelfsupConfig, Base]:
        if not config.source or not is_new:
            return choose_fresh_model(config, is_new)
        named = sorted(config.named & {"model", "shape", "positions", "head", "hidden", "pad", "init", "mean", "std"})
        if named:
            raise UsageError(f"{named[0]} cannot be chosen with --from: the weights decide it")
        loaded.append(choose_weights(config.source, reporter))
        spec = loaded[0].spec
        return with_fields(config, source=loaded[0].path, model=spec.name), Base(spec)

    def begin(config: SelfsupConfig, data: Data) -> Weights:
        if not config.source:
            return make_selfsup_weights(config, data)
        source = loaded[0] if loaded else choose_weights(config.source, SilentReporter())
        weights = continue_weights(source, config, data)
        tell_changes(source, weights, reporter)
        return weights

    return run_training(config, options or RunOptions(), reporter, SelfsupResult, choose, begin, fit_masked)


def make_selfsup_weights(config: SelfsupConfig, data: Data) -> Weights:
    return with_objective(make_fresh_weights(encoder_spec(config, data), config, data), config)


def with_objective(weights: Weights, config: SelfsupConfig) -> Weights:
    masking = {"objective": config.objective, "masking": asdict(config.masking)}
    return replace(weights, about=replace(weights.about, training=weights.about.training | masking))


def continue_weights(weights: Weights, config: SelfsupConfig, data: Data) -> Weights:
    """The encoder of these weights, for the images of the data and without a head."""
    check_unlabeled(config)
    geometry, before = data.file.geometry, weights.digest()
    height, width = config.res or data.file.header.training_res
    weights = replace_head(adapt_weights(weights, height, width, geometry.channels), 0)
    spec, tensors = weights.spec, weights.tensors
    if spec.head == "map":  # its pooling would need labels
        spec = replace(spec, head="gap")
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("attn_pool.")}
    spec = replace(spec, dropout=config.dropout, drop_path=config.drop_path, patch_dropout=0.0)
    check_masked(spec, config.objective, config.masking)
    training = describe_training(config, data) | {"from_digest": before, "before": weights.about.training}
    about = replace(
        weights.about, source="", training=training, fit=data.file.header.model_fit, created_by=f"vitctl {__version__}"
    )
    return with_objective(replace(weights, spec=spec, tensors=tensors, about=about, notes=()), config)


def encoder_spec(config: SelfsupConfig, data: Data) -> ModelSpec:
    """The model without a head. The mean of the patches represents an image, because only patches are trained."""
    check_unlabeled(config)
    spec = fresh_spec(replace(config, hidden=False), data, classes=0)
    check_masked(spec, config.objective, config.masking)
    return spec if config.head else replace(spec, head="gap")


def fit_masked(started: Started[SelfsupConfig], env: Environment) -> SelfsupResult:
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
    title = f"{spec.name} at {spec.res} on {started.data.path.name}, {config.objective}, recipe {config.recipe}"
    score = "accuracy on hidden patches"
    return make_result(SelfsupResult, started, env, fitted, task.flops, more, title, score)
