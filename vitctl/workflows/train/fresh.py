"""A model before its first step."""

from typing import Any, TypeVar

from vitctl import __version__
from vitctl.config.checks import require
from vitctl.config.eval_crop import EvalCrop, parse_eval_crop
from vitctl.config.model import ModelSpec, Norm, model_spec
from vitctl.config.train import LabeledConfig, PretrainConfig, SelfsupConfig, TrainConfig
from vitctl.io.weights import HALF, IMAGENET, About, Weights, for_channels
from vitctl.models.create import collect_tensors, create_model
from vitctl.patches import round_to
from vitctl.workflows.train.start import Base, Data, answer_fields

OWN = "vit"  # a shape that has no name
FreshConfig = PretrainConfig | SelfsupConfig  # those that start from scratch
Config = TypeVar("Config", PretrainConfig, SelfsupConfig)


def choose_fresh_model(config: Config, _is_new: bool) -> tuple[Config, Base]:
    return config, Base(model_spec(config.model, pad=True))  # its size is not known before the data


def make_fresh_weights(
    spec: ModelSpec, config: FreshConfig, data: Data, head_bias: float = 0.0, head_std: float = 0.0
) -> Weights:
    require(config.init == "official" or spec.family != "timm", f"init {config.init}: {spec.name} has timm's own")
    require(config.init != "mimetic" or spec.family != "bit", f"init mimetic: {spec.name} has no attention")
    model = create_model(spec, seed=config.seed, head_bias=head_bias, head_std=head_std, init=config.init)
    mean, std = choose_normalization(config, spec.channels)
    about = About(
        "vitctl",
        "a fresh model",
        mean,
        std,
        **(answer_fields(config, data) if isinstance(config, LabeledConfig) else {}),
        training=describe_training(config, data),
        created_by=f"vitctl {__version__}",
    ).with_eval_crop(parse_eval_crop(config.eval_crop, EvalCrop(data.file.header.model_fit)))
    return Weights(spec, collect_tensors(model), about)


def choose_normalization(config: FreshConfig, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels; of a recipe's three numbers, those that this data has channels for."""
    given = config.mean or HALF[0], config.std or HALF[1]
    for name, values in zip(("mean", "std"), given, strict=True):
        fits = len(values) in (1, channels) or values in (*HALF, *IMAGENET)
        require(fits, f"{name} has {len(values)} numbers; use one for all channels, or one for each of the {channels}")
    return for_channels(given[0], channels), for_channels(given[1], channels)


def describe_training(config: TrainConfig, data: Data) -> dict[str, Any]:
    """What weights say about the training that made them."""
    return {
        "command": config.command,
        "recipe": config.recipe,
        "seed": config.seed,
        "data_digest": data.file.digest,
    }


def fit_patches(config: FreshConfig, height: int, width: int) -> tuple[int, int]:
    """The resolution of training where nothing names one: that of the data, in whole patches."""
    if config.pad or config.model.startswith(("bit-", "timm:")):
        return height, width
    reach = model_spec(config.model).reach
    return round_to(height, reach, up=True), round_to(width, reach, up=True)


def fresh_spec(config: FreshConfig, data: Data, classes: int, norm: Norm | None = None) -> ModelSpec:
    geometry, shape = data.file.geometry, config.shape.changes()
    height, width = config.res or fit_patches(config, *data.file.header.training_res)
    options: dict[str, Any] = {
        "height": height,
        "width": width,
        "channels": geometry.channels,
        "classes": classes,
        "pad": config.pad,
        "dropout": config.dropout,
        "drop_path": config.drop_path,
        "patch_dropout": getattr(config, "patch_dropout", 0.0),
    }
    chosen = {"head": config.head, "norm": norm, "positions": config.positions}
    options |= {name: value for name, value in chosen.items() if value is not None}
    if config.model.startswith(("bit-", "timm:")):
        require(norm is None, f"norm {norm}: {config.model} has its own; leave it out by --set norm=none")
        options.pop("positions", None)  # they have none, or their own
    spec = model_spec(config.model, **options | shape)
    if shape.keys() - {"added", "gelu"}:
        spec = spec.replace(name=OWN)  # the sizes that a name means never change
    return spec.replace(hidden=spec.dim) if config.hidden and spec.family in ("vit", "hybrid") else spec
