"""Builds the module of a spec, freshly initialized or with given weights."""

import json
import warnings
from typing import Any

import torch
from torch import nn

from vitctl.config.model import Init, ModelSpec, model_spec
from vitctl.errors import ConfigError, UsageError, WeightsError, did_you_mean
from vitctl.io.weights import HALF, About, Tensors, Weights, for_channels, settle
from vitctl.models.initialize import initialize
from vitctl.reporting import format_count


def create_model(
    name: str | ModelSpec,
    *,
    seed: int = 0,
    head_bias: float = 0.0,
    head_std: float = 0.0,
    init: Init = "official",
    **options: Any,
) -> nn.Module:
    """A model with the official initialization: `create_model("vit-b/16", height=384, width=384, classes=10)`."""
    spec = name.replace(**options) if isinstance(name, ModelSpec) else model_spec(name, **options)
    with torch.random.fork_rng(devices=[]):  # timm draws from torch's global generator
        torch.default_generator.manual_seed(seed)
        model = build_module(spec)
    if spec.family != "timm":
        initialize(model, spec, seed, head_bias, head_std, init)
    elif head_bias:
        nn.init.constant_(model.get_classifier().bias, head_bias)  # type: ignore[operator]
    return model


def build_module(spec: ModelSpec) -> nn.Module:
    """The module of a spec; its parameters are not initialized."""
    import_timm()
    if spec.family == "timm":
        return build_timm(spec)
    from vitctl.models.resnets import BiT
    from vitctl.models.vit import ViT

    return BiT(spec) if spec.family == "bit" else ViT(spec)


def import_timm() -> Any:
    """Imports timm, or raises a one-line error: its import fails if torch and torchvision do not match."""
    try:
        import timm
    except Exception as error:
        raise UsageError(
            f"timm cannot be imported ({type(error).__name__}: {' '.join(str(error).split())[:120]}); "
            "run vitctl doctor to see what to install"
        ) from error
    return timm


def build_timm(spec: ModelSpec) -> nn.Module:
    name, size = spec.name.removeprefix("timm:"), (spec.height, spec.width)
    check_timm_name(name)
    options = json.loads(spec.timm_args or "{}") | {
        "num_classes": spec.classes, "in_chans": spec.channels, "img_size": size, "drop_rate": spec.dropout,
        "drop_path_rate": spec.drop_path}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = call_timm(name, options)
        except Exception as error:
            raise ConfigError(f"timm:{name}: timm cannot build it for {size[0]}x{size[1]}: {error}") from error
    model.spec = spec
    return model  # type: ignore[no-any-return]


def call_timm(name: str, options: dict[str, Any]) -> Any:
    """timm's model, without the optional arguments that it does not know: most CNNs have no img_size, for example."""
    import timm

    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        optional = ["img_size", *(option for option in ("drop_rate", "drop_path_rate") if not options.get(option))]
        unknown = [option for option in optional if option in options and f"'{option}'" in str(error)]
        if not unknown:
            raise
        return call_timm(name, {option: value for option, value in options.items() if option not in unknown})


def check_timm_name(name: str) -> None:
    import timm

    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ConfigError(f"timm:{name}: timm has no such model; {did_you_mean(name.partition('.')[0], known)}")


def collect_tensors(model: nn.Module) -> Tensors:
    """Every parameter and persistent buffer under its first name: a tensor shared by layers is listed once."""
    stored = set(model.state_dict())
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in stored)
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers)}


def weights_of(model: nn.Module) -> Weights:
    """What is saved of a model: its spec, a copy of its tensors on the CPU, and their origin."""
    tensors = {name: tensor.cpu().clone() for name, tensor in collect_tensors(model).items()}
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    mean, std = (for_channels(values, spec.channels) for values in HALF)
    return Weights(spec, tensors, getattr(model, "about", About("vitctl", mean=mean, std=std)))


def load_tensors(model: nn.Module, tensors: Tensors, what: str, allow_missing: bool = False) -> tuple[str, ...]:
    """Copies tensors into the model. A name without a match is an error, or a note with `allow_missing`."""
    own = collect_tensors(model)
    notes = check_same_tensors(own, tensors, what, allow_missing)
    with torch.no_grad():
        for name in set(own) & set(tensors):
            own[name].copy_(tensors[name])
    return notes


def check_same_tensors(own: Tensors, tensors: Tensors, what: str, allow_missing: bool = False) -> tuple[str, ...]:
    """Checks that `tensors` match the model's `own` in name and shape."""
    wrong = [
        f"{name} is {list(tensors[name].shape)} in the file, {list(own[name].shape)} in the model"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if wrong:
        raise WeightsError(f"{what}: {format_count(len(wrong), 'tensor')} of another shape: {'; '.join(wrong[:3])}")
    return settle(what, set(own) - set(tensors), set(tensors) - set(own), allow_missing)
