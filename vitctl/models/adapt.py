"""Weights for other images or classes than they were trained with."""

from dataclasses import replace

import torch

from vitctl.config.model import ModelSpec
from vitctl.errors import UsageError
from vitctl.io.weights import Tensors, Weights, for_channels
from vitctl.models.initialize import init_head
from vitctl.models.resize import Method, resize_weights
from vitctl.reporting import format_count

FIRST = (  # the layer that sees colors, in every family
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
    """The same weights for another size, other channels, or with a new head for other classes."""
    spec = weights.spec
    if (height or spec.height, width or spec.width) != (spec.height, spec.width):
        weights = resize_weights(weights, height or spec.height, width or spec.width, method)
    if channels is not None and channels != spec.channels:
        weights = change_channels(weights, channels)
    if classes is not None and classes != spec.classes:
        weights = replace_head(weights, classes)
    return weights


def check_known_architecture(spec: ModelSpec) -> None:
    if spec.family == "timm":
        raise UsageError(
            f"{spec.name}: only timm itself knows its layers; vitctl gives other channels or classes to its own models"
        )


def change_channels(weights: Weights, channels: int) -> Weights:
    check_known_architecture(weights.spec)
    old, new = weights.spec.channels, weights.spec.replace(channels=channels)
    first = next(name for name in FIRST if name in weights.tensors)
    tensors = weights.tensors | {first: change_kernel_channels(weights.tensors[first], channels)}
    about = weights.about
    mean, std = (for_channels(values, channels) for values in (about.mean, about.std))
    if channels == 1:
        mean, std = (sum(about.mean) / len(about.mean),), (sum(about.std) / len(about.std),)
    step = {"step": "channels", "from": old, "to": channels, "method": "sum" if channels == 1 else "repeat and scale"}
    about = replace(about, mean=mean, std=std, history=(*about.history, step))
    return replace(weights, spec=new, tensors=tensors, about=about)


def renormalize(weights: Weights, mean: tuple[float, ...], std: tuple[float, ...]) -> Weights:
    """The same answers for pixels that are normalized otherwise: the first layer takes up the difference."""
    old, new = weights.about, (for_channels(mean, weights.spec.channels), for_channels(std, weights.spec.channels))
    if (tuple(old.mean), tuple(old.std)) == new:
        return weights
    name = "patch_embed.proj.weight"
    if name not in weights.tensors or weights.spec.family != "vit":
        raise UsageError(
            f"{weights.spec.name}: wants pixels less {list(old.mean)}, by {list(old.std)}: this format cannot say so, "
            "and a standardized convolution cannot take it up; write .safetensors, onnx or torch"
        )
    shift, scale = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in new)
    before, by = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (old.mean, old.std))
    kernel, bias = weights.tensors[name].double(), weights.tensors["patch_embed.proj.bias"].double()
    changed = {
        name: (kernel * scale / by).to(weights.tensors[name].dtype),
        "patch_embed.proj.bias": (bias + (kernel * (shift - before) / by).sum((1, 2, 3))).to(
            weights.tensors[name].dtype
        ),
    }
    step = {"step": "normalisation", "from": [list(old.mean), list(old.std)], "to": [list(each) for each in new]}
    about = replace(old, mean=new[0], std=new[1], history=(*old.history, step))
    return replace(weights, tensors=weights.tensors | changed, about=about)


def change_kernel_channels(kernel: torch.Tensor, channels: int) -> torch.Tensor:
    """[D, C, P, P] for other channels. To one: the sum, so that gray answers as it would in every channel.

    To more or other ones: repeated in turn and scaled by old / new, so that an answer keeps its size.
    """
    old = kernel.shape[1]
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    turn = torch.arange(channels) % old
    return kernel[:, turn] * (old / channels)


def replace_head(weights: Weights, classes: int, std: float = 0.0, seed: int = 0, why: str = "") -> Weights:
    """The whole head of pretraining goes, its hidden layer too; a linear layer takes its place, of zeros by default."""
    spec = weights.spec
    check_known_architecture(spec)
    tensors: Tensors = {
        name: tensor for name, tensor in weights.tensors.items() if not name.startswith(("head.", "pre_logits."))
    }
    new = spec.replace(classes=classes, hidden=0)
    if classes:
        tensors |= new_head(weights, classes, std, seed)
    method = (f"normal {std:g}" if std else "zeros") + (f", as {why}" if why else "")
    step = {"step": "head", "from": spec.classes, "to": classes, "method": method}
    about = replace(weights.about, class_names=(), history=(*weights.about.history, step))
    return replace(weights, spec=new, tensors=tensors, about=about)


def classes_differ(weights: Weights, names: tuple[str, ...]) -> str:
    """Why the head cannot answer with these classes; empty where it can. Without names, their number decides."""
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
    """The head of pretraining, its rows in the order of these classes, which must be its own."""
    own, tensors, method = weights.about.class_names, weights.tensors, "kept"
    if not own:
        method = "kept; the weights do not name their classes, which are taken to be in the order of the data's"
    elif own != names:
        check_known_architecture(weights.spec)
        rows = {name: row for row, name in enumerate(own)}
        order = torch.tensor([rows[name] for name in names])
        tensors = {name: tensor[order] if name.startswith("head.") else tensor for name, tensor in tensors.items()}
        method = "kept, its rows in the data's order of classes"
    step = {"step": "head", "from": weights.spec.classes, "to": weights.spec.classes, "method": method}
    about = replace(weights.about, history=(*weights.about.history, step))
    return replace(weights, tensors=tensors, about=about)


def pool_norm(weights: Weights) -> Weights:
    """A fresh norm behind the pooling in place of the one on the tokens, as MAE's and BEiT's are fine-tuned."""
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("norm.")}
    scale = torch.ones_like(weights.tensors["norm.weight"])
    step = {"step": "norm", "from": "tokens", "to": "pooled", "method": "fresh"}
    return replace(
        weights,
        spec=replace(weights.spec, norm="pooled"),
        tensors=tensors | {"fc_norm.weight": scale, "fc_norm.bias": torch.zeros_like(scale)},
        about=replace(weights.about, history=(*weights.about.history, step)),
    )


def new_head(weights: Weights, classes: int, std: float, seed: int) -> Tensors:
    if weights.spec.family == "bit":
        dim = weights.tensors["norm.weight"].numel()
        return {"head.fc.weight": init_head((classes, dim, 1, 1), seed, std), "head.fc.bias": torch.zeros(classes)}
    return {"head.weight": init_head((classes, weights.spec.dim), seed, std), "head.bias": torch.zeros(classes)}
