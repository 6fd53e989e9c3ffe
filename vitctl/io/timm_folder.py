"""A folder that timm reads as `local-dir:FOLDER`, and the hub as a timm model: config.json and model.safetensors."""

import dataclasses
from pathlib import Path
from typing import Any

from vitctl.config.model import ModelSpec
from vitctl.errors import OutputExists, UsageError
from vitctl.io.atomic import replacing, write_json
from vitctl.io.weights import Weights

POOLS = {"cls": "token", "gap": "avg", "map": "map"}
CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}
STORED = ("1d", "sincos", "sincos-mae")  # as one table
ARCHITECTURES = {  # timm's own names; a ViT of other numbers is a vit_base with every number given
    "vit-ti/16": "vit_tiny_patch16_224", "vit-s/32": "vit_small_patch32_224", "vit-s/16": "vit_small_patch16_224",
    "vit-s/8": "vit_small_patch8_224", "vit-b/32": "vit_base_patch32_224", "vit-b/16": "vit_base_patch16_224",
    "vit-b/8": "vit_base_patch8_224", "vit-l/32": "vit_large_patch32_224", "vit-l/16": "vit_large_patch16_224",
    "vit-l/14": "vit_large_patch14_224", "vit-h/14": "vit_huge_patch14_224",
    "r+vit-ti/16": "vit_tiny_r_s16_p8_224", "r26+vit-s/32": "vit_small_r26_s32_224",
    "r26+vit-b/32": "vit_base_r26_s32_224", "r50+vit-b/16": "vit_base_r50_s16_224",
    "r50+vit-l/32": "vit_large_r50_s32_224", "bit-r50x1": "resnetv2_50x1_bit", "bit-r101x1": "resnetv2_101x1_bit",
    "bit-r152x2": "resnetv2_152x2_bit",
}  # fmt: skip


def save(weights: Weights, folder: Path) -> None:
    from safetensors.torch import save_file

    config = config_of(weights)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExists(f"{folder}: is there already, and not empty; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # The weights take their name last: a folder that a kill cut short has none, and nobody can read it wrongly.
    with replacing(folder / "model.safetensors") as aside:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
        save_file(tensors, aside, {"format": "pt"})
        write_json(folder / "config.json", config)


def config_of(weights: Weights) -> dict[str, Any]:
    spec, about = weights.spec, weights.about
    check(spec)
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES.get(spec.name, "vit_base_patch16_224"),
        "num_classes": spec.classes,
        "num_features": spec.dim,
        "model_args": arguments(spec),
        "pretrained_cfg": {
            "input_size": [spec.channels, spec.height, spec.width],
            "fixed_input_size": spec.family != "bit",
            "mean": list(about.mean),
            "std": list(about.std),
            "crop_pct": 1.0,  # we resize the short side to the whole size, and crop the middle
            "crop_mode": CROP_MODES[about.fit],
            "interpolation": "bicubic",
            "num_classes": spec.classes,
            "first_conv": first_layer(spec),
            "classifier": "head.fc" if spec.family == "bit" else "head",
        },
    }
    return config | ({"label_names": list(about.class_names)} if about.class_names else {})


def first_layer(spec: ModelSpec) -> str:
    if spec.family == "hybrid":
        return "patch_embed.backbone.stem.conv" if spec.layers else "patch_embed.backbone.conv"
    return "stem.conv" if spec.family == "bit" else "patch_embed.proj"


def arguments(spec: ModelSpec) -> dict[str, Any]:
    """What timm must be told to build this very model."""
    if spec.family == "bit":
        return {"in_chans": spec.channels}
    common = {
        "img_size": [spec.height, spec.width],
        "in_chans": spec.channels,
        "global_pool": POOLS[spec.head],
        "class_token": spec.class_token,
        "fc_norm": spec.norm == "pooled",
        "no_embed_class": not spec.class_position,
        "act_layer": "gelu_tanh" if spec.gelu == "tanh" else "gelu",
    }
    if spec.family == "hybrid":
        return common
    sizes = {"patch_size": spec.patch, "embed_dim": spec.dim, "depth": spec.depth, "num_heads": spec.heads}
    more = {"mlp_ratio": (spec.mlp + 0.5) / spec.dim, "reg_tokens": spec.registers, "qkv_bias": spec.qkv_bias}
    return common | sizes | more | ({"init_values": 1e-5} if spec.layer_scale else {})


def check(spec: ModelSpec) -> None:
    plain = {field.name: field.default for field in dataclasses.fields(ModelSpec)}
    wants = {
        "positions": (spec.family == "bit" or (spec.positions in STORED and spec.added == "stem"), spec.positions),
        "a hidden layer before the head": (not spec.hidden, spec.hidden),
        "norm_eps": (spec.family == "bit" or spec.norm_eps == plain["norm_eps"], spec.norm_eps),
        "the family": (spec.family == "vit" or spec.name in ARCHITECTURES, spec.family),
        "padding": (not spec.pad, "on"),
    }
    wrong = [f"{what} ({value})" for what, (fits, value) in wants.items() if not fits]
    if wrong:
        raise UsageError(f"timm's layout has no place for {', '.join(wrong)}; keep vitctl's own file, or write onnx")
