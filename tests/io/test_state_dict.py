"""State dicts of timm, DeiT III, MAE and DINOv2, made by timm's modules."""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.data
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitctl.errors import UsageError, WeightsError
from vitctl.io import state_dict, timm_folder
from vitctl.io.recognize import open_weights
from vitctl.io.weights import HALF, IMAGENET, About, Weights
from vitctl.models.create import build_module, collect_tensors, create_model, load_tensors
from vitctl.workflows.inputs.weights import load_weights

SMALL: dict[str, Any] = {  # the width of ViT-Ti, which has three heads
    "img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3, "num_classes": 5}  # fmt: skip


def randomize(model: nn.Module) -> nn.Module:
    """Changes every parameter, so that each one matters."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    return model.eval()


def logits(weights: Weights, images: torch.Tensor) -> torch.Tensor:
    model = build_module(weights.spec).eval()
    load_tensors(model, weights.tensors, "test")
    with torch.no_grad():
        return model(images)  # type: ignore[no-any-return]


PLAIN: dict[str, dict[str, Any]] = {
    "cls": {},
    "gap, norm after": {"global_pool": "avg", "class_token": False},
    "gap beside a class token": {"global_pool": "avg"},
    "registers": {"reg_tokens": 3, "no_embed_class": True},
    "layer scale": {"init_values": 0.1},
    "deit3": {"no_embed_class": True, "init_values": 1e-4},
    "no qkv bias": {"qkv_bias": False},
    "gray": {"in_chans": 1},
    "no head": {"num_classes": 0},
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_vit_of_timm_computes_the_same(kind: str) -> None:
    model = randomize(VisionTransformer(**SMALL | PLAIN[kind]))
    weights = state_dict.read_state_dict(dict(model.state_dict()), "file.pth")
    images = torch.randn(2, weights.spec.channels, 32, 32)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(logits(weights, images), expected, rtol=1e-5, atol=1e-5)
    assert any(
        each == "3 heads (usual for width 192) and exact GELU are assumed: there is no config.json"
        for each in weights.assumptions
    )
    assert all(torch.equal(weights.tensors[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "resnetv2_50x1_bit"])
def test_hybrids_and_bit_of_timm_compute_the_same(name: str) -> None:
    model = randomize(timm.create_model(name, num_classes=3))
    weights = state_dict.read_state_dict(dict(model.state_dict()), "file.pth")
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(logits(weights, images), model(images), rtol=1e-4, atol=1e-4)


def test_maes_decoder_is_set_aside(tmp_path: Path) -> None:
    model = randomize(VisionTransformer(**SMALL | {"num_classes": 0}))
    mae = dict(model.state_dict()) | {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 192)}
    torch.save({"model": mae, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "mae.pth")
    weights = open_weights(tmp_path / "mae.pth")
    assert sorted(weights.extra) == ["decoder_embed.weight", "mask_token"]
    assert not any("decoder" in name or "mask" in name for name in weights.tensors)
    assert (weights.about.mean, weights.about.std) == IMAGENET
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(logits(weights, images), model(images))


def test_dinov2_with_registers_adds_the_class_position_to_the_token() -> None:
    """DINOv2's forward by hand: class token and patches get positions, then registers are inserted between."""
    model = randomize(VisionTransformer(**SMALL | {"num_classes": 0, "init_values": 0.1}))
    registers = torch.randn(1, 4, 192)
    tensors = dict(model.state_dict()) | {"register_tokens": registers, "mask_token": torch.ones(1, 192)}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        x = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(images)], 1) + model.pos_embed
        x = torch.cat([x[:, :1], registers.expand(2, -1, -1), x[:, 1:]], 1)
        expected = model.norm(model.blocks(x))[:, 0]
    weights = state_dict.read_state_dict(tensors, "dinov2.pth")
    assert (weights.spec.registers, weights.spec.class_position) == (4, False)
    torch.testing.assert_close(logits(weights, images), expected)


