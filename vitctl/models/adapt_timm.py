"""timm's own models at another size, with other channels or with another head.

Which tensors change is not listed anywhere: timm builds the model as it was and as it is to be, on the meta device, and
the two are compared.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from vitctl.config.interpolate import Method
from vitctl.config.model import ModelSpec
from vitctl.config.res import Res
from vitctl.errors import ConfigError, UsageError
from vitctl.io.weights import About, Tensors, Weights
from vitctl.models.create import build_module, collect_tensors, create_model
from vitctl.models.initialize import init_head
from vitctl.models.resize import describe_method

NO_TENSOR = "no tensor depends on the resolution"  # rotary positions, convolutions


def meta_module(spec: ModelSpec) -> nn.Module:
    with torch.device("meta"):
        return build_module(spec)


def shapes(spec: ModelSpec) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in collect_tensors(meta_module(spec)).items()}


def head_names(weights: Weights) -> set[str]:
    """The tensors whose shape depends on the number of classes; empty for a model without a head."""
    spec = weights.spec
    if spec.family != "timm":
        return {name for name in weights.tensors if name.startswith("head.")}
    return timm_head_names(spec)


def timm_head_names(spec: ModelSpec) -> set[str]:
    if not spec.classes:
        return set()
    own, other = shapes(spec), shapes(spec.replace(classes=spec.classes + 1))
    return {name for name, shape in own.items() if other.get(name) != shape}


def timm_layers(model: nn.Module) -> dict[str, int]:
    """The layer of each parameter by timm's own groups: 0 for the stem, then the blocks, then the head."""
    from timm.models._manipulate import group_with_matcher

    matcher: Callable[..., dict[str, object]] = model.group_matcher  # type: ignore[assignment]
    return dict(group_with_matcher(model.named_parameters(), matcher(coarse=False), reverse=True))


def resize_timm(weights: Weights, height: int, width: int, method: Method = "official") -> Weights:
    """The same weights for images of another size; the change is recorded in their history."""
    old = weights.spec
    if method != "official":
        raise UsageError(f"{old.name}: timm resizes its own models by one method; omit method {method}")
    new = old.replace(height=height, width=width)
    tensors = resize_tensors(weights, new)
    is_same = all(tensors[name] is tensor for name, tensor in weights.tensors.items())
    how = NO_TENSOR if is_same else describe_method(old, method)
    step = {"step": "resolution", "from": list(old.res), "to": list(new.res), "method": how}
    about = replace(weights.about, history=(*weights.about.history, step))
    return replace(weights, spec=new, tensors=tensors, about=about)


def resize_tensors(weights: Weights, new: ModelSpec) -> Tensors:
    """Tensors for another resolution, resampled by timm's own function for this architecture."""
    size, old = f"{new.height}x{new.width}", weights.spec
    try:
        model = meta_module(new)
        own = {name: tensor.shape for name, tensor in collect_tensors(model).items()}
        tensors = weights.tensors
        if own != {name: tensor.shape for name, tensor in tensors.items()}:
            resample = sys.modules[type(model).__module__].checkpoint_filter_fn
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tensors = resample(dict(tensors), model)
            tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        difference = next((name for name in own if name not in tensors or tensors[name].shape != own[name]), None)
        if difference:
            raise ValueError(f"{difference} does not fit")
        with torch.no_grad():
            model.eval()(torch.empty(1, new.channels, new.height, new.width, device="meta"))
    except Exception as error:  # whatever timm raises for a size that an architecture does not support
        text = " ".join(str(error).split())[:120]
        raise UsageError(
            f"{old.name}: cannot take images of {size} ({text}); its own size is {old.height}x{old.width}"
        ) from error
    return {name: tensors[name] for name in own}


def can_resize(spec: ModelSpec, res: Res) -> bool:
    """Whether timm takes a model to another resolution, tried on the meta device."""
    weights = Weights(spec, collect_tensors(meta_module(spec)), About("timm"))
    try:
        resize_tensors(weights, spec.replace(height=res.height, width=res.width))
    except UsageError:
        return False
    return True


def compare_channels(spec: ModelSpec) -> list[str]:
    """The kernels whose shape depends on the number of channels."""
    own, new = shapes(spec), shapes(spec.replace(channels=spec.channels + 1))
    names = [name for name, shape in own.items() if new.get(name) != shape]
    if own.keys() != new.keys() or not names or any(len(own[name]) != 4 for name in names):
        raise UsageError(f"{spec.name}: cannot take images of other channels; its first layer is not a convolution")
    return names


def replace_timm_head(weights: Weights, new: ModelSpec, std: float, seed: int) -> Tensors:
    """The tensors of a model with a new head. Other layers that timm adds with a head get timm's initialization."""
    old_head = timm_head_names(weights.spec)
    body = {name: tensor for name, tensor in weights.tensors.items() if name not in old_head}
    fresh = collect_tensors(create_model(new, seed=seed))
    head = timm_head_names(new)
    for name in head:
        shape = fresh[name].shape
        fresh[name] = init_head(shape, seed, std) if len(shape) > 1 else torch.zeros(shape)
    return {
        name: body[name] if name in body and name not in head and body[name].shape == value.shape else value
        for name, value in fresh.items()
    }


def has_rate(spec: ModelSpec, name: str) -> bool:
    """Whether timm builds this model with a `dropout` or a `drop_path`; none has our `patch_dropout`."""
    try:
        meta_module(spec.replace(**{name: 0.1}))
    except ConfigError:
        return False
    return True
