"""Writes a folder that timm loads as `local-dir:FOLDER`, or from the hub: config.json and model.safetensors."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from vitctl.config.model import ModelSpec, Size, model_name
from vitctl.io.atomic import atomic_folder, atomic_write, write_json
from vitctl.io.capabilities import ANY, Capabilities, Values, allow_any, check_supported
from vitctl.io.eva import eva_arguments, needs_eva, to_eva
from vitctl.io.weights import Tensors, Weights

POOLS = {"cls": "token", "gap": "avg", "map": "map"}
CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}
ARCHITECTURES = {  # timm's names; a ViT of other sizes is a vit_base with every size as an argument
    "vit-ti/16": "vit_tiny_patch16_224", "vit-s/32": "vit_small_patch32_224", "vit-s/16": "vit_small_patch16_224",
    "vit-s/8": "vit_small_patch8_224", "vit-b/32": "vit_base_patch32_224", "vit-b/16": "vit_base_patch16_224",
    "vit-b/8": "vit_base_patch8_224", "vit-l/32": "vit_large_patch32_224", "vit-l/16": "vit_large_patch16_224",
    "vit-l/14": "vit_large_patch14_224", "vit-h/14": "vit_huge_patch14_224",
    "r+vit-ti/16": "vit_tiny_r_s16_p8_224", "r26+vit-s/32": "vit_small_r26_s32_224",
    "r26+vit-b/32": "vit_base_r26_s32_224", "r50+vit-b/16": "vit_base_r50_s16_224",
    "r50+vit-l/32": "vit_large_r50_s32_224", "bit-r50x1": "resnetv2_50x1_bit", "bit-r101x1": "resnetv2_101x1_bit",
    "bit-r152x2": "resnetv2_152x2_bit",
}  # fmt: skip


def architecture_of_any_size(spec: ModelSpec) -> str:
    """An architecture of timm whose defaults can all be replaced: it ignores arguments that are None."""
    if spec.norm_eps == 1e-6:
        return "eva_giant_patch14_224" if needs_eva(spec) else "vit_base_patch16_224"
    if not needs_eva(spec):
        return "vit_base_patch32_clip_224"
    return "vit_small_patch16_dinov3" if spec.layer_scale else "vit_pe_core_tiny_patch16_384"


def find_architecture(spec: ModelSpec) -> str | None:
    """timm's architecture with exactly these sizes."""
    if spec.family == "timm":
        return spec.name.removeprefix("timm:").partition(".")[0]
    if needs_eva(spec) or spec.norm_eps != 1e-6:
        return None
    size = Size(spec.dim, spec.depth, spec.heads, spec.mlp) if spec.family != "bit" else Size(0, 0, 0, 0)
    return ARCHITECTURES.get(model_name(spec.family, size, spec.patch, spec.layers, spec.factor))


def allow_unless_bit(*values: Any) -> Values:
    """The allowed values of a field that BiT ResNets do not use."""
    return lambda spec: ANY if spec.family == "bit" else values


def list_positions(spec: ModelSpec) -> tuple[str, ...]:
    tables = ("1d", "sincos", "sincos-mae")  # all are a table for timm
    return ("none",) if spec.family == "bit" else (*tables, "none", "rope", "1d+rope") if needs_eva(spec) else tables


CAPABILITIES = Capabilities(
    "timm's layout",
    "write .safetensors or onnx instead",
    {
        "family": lambda spec: ("vit", "hybrid", "bit", "timm") if find_architecture(spec) else ("vit",),
        "timm_args": allow_any,
        **dict.fromkeys(("height", "width", "channels", "classes", "patch", "dim", "depth", "heads", "mlp"), allow_any),
        **dict.fromkeys(("class_token", "class_position", "registers", "layer_scale", "qkv_bias"), allow_any),
        **dict.fromkeys(("qk_norm", "attn_norm", "mlp_norm", "pre_norm"), allow_any),
        **dict.fromkeys(("rope", "swiglu", "key_bias", "pool_heads", "pool_mlp"), allow_any),  # of its Eva
        "gelu": lambda spec: ("erf",) if needs_eva(spec) and not (spec.swiglu and spec.head != "map") else ANY,
        "pool_prefix": lambda spec: (spec.prefix > 0,) if needs_eva(spec) and spec.head == "map" else (False,),
        "layers": lambda spec: ((),) if spec.family == "vit" else ANY,
        "factor": lambda spec: ANY if spec.family == "bit" else (1,),
        "head": lambda spec: ("gap",) if spec.family == "bit" else ANY,
        "positions": list_positions,
        "norm": allow_unless_bit("tokens", "pooled", "none"),
        "norm_eps": allow_unless_bit(1e-6, 1e-5),
        "numerics": lambda spec: ANY if spec.family in ("vit", "timm") else ("timm",),
    },
    about=("mean", "std"),
)