def test_gammas_of_deit3_are_renamed() -> None:
    model = VisionTransformer(**SMALL | {"init_values": 0.1})
    old = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in model.state_dict().items()
    }
    assert sorted(state_dict.read_state_dict(old, "f", wrapper="model").tensors) == sorted(model.state_dict())


def released(**options: Any) -> dict[str, torch.Tensor]:
    return dict(randomize(VisionTransformer(**SMALL | options)).state_dict())


def with_gammas(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {re.sub(r"ls([12])\.gamma", r"gamma_\1", name): tensor for name, tensor in tensors.items()}


HEADLESS: dict[str, Any] = {"num_classes": 0}
RELEASED: dict[str, tuple[Callable[[], Any], bool, str]] = {  # the file; whether ImageNet's mean and std; the reason
    "MAE pretrained": (lambda: {"model": released(**HEADLESS)}, True, "its tensors under 'model'"),
    "MAE fine-tuned": (lambda: {"model": released(global_pool="avg")}, True, "a norm after pooling"),
    "MAE, its tensors alone": (lambda: released(**HEADLESS), True, "no head"),
    "MAE fine-tuned, its tensors alone": (lambda: released(global_pool="avg"), True, "a norm after pooling"),
    "DeiT": (lambda: {"model": released()}, True, "its tensors under 'model'"),
    "DeiT III": (
        lambda: {"model": with_gammas(released(init_values=1e-4, no_embed_class=True))}, True, "layer scale"),
    "DINO": (lambda: released(**HEADLESS), True, "no head"),
    "DINO, the whole checkpoint": (
        lambda: {"teacher": {f"backbone.{name}": each for name, each in released(**HEADLESS).items()}, "epoch": 1},
        True, "its tensors under 'teacher'"),
    "DINOv2": (
        lambda: released(**HEADLESS, init_values=1.0) | {"mask_token": torch.zeros(1, 192)}, True, "a mask token"),
    "AugReg from timm": (released, False, "0.5: it looks like AugReg's"),
    "timm's training script": (lambda: {"state_dict": released(), "epoch": 1}, False, "0.5: it looks like AugReg's"),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_a_file_without_mean_and_std_gets_those_of_similar_files(name: str, tmp_path: Path) -> None:
    content, is_imagenets, reason = RELEASED[name]
    torch.save(content(), tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth")
    assert (weights.about.mean, weights.about.std) == (IMAGENET if is_imagenets else HALF)
    assert reason in weights.normalization_guess


def test_deits_distilled_models_are_rejected_by_their_token(tmp_path: Path) -> None:
    torch.save({"model": released() | {"dist_token": torch.zeros(1, 1, 192)}}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError,
        match=r"w\.pth: has DeiT's distillation token, unlike a plain ViT; use --from timm:NAME for timm's models$",
    ):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors},
        lambda tensors: {"model": {"state_dict": tensors}, "optimizer": {}},
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {"teacher": {f"backbone.{name}": tensor for name, tensor in tensors.items()}},
        lambda tensors: {"state_dict_ema": tensors, "state_dict": {}},
    ],
)
def test_checkpoints_are_unwrapped(wrap: Callable[[Any], Any]) -> None:
    tensors = dict(VisionTransformer(**SMALL).state_dict())
    assert sorted(state_dict.unwrap(wrap(tensors), "f")[0]) == sorted(tensors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"pre_norm": True}, "a norm before the first block"),
        ({"pos_embed": "none"}, "has no pos_embed, like models with rotary position embeddings; put it in a folder"),
        (
            {"global_pool": "map", "class_token": False},
            "f: has no class token, like SigLIP and other models that differ in heads and GELU; put",
        ),
        (
            {"global_pool": "avg", "class_token": False, "fc_norm": False},
            "f: has no class token, like SigLIP and other models that differ in heads and GELU; put",
        ),
        (
            {"global_pool": "avg", "class_token": False, "qkv_bias": False},
            "f: has no class token, like SigLIP and other models that differ in heads and GELU; put",
        ),
    ],
)
def test_other_models_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        state_dict.read_state_dict(dict(VisionTransformer(**SMALL | options).state_dict()), "f")


