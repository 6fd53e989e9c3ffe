"""Rotary models: ours answer as timm's Eva and transformers' DINOv3 do, at any size, and become timm's again."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.models.test_from_timm import apart, noisy, saved, timm_model
from vitctl.config.model import ModelSpec, Rope
from vitctl.io.save import save_as
from vitctl.models.adapt import adapt_weights
from vitctl.models.create import create_model
from vitctl.workflows.inputs.weights import load_model, load_weights

EXACT = 1e-5
RANDOM = range(6)


def draw_sizes(number: int) -> dict[str, Any]:
    """Depth, width, heads, registers, gates and a size that is not square."""
    draw = random.Random(number)
    heads, patch = draw.choice([2, 3, 5]), draw.choice([4, 6])
    return {
        "patch_size": patch, "img_size": (patch * draw.randint(2, 4), patch * draw.randint(5, 7)),
        "depth": draw.randint(1, 4), "embed_dim": heads * 4 * draw.randint(2, 5), "num_heads": heads,
        "num_reg_tokens": draw.choice([0, 1, 4]), "swiglu_mlp": number % 2 == 1,
    }  # fmt: skip


def draw_arguments(number: int) -> tuple[str, dict[str, Any]]:
    """An architecture of timm, and arguments for it."""
    draw = random.Random(number + 100)
    name = draw.choice(["vit_small_patch16_dinov3", "eva_giant_patch14_224"])
    more = {
        "global_pool": draw.choice(["avg", "token", "map"]), "qk_norm": draw.random() < 0.5, "num_classes": 5,
        "attn_type": draw.choice(["eva", "rope"]), "qkv_bias": draw.random() < 0.7,
        "scale_mlp": draw.random() < 0.5, "scale_attn_inner": draw.random() < 0.5, "use_rot_pos_emb": True,
        "use_pre_transformer_norm": draw.random() < 0.5, "mlp_ratio": draw.choice([1.5, 2.0]),
        "qkv_fused": draw.random() < 0.5, "rope_rotate_half": draw.random() < 0.5,
        "rope_grid_indexing": draw.choice(["ij", "xy"]), "use_abs_pos_emb": draw.random() < 0.5,
    }  # fmt: skip
    if name.startswith("eva"):
        more |= {"ref_feat_shape": (3, 4), "rope_grid_offset": 1.0}
    return name, draw_sizes(number) | more


@pytest.mark.parametrize("number", RANDOM)
def test_ours_answers_as_timms_and_becomes_timms_again(number: int, tmp_path: Path) -> None:
    name, options = draw_arguments(number)
    theirs = timm_model(name, **options)
    weights = load_weights(saved(theirs, tmp_path / "w", **options))
    assert weights.spec.family == "vit"
    assert weights.spec.is_rotary
    assert apart(theirs, load_model(weights)) < EXACT
    assert apart(theirs, load_model(adapt_weights(weights, classes=5))) < EXACT
    save_as(weights, tmp_path / "again", "timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    again.spec = weights.spec
    assert apart(theirs, again) < EXACT
    assert load_weights(tmp_path / "again").spec == weights.spec


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "vit_small_patch16_rope_224"])
def test_another_size_needs_no_other_weights(name: str, tmp_path: Path) -> None:
    """The tables of angles are those that timm computes for that size; a learned table is interpolated beside them."""
    options = {"depth": 2, "embed_dim": 48, "num_heads": 2, "patch_size": 4, "num_classes": 3}
    theirs = timm_model(name, img_size=16, **options)
    weights = load_weights(saved(theirs, tmp_path / "w", img_size=16, **options))
    larger = adapt_weights(weights, 20, 28)
    if "eva02" not in name:
        assert larger.tensors.keys() == weights.tensors.keys()
        assert all(torch.equal(value, weights.tensors[key]) for key, value in larger.tensors.items())
    there = timm.create_model(name, pretrained=False, img_size=(20, 28), **options).eval()
    kept = {key: value for key, value in theirs.state_dict().items() if key != "pos_embed"}
    if "eva02" in name:
        kept["pos_embed"] = larger.tensors["pos_embed"]
    there.load_state_dict(kept)
    assert apart(there, load_model(larger)) < EXACT


def test_fresh_ones_have_dinov3s_rope_and_learn() -> None:
    torch.manual_seed(0)
    model = create_model("vit-mu/16", height=64, width=96, classes=2, positions="rope", registers=2, swiglu=True)
    assert model.spec.rope == Rope("center", 100.0)  # type: ignore[union-attr]
    model(torch.randn(2, 3, 64, 96)).square().sum().backward()
    nn.init.normal_(model.head.weight)  # type: ignore[union-attr, arg-type]
    model(torch.randn(2, 3, 64, 96)).square().sum().backward()
    assert all(value.grad is not None for value in model.parameters())


@torch.no_grad()
def test_an_image_and_its_transpose_differ_only_by_their_positions() -> None:
    """Without positions the order of patches does not matter; with rotary ones it does."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    patches = torch.randn(1, 24, 16 * 16 * 3)
    for positions, same in (("none", True), ("rope", False)):
        model = noisy(create_model("vit-mu/16", height=64, width=96, classes=2, positions=positions))
        assert torch.allclose(model(patches), model(patches[:, order]), atol=1e-4) == same


