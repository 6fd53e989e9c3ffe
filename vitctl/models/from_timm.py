"""`timm:NAME[.tag]`: pretrained weights through timm and the hub. Plain ViTs become ours, the rest stay timm's."""

import warnings
from dataclasses import replace
from typing import Any

from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from vitctl.config.model import model_spec
from vitctl.errors import WeightsError
from vitctl.io import state_dict
from vitctl.io.weights import About, Weights
from vitctl.models.create import check_timm_name, import_timm, named_tensors
from vitctl.models.hub import check_reachable
from vitctl.reporting import mute_loggers


def timm_weights(reference: str) -> Weights:
    """Weights of `timm:NAME`, which may have to come over the network."""
    name = reference.removeprefix("timm:")
    check_timm_name(name)
    model = pretrained(name)
    config = dict(getattr(model, "pretrained_cfg", {}) or {})
    if is_plain(model):
        try:
            return as_ours(model, config, reference)
        except WeightsError:
            pass  # has something that ours has not: it stays timm's
    _, height, width = config.get("input_size") or (3, 224, 224)
    channels = int(getattr(model, "in_chans", 3))
    spec = model_spec(reference, height=height, width=width, channels=channels, classes=model.num_classes)
    return Weights(spec, named_tensors(model), about_of(config, reference))


def is_plain(model: nn.Module) -> bool:
    """Blocks of other kinds may have the same names and shapes, and compute something else."""
    return type(model) is VisionTransformer and all(
        type(block) is Block for block in model.get_submodule("blocks").children()
    )


def pretrained(name: str) -> Any:
    timm = import_timm()
    check_reachable(name, timm.models.get_pretrained_cfg(name))
    with warnings.catch_warnings(), mute_loggers("huggingface_hub"):
        warnings.simplefilter("ignore")
        try:
            return timm.create_model(name, pretrained=True)
        except Exception as error:  # of the hub's client, of its network library, or of timm
            text = " ".join(str(error).split())[:120]
            raise WeightsError(
                f"timm:{name}: its weights could not be fetched ({type(error).__name__}: {text}); is there a network? "
                "A file that was downloaded elsewhere is taken by --from FILE"
            ) from error


def as_ours(model: nn.Module, config: dict[str, Any], reference: str) -> Weights:
    weights = state_dict.read(named_tensors(model), reference, {"pretrained_cfg": config})
    block = model.blocks[0]  # type: ignore[index]
    spec = replace(
        weights.spec,
        heads=block.attn.num_heads,  # type: ignore[union-attr]
        gelu="tanh" if "tanh" in type(block.mlp.act).__name__.lower() else "erf",  # type: ignore[union-attr]
        norm_eps=float(block.norm1.eps),  # type: ignore[union-attr]
    )
    return Weights(spec, weights.tensors, about_of(config, reference), weights.extra)


def about_of(config: dict[str, Any], reference: str) -> About:
    mean, std = (tuple(map(float, config.get(key) or (0.5,) * 3)) for key in ("mean", "std"))
    return About("timm", reference, mean, std, tuple(map(str, config.get("label_names") or ())))