def test_ambiguous_files_give_one_line() -> None:
    for dim in (40, 64, 1152):
        unknown = VisionTransformer(**SMALL | {"embed_dim": dim, "num_heads": 4, "depth": 1})
        message = f"number of heads is not in a state dict, and unknown for width {dim}; put .* as num_heads;"
        with pytest.raises(WeightsError, match=message):
            state_dict.read_state_dict(dict(unknown.state_dict()), "f")
    wide = VisionTransformer(**SMALL | {"img_size": (16, 40)})
    with pytest.raises(
        WeightsError, match="f: 11 positions are not a square grid, and a state dict has no grid; put it in"
    ):
        state_dict.read_state_dict(dict(wide.state_dict()), "f")
    gammas = {"blocks.0.gamma_1": torch.ones(192)}
    with pytest.raises(
        WeightsError, match="f: has gamma_1, like both DeiT III and models with rotary position embeddings; put it in"
    ):
        state_dict.read_state_dict(dict(VisionTransformer(**SMALL).state_dict()) | gammas, "f")


FOLDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cls": ("vit-mu/16", {}),
    "wide": ("vit-mu/16", {"height": 32, "width": 96, "gelu": "erf"}),
    "gap": ("vit-mu/16", {"head": "gap"}),
    "map": ("vit-mu/16", {"head": "map"}),
    "pooled": ("vit-mu/16", {"head": "gap", "norm": "pooled", "class_token": True, "class_position": True}),
    "registers": ("vit-mu/16", {"registers": 2, "class_position": False, "layer_scale": True}),
    "hybrid": ("r+vit-ti/16", {"numerics": "timm"}),
    "bit": ("bit-r50x1", {"numerics": "timm"}),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_timm_and_vitctl_read_the_folders(kind: str, tmp_path: Path) -> None:
    name, options = FOLDERS[kind]
    ours = randomize(create_model(name, classes=3, **options))
    spec = ours.spec
    weights = Weights(spec, collect_tensors(ours), About("test"))
    timm_folder.save_timm_folder(weights, tmp_path / "folder")
    images = torch.randn(1, 3, spec.height, spec.width)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), ours(images), rtol=1e-4, atol=1e-4)
    back = load_weights(tmp_path / "folder")
    assert back.spec == spec
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in theirs.state_dict().items())
    assert sorted(back.tensors) == sorted(weights.tensors)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_timm_preprocesses_images_like_vitctl(fit: str, tmp_path: Path) -> None:
    model = create_model("vit-mu/16", height=32, width=32, classes=3)
    about = replace(About("test"), fit=fit)
    timm_folder.save_timm_folder(Weights(model.spec, collect_tensors(model), about), tmp_path / "folder")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True)
    config = timm.data.resolve_model_data_config(theirs)
    assert (config["crop_pct"], config["interpolation"]) == (1.0, "bicubic")
    assert config["crop_mode"] == {"crop": "center", "squash": "squash", "pad": "border"}[fit]
    assert load_weights(tmp_path / "folder").about.fit == fit


def test_timms_format_cannot_store_some_fields(tmp_path: Path) -> None:
    for options in ({"positions": "2d", "class_position": False}, {"hidden": 8}, {"norm_eps": 1e-4}):
        model = create_model("vit-mu/16", **options)
        with pytest.raises(UsageError, match=r"timm's layout cannot store .*; write \.safetensors or onnx instead"):
            timm_folder.save_timm_folder(Weights(model.spec, {}, About("test")), tmp_path / "f")
    assert not (tmp_path / "f").exists()
