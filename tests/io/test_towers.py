"""The image towers of CLIP and SigLIP, against timm (always) and transformers (slow)."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from vitctl.errors import WeightsError
from vitctl.io.weights import Tensors
from vitctl.workflows.inputs.weights import load_model, load_weights

SIZES: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 0}
KINDS = {
    "siglip": ("vit_base_patch16_siglip_224", {"act_layer": "gelu_tanh", "img_size": 32}),
    "clip": ("vit_base_patch32_clip_quickgelu_224", {"img_size": 64}),
}
NAMES = (  # timm's, in transformers
    (r"^patch_embed\.proj", "embeddings.patch_embedding"), (r"^norm_pre\.", "pre_layrnorm."),
    (r"^norm\.", "post_layernorm."), (r"^blocks\.(\d+)\.norm", r"encoder.layers.\1.layer_norm"),
    (r"^blocks\.(\d+)\.attn\.proj", r"encoder.layers.\1.self_attn.out_proj"),
    (r"^blocks\.(\d+)\.mlp", r"encoder.layers.\1.mlp"), (r"^attn_pool\.latent", "head.probe"),
    (r"^attn_pool\.proj", "head.attention.out_proj"), (r"^attn_pool\.norm", "head.layernorm"),
    (r"^attn_pool\.mlp", "head.mlp"),
)  # fmt: skip


def make(kind: str) -> tuple[nn.Module, Tensors, dict[str, Any]]:
    """timm's model, and what transformers stores of it."""
    torch.manual_seed(0)
    name, options = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name, **SIZES, **options).eval()
    tensors: Tensors = {"logit_scale": torch.ones(()), "text_model.embeddings.token_embedding.weight": torch.ones(4, 8)}
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(torch.randn(value.shape) * 0.1)
    own = model.state_dict()
    for name, value in own.items():
        if name == "cls_token":
            tensors["vision_model.embeddings.class_embedding"] = value.flatten()
        elif name == "pos_embed":
            tensors["vision_model.embeddings.position_embedding.weight"] = value[0]
        elif match := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name):
            for part, each in zip("qkv", value.chunk(3), strict=True):
                tensors[f"vision_model.encoder.layers.{match[1]}.self_attn.{part}_proj.{match[2]}"] = each.contiguous()
        elif match := re.fullmatch(r"attn_pool\.q\.(\w+)", name):
            both = torch.cat([value, own[f"attn_pool.kv.{match[1]}"]])
            tensors[f"vision_model.head.attention.in_proj_{match[1]}"] = both
        elif not name.startswith("attn_pool.kv."):
            for pattern, new in NAMES:
                name = re.sub(pattern, new, name)
            tensors[f"vision_model.{name}"] = value
    vision = {"num_attention_heads": 4, "image_size": KINDS[kind][1]["img_size"]}
    return model, tensors, {"model_type": kind, "vision_config": vision}


def write(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_answers_as_in_timm(kind: str, tmp_path: Path) -> None:
    theirs, tensors, config = make(kind)
    weights = load_weights(write(tmp_path / kind, tensors, config))
    assert (weights.spec.family, weights.spec.pre_norm) == ("vit", kind == "clip")
    assert any("2 tensors of its text tower and projections are left out" in note for note in weights.notes)
    images = torch.randn(2, 3, weights.spec.height, weights.spec.width)
    torch.testing.assert_close(load_model(weights)(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_a_tower_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    _, tensors, config = make("clip")
    config["vision_config"]["num_hidden_layers"] = 3
    with pytest.raises(WeightsError, match=r"not an image tower .*config.json says num_hidden_layers 3, the tensors 2"):
        load_weights(write(tmp_path / "one", tensors, config))
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="the number of heads is not in the tensors"):
        load_weights(tmp_path / "bare.safetensors")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_answers_as_in_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    name = {"siglip": "Siglip", "clip": "CLIP"}[kind]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{name}VisionConfig")(**sizes, image_size=32, patch_size=16)
    model = getattr(transformers, f"{name}VisionModel")(config).eval()
    for value in model.parameters():
        value.add_(torch.randn_like(value) * 0.1)
    model.save_pretrained(tmp_path / kind)
    images = torch.randn(2, 3, 32, 32)
    ours = load_model(load_weights(tmp_path / kind))(images)
    torch.testing.assert_close(ours, model(images).pooler_output, rtol=1e-4, atol=1e-5)
