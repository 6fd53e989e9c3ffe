"""A model before its first step."""

from typing import Any

from vitctl import __version__
from vitctl.config.checks import parse_resolution, require
from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.train import TrainConfig
from vitctl.io.weights import HALF, About, Weights, for_channels
from vitctl.models.create import collect_tensors, create_model
from vitctl.workflows.train.start import Data

OWN = "vit"  # of a shape that no table has


def fresh_weights_for(command: str, spec: ModelSpec, config: TrainConfig, data: Data) -> Weights:
    model = create_model(spec, seed=config.seed, head_bias=config.head_bias, head_std=config.head_std)
    mean, std = (for_channels(values, spec.channels) for values in HALF)
    training = {
        "command": command,
        "recipe": config.recipe,
        "seed": config.seed,
        "data_digest": data.file.digest,
    }
    about = About(
        "vitctl",
        "a fresh model",
        mean,
        std,
        data.file.class_names if spec.classes else (),
        training=training,
        fit=data.file.header.fit,
        created_by=f"vitctl {__version__}",
    )
    return Weights(spec, collect_tensors(model), about)


def fresh_spec(config: TrainConfig, data: Data, classes: int) -> ModelSpec:
    geometry = data.file.geometry
    height, width = parse_resolution(config.res) if config.res else (geometry.height, geometry.width)
    options: dict[str, Any] = {
        "height": height,
        "width": width,
        "channels": geometry.channels,
        "classes": classes,
        "pad": config.pad,
        "dropout": config.dropout,
        "drop_path": config.drop_path,
    }
    chosen = ("head", "norm", "positions")
    options |= {name: getattr(config, name) for name in chosen if getattr(config, name) is not None}
    if config.model.startswith(("bit-", "timm:")):
        require(config.norm is None, f"norm {config.norm}: {config.model} has its own; leave it out by --set norm=none")
        options.pop("positions", None)  # they have none, or their own
    spec = model_spec(config.model, **options | config.shape.given)
    if config.shape.given.keys() - {"added"}:
        spec = spec.replace(name=OWN)  # what a name means stays what it is
    return spec.replace(hidden=spec.dim) if config.hidden and spec.family in ("vit", "hybrid") else spec
