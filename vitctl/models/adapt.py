"""Adapts weights to images or classes that differ from those of their training."""

from dataclasses import replace
from typing import Any

import torch

from vitctl.config.interpolate import Method
from vitctl.errors import UsageError
from vitctl.io.weights import Tensors, Weights, for_channels
from vitctl.models import adapt_timm
from vitctl.models.initialize import init_head
from vitctl.models.resize import TABLES, resize_weights
from vitctl.reporting import format_count

NO_ANSWERS: dict[str, Any] = {"class_names": (), "task": "classes", "thresholds": (), "target": ()}  # of a new head
FIRST = (  # the layer that reads pixels, in every family
    "patch_embed.backbone.stem.conv.weight",
    "patch_embed.backbone.conv.weight",
    "stem.conv.weight",
    "patch_embed.proj.weight",
)


def adapt_weights(
    weights: Weights,
    height: int | None = None,
    width: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    method: Method = "official",
) -> Weights:
    """The same weights for another size or other channels, or with a new head for other classes."""
    spec = weights.spec
    if (height or spec.height, width or spec.width) != (spec.height, spec.width):
        resize = adapt_timm.resize_timm if spec.family == "timm" else resize_weights
        weights = resize(weights, height or spec.height, width or spec.width, method)
    if channels is not None and channels != spec.channels:
        weights = change_channels(weights, channels)
    if classes is not None and classes != spec.classes:
        weights = replace_head(weights, classes)
    return weights


def round_trip_error(weights: Weights, height: int, width: int, method: Method) -> float:
    """The relative root mean square error of the positions after resizing there and back."""
    there = adapt_weights(weights, height, width, method=method)
    back = adapt_weights(there, weights.spec.height, weights.spec.width, method=method)
    squares = [
        ((back.tensors[name].double() - table.double()).square().sum().item(), table.double().square().sum().item())
        for name, table in weights.tensors.items()
        if TABLES.fullmatch(name) or there.tensors[name].shape != table.shape
    ]
    total = sum(size for _, size in squares)
    return float((sum(error for error, _ in squares) / total) ** 0.5) if total else 0.0


def find_first_kernels(weights: Weights) -> list[str]:
    """The kernels that read pixels."""
    if weights.spec.family == "timm":
        return adapt_timm.compare_channels(weights.spec)
    return [name for name in FIRST if name in weights.tensors][:1]


def change_channels(weights: Weights, channels: int) -> Weights:
    old, new = weights.spec.channels, weights.spec.replace(channels=channels)
    first = find_first_kernels(weights)
    tensors = weights.tensors | {name: change_kernel_channels(weights.tensors[name], channels) for name in first}
    about = weights.about
    mean, std = (for_channels(values, channels) for values in (about.mean, about.std))
    if channels == 1:
        mean, std = (sum(about.mean) / len(about.mean),), (sum(about.std) / len(about.std),)
    method = "sum" if channels == 1 else "repeat and scale"
    weights = record(weights, "channels", old, channels, method, mean=mean, std=std)
    return replace(weights, spec=new, tensors=tensors)


def renormalize(weights: Weights, mean: tuple[float, ...], std: tuple[float, ...]) -> Weights:
    """The same outputs for another normalization of the pixels: the first layer absorbs the difference.

    With x = (pixel - mean) / std, the kernel is multiplied by std_new / std_old, and the bias takes up the shift.
    """
    old, new = weights.about, (for_channels(mean, weights.spec.channels), for_channels(std, weights.spec.channels))
    if (tuple(old.mean), tuple(old.std)) == new:
        return weights
    name = "patch_embed.proj.weight"
    if name not in weights.tensors or weights.spec.family != "vit":
        raise UsageError(
            f"{weights.spec.name}: its pixels are normalized with mean {list(old.mean)} and std {list(old.std)}, which "
            "this format cannot store and a standardized convolution cannot absorb; write .safetensors, onnx or torch"
        )
    (new_mean, new_std), (old_mean, old_std) = (
        [torch.tensor(values, dtype=torch.float64)[:, None, None] for values in pair]
        for pair in (new, (old.mean, old.std))
    )
    kernel, bias = weights.tensors[name].double(), weights.tensors["patch_embed.proj.bias"].double()
    changed = {
        name: kernel * new_std / old_std,
        "patch_embed.proj.bias": bias + (kernel * (new_mean - old_mean) / old_std).sum((1, 2, 3)),
    }
    changed = {key: value.to(weights.tensors[name].dtype) for key, value in changed.items()}
    step = {"step": "normalisation", "from": [list(old.mean), list(old.std)], "to": [list(each) for each in new]}
    about = replace(old, mean=new[0], std=new[1], history=(*old.history, step))
    return replace(weights, tensors=weights.tensors | changed, about=about)