def test_a_key_bias_that_is_none_stays_zero() -> None:
    model = create_model("vit-mu/16", height=32, width=32, classes=2, positions="rope", key_bias=False)
    nn.init.normal_(model.head.weight)  # type: ignore[union-attr, arg-type]
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    query, key, value = model.blocks[0].attn.qkv.bias.grad.chunk(3)  # type: ignore[union-attr, index]
    assert key.abs().max() == 0
    assert min(query.abs().max(), value.abs().max()) > 0


# --- transformers ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
@pytest.mark.parametrize("number", RANDOM)
def test_ours_answers_as_transformers_dinov3(number: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes, draw = draw_sizes(number), random.Random(number)
    torch.manual_seed(number)
    config = transformers.DINOv3ViTConfig(
        patch_size=sizes["patch_size"], image_size=list(sizes["img_size"]), num_hidden_layers=sizes["depth"],
        hidden_size=sizes["embed_dim"], num_attention_heads=sizes["num_heads"], intermediate_size=40,
        num_register_tokens=sizes["num_reg_tokens"], use_gated_mlp=sizes["swiglu_mlp"], rope_theta=50.0 + number,
        hidden_act="silu" if sizes["swiglu_mlp"] else "gelu", key_bias=draw.random() < 0.5,
    )  # fmt: skip
    model = transformers.DINOv3ViTModel(config).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "w")
    ours = load_model(tmp_path / "w")
    images = torch.randn(2, 3, *sizes["img_size"])
    expected = model(images).pooler_output
    assert (ours(images) - expected).abs().max() / expected.abs().max() < EXACT


# --- Meta's own files ------------------------------------------------------------------------------------------------


def to_meta(tensors: dict[str, torch.Tensor], spec: ModelSpec) -> dict[str, torch.Tensor]:
    """As facebookresearch/dinov3 stores ours: tokens and gates of other names, and buffers."""
    own = {}
    for name, value in tensors.items():
        if ".mlp.fc1." in name and spec.swiglu:
            gate, linear = value.chunk(2)
            own |= {name.replace("fc1", "w1"): gate, name.replace("fc1", "w2"): linear}
            continue
        name = name.replace("fc2", "w3") if spec.swiglu else name
        own[name.replace("reg_token", "storage_tokens")] = value
        if name.endswith("qkv.bias"):
            own[name + "_mask"] = torch.cat([torch.ones(spec.dim), torch.zeros(spec.dim), torch.ones(spec.dim)])
    periods = spec.dim // spec.heads // 4
    return own | {"mask_token": torch.zeros(1, spec.dim), "rope_embed.periods": torch.ones(periods).bfloat16()}


@torch.no_grad()
@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov3s_own_files_are_read(swiglu: bool, tmp_path: Path) -> None:
    spec = ModelSpec(
        "vit", dim=60, heads=3, depth=2, mlp=40, classes=0, positions="rope", class_position=False, registers=4,
        layer_scale=True, key_bias=False, gelu="erf", norm_eps=1e-5, swiglu=swiglu,
    )  # fmt: skip
    model = noisy(create_model(spec))
    for block in model.blocks:  # type: ignore[union-attr]
        block.attn.qkv.bias[60:120] = 0  # type: ignore[union-attr, index]
    torch.save(to_meta(dict(model.state_dict()), spec), tmp_path / "dinov3_vits16_pretrain_lvd1689m.pth")
    weights = load_weights(tmp_path / "dinov3_vits16_pretrain_lvd1689m.pth")
    assert (weights.spec.heads, weights.spec.registers, weights.about.mean[0]) == (3, 4, 0.485)
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(load_model(weights)(images), model(images), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_dinov2s_own_giant_is_read(tmp_path: Path) -> None:
    """Its gates and values are one layer, w12; there is no bias mask, and the heads are not in the file."""
    options = {"img_size": 28, "embed_dim": 384, "depth": 2, "num_heads": 6, "num_classes": 0}
    theirs = timm_model("vit_giant_patch14_dinov2", **options)
    renamed = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
               for name, value in theirs.state_dict().items()}  # fmt: skip
    save_file(renamed | {"mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2.safetensors")
    weights = load_weights(tmp_path / "dinov2.safetensors")
    assert weights.spec.swiglu
    assert apart(theirs, load_model(weights)) < EXACT
    assert json.dumps(weights.spec.as_dict())
