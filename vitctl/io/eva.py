"""Tensors of timm's Eva: rotary ViTs such as DINOv3, EVA02 and the Perception Encoder. Ours have those of its ViT."""

import re
from typing import Any

import torch

from vitctl.config.model import ModelSpec
from vitctl.io.weights import Tensors

LAYER = re.compile(r"(blocks\.\d+)\.(.+)")
GAMMA, SCALE = re.compile(r"^gamma_([12])$"), r"ls\1.gamma"
SPLIT = ("attn.q_proj", "attn.k_proj", "attn.v_proj")


def from_eva(tensors: Tensors, spec: ModelSpec, in_halves: bool) -> Tensors:
    """`in_halves`: of a head, dimension i turns with i + width / 2, as here; otherwise 2 i with 2 i + 1."""
    own: Tensors = {}
    layers: dict[str, Tensors] = {}
    for name, value in tensors.items():
        match = LAYER.fullmatch(name)
        if match:
            layers.setdefault(match[1], {})[match[2]] = value
        elif not name.startswith("rope."):
            own[name] = value
    for layer, parts in layers.items():
        parts = join_gates(join_attention(parts))
        if spec.is_rotary and not in_halves:
            parts |= {name: in_half_order(parts[name], spec) for name in TURNED if name in parts}
        own |= {f"{layer}.{GAMMA.sub(SCALE, name)}": value for name, value in parts.items()}
    return own


TURNED = ("attn.qkv.weight", "attn.qkv.bias", "attn.q_norm.weight", "attn.q_norm.bias", "attn.k_norm.weight",
          "attn.k_norm.bias")  # fmt: skip


def join_attention(parts: Tensors) -> Tensors:
    """One layer for queries, keys and values; a bias that keys lack is zero."""
    rest = {name: value for name, value in parts.items() if not name.startswith(SPLIT) and not name.endswith("_bias")}
    if "attn.q_proj.weight" in parts:
        rest["attn.qkv.weight"] = torch.cat([parts[f"{name}.weight"] for name in SPLIT])
        query, key, value = (parts.get(f"{name}.bias") for name in SPLIT)
    else:
        query, key, value = parts.get("attn.q_bias"), None, parts.get("attn.v_bias")
    if query is not None and value is not None:
        rest["attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query) if key is None else key, value])
    return rest


def join_gates(parts: Tensors) -> Tensors:
    if "mlp.fc1_g.weight" not in parts:
        return parts
    rest = {name: value for name, value in parts.items() if not name.startswith(("mlp.fc1_g.", "mlp.fc1_x."))}
    kinds = [kind for kind in ("weight", "bias") if f"mlp.fc1_g.{kind}" in parts]
    return rest | {f"mlp.fc1.{kind}": torch.cat([parts[f"mlp.fc1_{each}.{kind}"] for each in "gx"]) for kind in kinds}


def in_half_order(value: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Dimensions of queries and keys in our order, in which the products of both are the same."""
    width = spec.dim // spec.heads
    order = torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])
    if len(value) == width:  # a norm of every head
        return value[order]
    parts = value.reshape(3, spec.heads, width, *value.shape[1:])
    return torch.cat([parts[:2][:, :, order], parts[2:]]).reshape(value.shape)


def needs_eva(spec: ModelSpec) -> bool:
    """Whether timm's ViT lacks a part of this model that its Eva has."""
    more = spec.is_rotary or spec.swiglu or not spec.key_bias or spec.pool_heads or spec.pool_mlp or spec.pool_prefix
    return spec.family == "vit" and bool(more or spec.norm == "none")


def eva_arguments(spec: ModelSpec) -> dict[str, Any]:
    """The arguments with which timm builds this model, beside those that its ViT has too."""
    grid = spec.rope.grid or (spec.grid if spec.norm_eps != 1e-6 and not spec.layer_scale else ())  # PE always has one
    rope = {
        "rope_type": "dinov3" if spec.rope.place == "center" else "cat", "rope_temperature": spec.rope.temperature,
        "rope_grid_offset": spec.rope.offset, "rope_grid_indexing": "ij" if spec.rope.order == "yx" else "xy",
        "rope_rotate_half": True, "ref_feat_shape": list(grid) or None,
    }  # fmt: skip
    return rope | {
        "num_reg_tokens": spec.registers, "mlp_ratio": (spec.mlp + 0.5) / spec.dim, "swiglu_mlp": spec.swiglu,
        "swiglu_align_to": 0, "scale_mlp": spec.mlp_norm, "scale_attn_inner": spec.attn_norm, "qkv_fused": True,
        "attn_type": "rope" if spec.key_bias else "eva", "use_abs_pos_emb": spec.positions not in ("none", "rope"),
        "use_rot_pos_emb": spec.is_rotary, "use_pre_transformer_norm": spec.pre_norm,
        "use_post_transformer_norm": spec.norm == "tokens", "use_fc_norm": spec.norm == "pooled",
        "attn_pool_num_heads": spec.pool_heads or spec.heads, "dynamic_img_size": False,
        "attn_pool_mlp_ratio": ((spec.pool_mlp or spec.mlp) + 0.5) / spec.dim,
    }  # fmt: skip


def to_eva(tensors: Tensors, spec: ModelSpec) -> Tensors:
    """The tensors of an Eva with `eva_arguments`."""
    own: Tensors = {}
    for name, value in tensors.items():
        match = LAYER.fullmatch(name)
        layer, part = (f"{match[1]}.", match[2]) if match else ("", name)
        if part == "attn.qkv.bias" and not spec.key_bias:
            query, _, bias = value.chunk(3)
            own |= {f"{layer}attn.q_bias": query, f"{layer}attn.v_bias": bias}
        elif spec.mlp_norm and spec.swiglu and part.startswith("mlp.fc1."):
            gate, linear = value.chunk(2)
            own |= {name.replace("fc1", "fc1_g"): gate, name.replace("fc1", "fc1_x"): linear}
        else:
            own[layer + re.sub(r"^ls([12])\.gamma$", r"gamma_\1", part)] = value
    return own