def change_kernel_channels(kernel: torch.Tensor, channels: int) -> torch.Tensor:
    """[D, C, P, P] for another number of channels.

    One channel gets the sum, so that a gray image gives what it would give repeated in every channel. Otherwise the
    channels are repeated in turn and scaled by old / new, so that outputs keep their scale.
    """
    old = kernel.shape[1]
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel[:, torch.arange(channels) % old] * (old / channels)


def replace_head(weights: Weights, classes: int, std: float = 0.0, seed: int = 0, why: str = "") -> Weights:
    """Replaces the whole pretraining head, with its hidden layer, by a linear layer, which is zero by default."""
    spec = weights.spec
    new = spec.replace(classes=classes, hidden=0)
    tensors: Tensors = {
        name: tensor for name, tensor in weights.tensors.items() if not name.startswith(("head.", "pre_logits."))
    }
    if spec.family == "timm":
        tensors = adapt_timm.replace_timm_head(weights, new, std, seed)
    elif classes:
        tensors |= new_head(weights, classes, std, seed)
    method = (f"normal {std:g}" if std else "zeros") + (f", as {why}" if why else "")
    return replace(record(weights, "head", spec.classes, classes, method, **NO_ANSWERS), spec=new, tensors=tensors)


def classes_differ(weights: Weights, names: tuple[str, ...]) -> str:
    """Why the head does not fit these classes; empty if it does. Unnamed heads are compared by number of classes."""
    own, count = weights.about.class_names, weights.spec.classes
    if not count:
        return "the weights have no head"
    if count != len(names):
        return f"the weights have {count:,} classes and the data {len(names):,}"
    if own in ((), names):
        return ""
    unknown = sorted(set(names) - set(own))
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        return f"the weights lack {format_count(len(unknown), 'class')} of the data ({shown})"
    return "" if len(set(own)) == count else "the weights have two classes of the same name"


def keep_head(weights: Weights, names: tuple[str, ...]) -> Weights:
    """Keeps the head, with its rows in the order of `names`, which must be its own classes."""
    own, tensors, method = weights.about.class_names, weights.tensors, "kept"
    if names and not own:
        method = "kept; the weights have no class names, so their order is assumed to be that of the data"
    elif own != names:
        rows, head = {name: row for row, name in enumerate(own)}, adapt_timm.head_names(weights)
        order = torch.tensor([rows[name] for name in names])
        tensors = {name: tensor[order] if name in head else tensor for name, tensor in tensors.items()}
        method = "kept, with rows reordered to the classes of the data"
    return replace(record(weights, "head", weights.spec.classes, weights.spec.classes, method), tensors=tensors)


def pool_norm(weights: Weights) -> Weights:
    """Replaces the norm of the tokens by a new one behind the pooling, as MAE and BEiT do for fine-tuning."""
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("norm.")}
    scale = torch.ones_like(weights.tensors["norm.weight"])
    tensors |= {"fc_norm.weight": scale, "fc_norm.bias": torch.zeros_like(scale)}
    weights = record(weights, "norm", "tokens", "pooled", "fresh")
    return replace(weights, spec=replace(weights.spec, norm="pooled"), tensors=tensors)


def record(weights: Weights, step: str, old: Any, new: Any, method: str, **about: Any) -> Weights:
    """Appends a step to the history of the weights, and replaces other fields of `about`."""
    entry = {"step": step, "from": old, "to": new, "method": method}
    return replace(weights, about=replace(weights.about, history=(*weights.about.history, entry), **about))


def new_head(weights: Weights, classes: int, std: float, seed: int) -> Tensors:
    if weights.spec.family == "bit":
        dim = weights.tensors["norm.weight"].numel()
        return {"head.fc.weight": init_head((classes, dim, 1, 1), seed, std), "head.fc.bias": torch.zeros(classes)}
    return {"head.weight": init_head((classes, weights.spec.dim), seed, std), "head.bias": torch.zeros(classes)}