def save_timm_folder(weights: Weights, folder: Path) -> None:
    config = timm_config(weights)
    tensors = to_eva(weights.tensors, weights.spec) if needs_eva(weights.spec) else weights.tensors
    save_model_folder(folder, tensors, {"config.json": config})


def save_model_folder(folder: Path, tensors: Tensors, configs: dict[str, dict[str, Any]]) -> None:
    """Writes model.safetensors and JSON files. The tensors get their name last: after a kill, the folder has none."""
    from safetensors.torch import save_file

    with atomic_folder(folder), atomic_write(folder / "model.safetensors") as aside:
        save_file({name: each.detach().cpu().contiguous() for name, each in tensors.items()}, aside, {"format": "pt"})
        for name, config in configs.items():
            write_json(folder / name, config)


def timm_config(weights: Weights) -> dict[str, Any]:
    spec, about = weights.spec, weights.about
    check_supported(weights, CAPABILITIES)
    arguments = model_arguments(spec)
    config: dict[str, Any] = {
        "architecture": find_architecture(spec) or architecture_of_any_size(spec),
        "num_classes": spec.classes,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [spec.channels, spec.height, spec.width],
            "fixed_input_size": "img_size" in arguments,
            "mean": list(about.mean),
            "std": list(about.std),
            "crop_pct": about.crop_pct,
            "crop_mode": CROP_MODES[about.fit],
            "interpolation": about.interpolation,
            "num_classes": spec.classes,
            **layer_names(spec),
        },
    }
    config |= {"num_features": spec.dim} if spec.family in ("vit", "hybrid") else {}
    return config | ({"label_names": list(about.class_names)} if about.class_names else {})


def layer_names(spec: ModelSpec) -> dict[str, Any]:
    """The first layer and the head, which timm replaces for other channels and classes."""
    if spec.family == "timm":
        from timm.models import get_pretrained_cfg

        stated = get_pretrained_cfg(find_architecture(spec) or "")
        return {name: getattr(stated, name, None) for name in ("first_conv", "classifier", "license")}
    first = "stem.conv" if spec.family == "bit" else "patch_embed.proj"
    if spec.family == "hybrid":
        first = "patch_embed.backbone.stem.conv" if spec.layers else "patch_embed.backbone.conv"
    return {"first_conv": first, "classifier": "head.fc" if spec.family == "bit" else "head"}


def takes_size(architecture: str, **arguments: Any) -> bool:
    """Whether timm builds a model for a size; most CNNs take any size and have no such argument."""
    import timm

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            timm.create_model(architecture, **arguments)
        except TypeError:
            return False
    return True


def model_arguments(spec: ModelSpec) -> dict[str, Any]:
    """The arguments with which timm builds this model."""
    if spec.family == "bit":
        return {"in_chans": spec.channels}
    if spec.family == "timm":
        own: dict[str, Any] = json.loads(spec.timm_args or "{}") | {"in_chans": spec.channels}
        sized = own | {"img_size": [spec.height, spec.width]}
        return sized if takes_size(find_architecture(spec) or "", **sized) else own
    common: dict[str, Any] = {
        "img_size": [spec.height, spec.width],
        "in_chans": spec.channels,
        "global_pool": POOLS[spec.head],
        "class_token": spec.class_token,
        "no_embed_class": not spec.class_position,
        "qkv_bias": spec.qkv_bias,
        "qk_norm": spec.qk_norm,
        "init_values": 1e-5 if spec.layer_scale else None,
    }
    sizes = {"patch_size": spec.patch, "embed_dim": spec.dim, "depth": spec.depth, "num_heads": spec.heads}
    if needs_eva(spec):
        return common | sizes | eva_arguments(spec)
    common |= {
        "fc_norm": spec.norm == "pooled",
        "act_layer": {"tanh": "gelu_tanh", "erf": "gelu", "quick": "quick_gelu"}[spec.gelu],
        "reg_tokens": spec.registers,
        "pre_norm": spec.pre_norm,
        "scale_attn_norm": spec.attn_norm,
        "scale_mlp_norm": spec.mlp_norm,
    }
    return common if spec.family == "hybrid" else common | sizes | {"mlp_ratio": (spec.mlp + 0.5) / spec.dim}
