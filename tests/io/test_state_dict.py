"""State dicts of timm, DeiT III, MAE and DINOv2, as timm's own modules make them."""

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

SMALL: dict[str, Any] = {  # as wide as a ViT-Ti, whose three heads are known
    "img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3, "num_classes": 5}  # fmt: skip


def drawn(model: nn.Module) -> nn.Module:
    """Every parameter another number, so that each matters."""
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
    model = drawn(VisionTransformer(**SMALL | PLAIN[kind]))
    weights = state_dict.read_state_dict(dict(model.state_dict()), "file.pth")
    images = torch.randn(2, weights.spec.channels, 32, 32)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(logits(weights, images), expected, rtol=1e-5, atol=1e-5)
    assert any(each.startswith("3 heads, from the width of 192, and GELU by erf") for each in weights.assumptions)
    assert all(torch.equal(weights.tensors[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "resnetv2_50x1_bit"])
def test_hybrids_and_bit_of_timm_compute_the_same(name: str) -> None:
    model = drawn(timm.create_model(name, num_classes=3))
    weights = state_dict.read_state_dict(dict(model.state_dict()), "file.pth")
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(logits(weights, images), model(images), rtol=1e-4, atol=1e-4)


def test_mae_keeps_its_decoder_apart(tmp_path: Path) -> None:
    model = drawn(VisionTransformer(**SMALL | {"num_classes": 0}))
    mae = dict(model.state_dict()) | {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 192)}
    torch.save({"model": mae, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "mae.pth")
    weights = open_weights(tmp_path / "mae.pth")
    assert sorted(weights.extra) == ["decoder_embed.weight", "mask_token"]
    assert not any("decoder" in name or "mask" in name for name in weights.tensors)
    assert (weights.about.mean, weights.about.std) == IMAGENET
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(logits(weights, images), model(images))


def test_dinov2_with_registers_has_the_class_position_in_its_token() -> None:
    """DINOv2's forward, by hand: class token and patches get positions, then registers are put between."""
    model = drawn(VisionTransformer(**SMALL | {"num_classes": 0, "init_values": 0.1}))
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


def test_gammas_of_deit3_get_their_names() -> None:
    model = VisionTransformer(**SMALL | {"init_values": 0.1})
    old = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in model.state_dict().items()
    }
    assert sorted(state_dict.read_state_dict(old, "f", wrapper="model").tensors) == sorted(model.state_dict())


def released(**options: Any) -> dict[str, torch.Tensor]:
    return dict(drawn(VisionTransformer(**SMALL | options)).state_dict())


def with_gammas(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {re.sub(r"ls([12])\.gamma", r"gamma_\1", name): tensor for name, tensor in tensors.items()}


HEADLESS: dict[str, Any] = {"num_classes": 0}
RELEASED: dict[str, tuple[Callable[[], Any], bool, str]] = {  # as they are downloaded; whether ImageNet's; the sign
    "MAE pretrained": (lambda: {"model": released(**HEADLESS)}, True, "its tensors under 'model'"),
    "MAE fine-tuned": (lambda: {"model": released(global_pool="avg")}, True, "a norm behind the mean"),
    "MAE, its tensors alone": (lambda: released(**HEADLESS), True, "no head"),
    "MAE fine-tuned, its tensors alone": (lambda: released(global_pool="avg"), True, "a norm behind the mean"),
    "DeiT": (lambda: {"model": released()}, True, "its tensors under 'model'"),
    "DeiT III": (
        lambda: {"model": with_gammas(released(init_values=1e-4, no_embed_class=True))}, True, "layer scale"),
    "DINO": (lambda: released(**HEADLESS), True, "no head"),
    "DINO, the whole checkpoint": (
        lambda: {"teacher": {f"backbone.{name}": each for name, each in released(**HEADLESS).items()}, "epoch": 1},
        True, "its tensors under 'teacher'"),
    "DINOv2": (
        lambda: released(**HEADLESS, init_values=1.0) | {"mask_token": torch.zeros(1, 192)}, True, "a mask token"),
    "AugReg from timm": (released, False, "as AugReg's"),
    "timm's training script": (lambda: {"state_dict": released(), "epoch": 1}, False, "as AugReg's"),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_a_file_without_mean_and_std_gets_those_of_whoever_released_it(name: str, tmp_path: Path) -> None:
    content, is_imagenets, sign = RELEASED[name]
    torch.save(content(), tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth")
    assert (weights.about.mean, weights.about.std) == (IMAGENET if is_imagenets else HALF)
    assert sign in weights.normalization_guess


def test_deits_distilled_models_are_refused_by_their_token(tmp_path: Path) -> None:
    torch.save({"model": released() | {"dist_token": torch.zeros(1, 1, 192)}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="DeiT's distillation token"):
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
    ("options", "said"),
    [
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"pre_norm": True}, "a norm before the first block"),
        ({"pos_embed": "none"}, "has no pos_embed, as models with rotary positions; put it into a folder"),
        ({"global_pool": "map", "class_token": False}, "has no class token, as SigLIP"),
        ({"global_pool": "avg", "class_token": False, "fc_norm": False}, "has no class token, as SigLIP"),
        ({"global_pool": "avg", "class_token": False, "qkv_bias": False}, "has no class token, as SigLIP"),
    ],
)
def test_other_models_are_refused_by_what_they_have(options: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        state_dict.read_state_dict(dict(VisionTransformer(**SMALL | options).state_dict()), "f")


def test_what_cannot_be_told_is_one_line() -> None:
    for dim in (40, 64, 1152):
        unknown = VisionTransformer(**SMALL | {"embed_dim": dim, "num_heads": 4, "depth": 1})
        with pytest.raises(WeightsError, match=f"how many heads share a width of {dim} .*, such as num_heads"):
            state_dict.read_state_dict(dict(unknown.state_dict()), "f")
    wide = VisionTransformer(**SMALL | {"img_size": (16, 40)})
    with pytest.raises(WeightsError, match="11 positions are no square grid"):
        state_dict.read_state_dict(dict(wide.state_dict()), "f")
    gammas = {"blocks.0.gamma_1": torch.ones(192)}
    with pytest.raises(WeightsError, match="has gamma_1, as DeiT III and models with rotary positions"):
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
def test_timm_reads_our_folders_and_we_read_them_back(kind: str, tmp_path: Path) -> None:
    name, options = FOLDERS[kind]
    ours = drawn(create_model(name, classes=3, **options))
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
def test_timm_prepares_images_as_they_were_trained_on(fit: str, tmp_path: Path) -> None:
    model = create_model("vit-mu/16", height=32, width=32, classes=3)
    about = replace(About("test"), fit=fit)
    timm_folder.save_timm_folder(Weights(model.spec, collect_tensors(model), about), tmp_path / "folder")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True)
    found = timm.data.resolve_model_data_config(theirs)
    assert (found["crop_pct"], found["interpolation"]) == (1.0, "bicubic")
    assert found["crop_mode"] == {"crop": "center", "squash": "squash", "pad": "border"}[fit]
    assert load_weights(tmp_path / "folder").about.fit == fit


def test_timm_has_no_place_for_some_things(tmp_path: Path) -> None:
    for options in ({"positions": "2d", "class_position": False}, {"hidden": 8}, {"norm_eps": 1e-5}):
        model = create_model("vit-mu/16", **options)
        with pytest.raises(UsageError, match="timm's layout has no place for"):
            timm_folder.save_timm_folder(Weights(model.spec, {}, About("test")), tmp_path / "f")
    assert not (tmp_path / "f").exists()
