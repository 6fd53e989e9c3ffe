"""Hugging Face's format to timm's names and back; the slow tests compare with transformers itself."""

import json
import re
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitctl.config.eval_crop import EvalCrop
from vitctl.config.model import ModelSpec
from vitctl.errors import OutputExists, UsageError, WeightsError
from vitctl.io import hugging_face
from vitctl.io.hugging_face.names import DINO_3, GATED, hf_tensor_rows
from vitctl.io.weights import About, Tensors, Weights
from vitctl.models.create import collect_tensors, create_model
from vitctl.workflows.inputs.weights import load_model

SPEC = ModelSpec(
    "vit", height=32, width=32, classes=5, patch=8, dim=32, depth=2, heads=4, mlp=48, gelu="erf", norm_eps=1e-12
)
SILENT = "ignore"  # transformers warns about its own dependencies


def module(spec: ModelSpec) -> nn.Module:
    """timm's model of a spec, with vitctl's pre-logits layer."""
    model: nn.Module = VisionTransformer(
        img_size=(spec.height, spec.width),
        patch_size=spec.patch,
        in_chans=spec.channels,
        num_classes=spec.classes,
        embed_dim=spec.dim,
        depth=spec.depth,
        num_heads=spec.heads,
        mlp_ratio=(spec.mlp + 0.5) / spec.dim,
        qkv_bias=spec.qkv_bias,
        norm_layer=partial(nn.LayerNorm, eps=spec.norm_eps),
        act_layer=nn.GELU if spec.gelu == "erf" else partial(nn.GELU, approximate="tanh"),
        weight_init="skip",
    )
    if spec.hidden:
        model.pre_logits = nn.Sequential()
        model.pre_logits.add_module("fc", nn.Linear(spec.dim, spec.hidden))
    return model.eval()


def make(spec: ModelSpec = SPEC, seed: int = 0, **about: Any) -> Weights:
    """Random weights under timm's own names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in module(spec).state_dict().items()
    }
    values = {"mean": (0.5,) * spec.channels, "std": (0.5,) * spec.channels} | about
    return Weights(spec, tensors, About("test", **values))


def export(spec: ModelSpec = SPEC, **about: Any) -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    tensors, config, preprocessor = hugging_face.to_hf(make(spec, **about))
    return tensors, json.loads(json.dumps(config)), json.loads(json.dumps(preprocessor))


def read(tensors: Tensors, config: dict[str, Any] | None, preprocessor: dict[str, Any] | None = None) -> Weights:
    return hugging_face.read_hf(tensors, config, preprocessor, "here")


def same_bits(one: Tensors, other: Tensors) -> bool:
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def renamed(tensors: Tensors) -> Tensors:
    """The names of modules since transformers 5.10 (its own list of patterns)."""
    patterns = (
        (r"encoder\.layer\.", "layers."),
        ("attention.query", "q_proj"),
        ("attention.key", "k_proj"),
        ("attention.value", "v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    )
    new = {}
    for name, tensor in tensors.items():
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        new[name] = tensor
    return new


VARIANTS = {
    "head": SPEC,
    "no head": SPEC.replace(classes=0),
    "pooler": SPEC.replace(classes=0, hidden=32),
    "another width of the pooler": SPEC.replace(classes=0, hidden=24),
    "wide": SPEC.replace(height=16, width=48),
    "tanh": SPEC.replace(gelu="tanh", norm_eps=1e-6),
    "no biases": SPEC.replace(qkv_bias=False),
    "gray": SPEC.replace(channels=1),
    "named": SPEC.replace(name="vit-mu/8", depth=1, heads=2, mlp=128),
}


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_a_round_trip_gives_the_same_bits(spec: ModelSpec) -> None:
    weights, (tensors, config, preprocessor) = make(spec), export(spec)
    back = read(tensors, config, preprocessor)
    assert back.spec == spec
    assert same_bits(back.tensors, weights.tensors)
    assert (back.about.mean, back.about.std, back.notes) == (weights.about.mean, weights.about.std, ())
    assert hugging_face.looks_like(tensors)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    heads, patch = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    classes = draw(st.integers(0, 3))
    dim = heads * draw(st.integers(1, 4))
    return ModelSpec(
        "vit", height=patch * draw(st.integers(1, 3)), width=patch * draw(st.integers(1, 3)), patch=patch, dim=dim,
        channels=draw(st.integers(1, 4)), depth=draw(st.integers(1, 11)), heads=heads, mlp=draw(st.integers(1, 9)),
        classes=classes, hidden=0 if classes else draw(st.integers(0, 3)), qkv_bias=draw(st.booleans()),
        gelu=draw(st.sampled_from(["erf", "tanh"])), norm_eps=draw(st.sampled_from([1e-12, 1e-6, 0.25])),
    )  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(specs(), st.booleans())
def test_any_plain_vit_round_trips(spec: ModelSpec, new_names: bool) -> None:
    tensors, config, preprocessor = export(spec)
    back = read(renamed(tensors) if new_names else tensors, config, preprocessor)
    assert (back.spec, back.notes) == (spec, ())
    assert same_bits(back.tensors, make(spec).tensors)


def test_the_names_are_the_classic_ones() -> None:
    layer = "vit.encoder.layer.0."
    stems = [f"{layer}attention.attention.{part}" for part in ("query", "key", "value")]
    stems += [f"{layer}{part}" for part in ("layernorm_before", "layernorm_after", "attention.output.dense")]
    stems += [f"{layer}intermediate.dense", f"{layer}output.dense", "vit.layernorm", "classifier"]
    stems += ["vit.embeddings.patch_embeddings.projection"]
    expected = {f"{stem}.{ending}" for stem in stems for ending in ("weight", "bias")}
    expected |= {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    tensors, config, _ = export(SPEC.replace(depth=1))
    assert set(tensors) == expected
    assert (config["architectures"], config["model_type"]) == (["ViTForImageClassification"], "vit")


def test_a_bare_model_has_no_prefix_and_may_have_a_pooler() -> None:
    tensors, config, _ = export(SPEC.replace(classes=0, hidden=32))
    assert config["architectures"] == ["ViTModel"]
    assert {"pooler.dense.weight", "pooler.dense.bias", "layernorm.weight"} <= set(tensors)
    assert not any(name.startswith(("vit.", "classifier")) for name in tensors)


def test_query_key_and_value_are_timms_in_this_order() -> None:
    weights = make()
    tensors = hugging_face.to_hf(weights)[0]
    for place, part in enumerate(("query", "key", "value")):
        found = tensors[f"vit.encoder.layer.1.attention.attention.{part}.weight"]
        assert torch.equal(found, weights.tensors["blocks.1.attn.qkv.weight"][32 * place : 32 * (place + 1)])


def test_the_names_of_the_newest_modules_are_read() -> None:
    tensors, config, preprocessor = export()
    new = renamed(tensors)
    assert "vit.layers.1.attention.q_proj.weight" in new
    assert hugging_face.looks_like(new)
    assert same_bits(read(new, config, preprocessor).tensors, make().tensors)
    del new["vit.layers.1.mlp.fc2.bias"]
    with pytest.raises(WeightsError, match=r"lacks 1 tensor \(vit\.layers\.1\.mlp\.fc2\.bias\)"):
        read(new, config)


def test_half_precision_is_kept() -> None:
    weights = make()
    half = replace(weights, tensors={name: tensor.bfloat16() for name, tensor in weights.tensors.items()})
    tensors, config, preprocessor = hugging_face.to_hf(half)
    assert config["torch_dtype"] == "bfloat16"
    assert same_bits(read(tensors, config, preprocessor).tensors, half.tensors)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["cls_token", "pos_embed", "blocks.0.norm1.weight"],
        ["beit.embeddings.cls_token", "beit.encoder.layer.0.layernorm_before.weight"],
        ["vision_model.embeddings.patch_embedding.weight", "vision_model.encoder.layers.0.layer_norm1.weight"],
        ["vit.embeddings.cls_token"],
    ],
)
def test_other_files_do_not_look_like_it(names: list[str]) -> None:
    assert not hugging_face.looks_like(names)


def test_without_a_config_shapes_and_known_widths_decide() -> None:
    spec = SPEC.replace(name="vit-mu/8", depth=1, heads=2, mlp=128)
    back = read(export(spec)[0], None)
    assert back.spec == spec
    assert [
        each
        for each in back.assumptions
        if "no config.json: 2 heads, exact GELU" in each and "image size 32x32" in each
    ]
    assert "no preprocessor_config.json" in back.normalization_guess


def test_without_a_config_some_sizes_are_unknown() -> None:
    with pytest.raises(
        WeightsError, match="here: the grid is unknown: 13 positions are no class token and square; add config"
    ):
        read(export(SPEC.replace(height=16, width=48))[0], None)
    for dim in (48, 128):
        with pytest.raises(
            WeightsError,
            match=f"the number of heads is unknown for width {dim}: .* config.json with num_attention_heads",
        ):
            read(export(SPEC.replace(dim=dim))[0], None)


def test_masked_pretraining_is_set_aside() -> None:
    tensors, config, preprocessor = export(SPEC.replace(classes=0))
    tensors = {f"vit.{name}": tensor for name, tensor in tensors.items()}
    apart = {"decoder.0.weight": torch.ones(192, 32, 1, 1), "decoder.0.bias": torch.ones(192)}
    tensors |= apart | {"vit.embeddings.mask_token": torch.ones(1, 1, 32)}
    tensors |= {"vit.embeddings.position_ids": torch.arange(17)[None]}
    back = read(tensors, config | {"architectures": ["ViTForMaskedImageModeling"]}, preprocessor)
    assert same_bits(back.tensors, make(SPEC.replace(classes=0)).tensors)
    assert same_bits(back.extra, apart | {"mask_token": torch.ones(1, 1, 32)})
    assert [note for note in back.notes if "3 tensors of masked pretraining set aside" in note]
    assert [note for note in back.notes if "position_ids ignored: it only numbers the positions" in note]


def test_class_names_are_in_the_order_of_their_numbers() -> None:
    spec = SPEC.replace(classes=11)
    names = tuple(f"class {letter}" for letter in "abcdefghijk")
    tensors, config, _ = export(spec, class_names=names)
    assert config["label2id"]["class k"] == 10
    config["id2label"] = dict(sorted(config["id2label"].items()))  # "10" before "2"
    assert read(tensors, config).about.class_names == names


def test_a_model_of_sets_is_a_multi_label_classification() -> None:
    tensors, config, _ = export(task="sets", thresholds=(0.25,) * SPEC.classes)
    assert config["problem_type"] == "multi_label_classification"
    about = read(tensors, config).about
    assert (about.task, about.thresholds) == ("sets", (0.5,) * SPEC.classes)  # transformers knows no thresholds


def test_made_up_class_names_are_dropped() -> None:
    tensors, config, _ = export()
    assert config["id2label"]["4"] == "LABEL_4"
    assert read(tensors, config).about.class_names == ()
    del config["id2label"]  # transformers leaves them out where there are two
    assert read(tensors, config).about.class_names == ()


def test_a_head_of_zeros_is_noted() -> None:
    tensors, config, _ = export()
    tensors["classifier.weight"] = torch.zeros(5, 32)
    assert "its head is all zeros: features only" in read(tensors, config).notes


def test_a_config_without_fields_has_the_defaults_of_transformers() -> None:
    spec = ModelSpec("vit", height=224, width=224, patch=112, dim=24, depth=1, heads=12, mlp=8, classes=0, gelu="erf",
                     norm_eps=1e-12)  # fmt: skip
    assert read(export(spec)[0], {"model_type": "vit"}).spec == spec


@pytest.mark.parametrize("act", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])
def test_every_name_of_the_tanh_gelu(act: str) -> None:
    tensors, config, _ = export()
    assert read(tensors, config | {"hidden_act": act}).spec.gelu == "tanh"


@pytest.mark.parametrize("size", [[16, 48], {"height": 16, "width": 48}])
def test_height_comes_before_width(size: Any) -> None:
    spec = SPEC.replace(height=16, width=48)
    tensors, config, _ = export(spec)
    assert config["image_size"] == [16, 48]
    assert read(tensors, config | {"image_size": size, "patch_size": [8, 8]}).spec == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "says hidden_act 'relu'; supported: gelu, gelu_new, gelu_pytorch_tanh, gelu_fast"),
        ({"hidden_act": "relu"}, "says hidden_act 'relu'"),
        ({"hidden_act": ["gelu"]}, "says hidden_act"),
        ({"hidden_act": 0}, "says hidden_act 0"),
        ({"hidden_size": 64}, "disagree: it says hidden_size 64, not 32; use the config.json"),
        ({"num_hidden_layers": 3, "intermediate_size": 1}, "num_hidden_layers 3, not 2, intermediate_size 1, not 48"),
        ({"num_channels": 1}, "num_channels 1, not 3"),
        ({"qkv_bias": False}, "qkv_bias False, not True"),
        ({"patch_size": 16}, "patch_size 16, not 8"),
        ({"patch_size": [8, 16]}, "patch_size"),
        ({"head_dim": 16}, "head_dim 16, not 8"),
        ({"num_labels": 6}, "num_labels 6, not 5"),
        ({"num_attention_heads": 5}, "5 heads do not divide a width of 32"),
        ({"num_attention_heads": 0}, "num_attention_heads 0; it must be a positive integer"),
        ({"num_attention_heads": True}, "num_attention_heads True"),
        ({"num_attention_heads": "4"}, "num_attention_heads '4'"),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps is '1e-6'; it must be a number"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"layer_norm_eps": -1}, "norm_eps is -1.0; it must be above 0 and under 1"),
        ({"image_size": 40}, "image_size 40x40, which needs 26 positions with the class token, but"),
        ({"image_size": 33}, "image_size 33x33; patches of 8 do not divide it"),
        ({"image_size": [32]}, "it must be a number or height and width"),
        ({"image_size": [32, "32"]}, "image_size '32'; it must be a positive integer"),
        ({"image_size": {"height": 32}}, "image_size 'no width'"),
        ({"model_type": "swin"}, "model_type 'swin'; supported: vit, vit_mae"),
        ({"model_type": "dinov2"}, "model_type 'dinov2', but its tensors are those of a ViT"),
        ({"id2label": {"0": "cat"}}, "id2label has 1 name, but classifier.weight has classes 0 to 4"),
        ({"id2label": ["a", "b", "c", "d", "e"]}, "id2label is not an object"),
        ({"id2label": {str(index): [index] for index in range(5)}}, "names that are not text"),
        ({"id2label": {str(index + 1): "a" for index in range(5)}}, "has classes 0 to 4"),
    ],
)
def test_a_config_that_does_not_match(change: dict[str, Any], message: str) -> None:
    tensors, config, _ = export()
    with pytest.raises(WeightsError, match=f"^here: .*{re.escape(message)}") as caught:
        read(tensors, config | change)
    assert "\n" not in str(caught.value)


def test_a_pooler_has_a_tanh() -> None:
    tensors, config, _ = export(SPEC.replace(classes=0, hidden=32))
    with pytest.raises(WeightsError, match="pooler_act 'gelu'"):
        read(tensors, config | {"pooler_act": "gelu"})
    with pytest.raises(WeightsError, match="pooler_output_size 31, not 32"):
        read(tensors, config | {"pooler_output_size": 31})


def test_a_classifier_has_no_pooler() -> None:
    tensors, config, _ = export()
    pooler = {"vit.pooler.dense.weight": torch.ones(32, 32), "vit.pooler.dense.bias": torch.ones(32)}
    with pytest.raises(
        WeightsError, match=r"has 2 unexpected tensors \(vit\.pooler\.dense\.bias, vit\.pooler\.dense\.w"
    ):
        read(tensors | pooler, config)


def test_a_classification_model_without_classifier_is_rejected() -> None:
    tensors, config, _ = export()
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    with pytest.raises(WeightsError, match=r"classifier\.weight and classifier\.bias are missing"):
        read(tensors, config)
    assert read(tensors, config | {"id2label": {}}).spec.classes == 0


def test_up_to_five_names_are_listed() -> None:
    tensors, config, _ = export()
    gone = [name for name in sorted(tensors) if ".layer.1." in name]
    with pytest.raises(WeightsError) as few:
        read({name: tensor for name, tensor in tensors.items() if name not in gone[:5]}, config)
    assert f"lacks 5 tensors ({', '.join(gone[:5])})" in str(few.value)
    with pytest.raises(WeightsError) as many:
        read({name: tensor for name, tensor in tensors.items() if name not in gone[:6]}, config)
    assert f"lacks 6 tensors ({', '.join(gone[:5])}, ...)" in str(many.value)
    with pytest.raises(WeightsError, match=r"has 1 unexpected tensor \(vit\.odd name\)"):
        read(tensors | {"vit.odd\nname": torch.ones(1)}, config)


@pytest.mark.parametrize("name", sorted(export()[0]))
def test_a_tensor_that_is_missing_or_malformed_is_named(name: str) -> None:
    tensors, config, _ = export()
    shape = tuple(tensors[name].shape)
    with pytest.raises(WeightsError):
        read({other: tensor for other, tensor in tensors.items() if other != name}, config)
    for odd in (torch.ones(()), torch.ones(0), torch.ones(1, *shape), torch.ones((shape[0] + 1, *shape[1:]))):
        with pytest.raises(WeightsError):
            read(tensors | {name: odd}, config)
        with pytest.raises(WeightsError):
            read(tensors | {name: odd}, None)
    with pytest.raises(WeightsError, match=r"is torch\.int8, torch\.strided; save it as float32"):
        read(tensors | {name: torch.ones(shape, dtype=torch.int8)}, config)
    with pytest.raises(WeightsError, match="is a list, not a tensor"):
        read(tensors | {name: [1.0]}, config)  # type: ignore[arg-type]


def test_a_gap_in_the_numbers_of_layers_is_noticed() -> None:
    tensors, config, _ = export()
    moved = {name.replace("layer.1.", "layer.1000000000."): tensor for name, tensor in tensors.items()}
    with pytest.raises(WeightsError, match=r"lacks 16 tensors \(vit\.encoder\.layer\.1\..*has 16 unexpected tensors"):
        read(moved, config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([4, 8, 32, "gelu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
    "image_size", "patch_size", "num_channels", "qkv_bias", "id2label", "model_type", "architectures", "pooler_act",
    "pooler_output_size", "head_dim", "num_labels",
)  # fmt: skip
PREPROCESSING = ("image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor")


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    st.dictionaries(st.sampled_from(PREPROCESSING), JSON, max_size=3),
    st.booleans(),
)
def test_untrusted_json_is_read_or_rejected(change: Any, preprocessing: Any, pooled: bool) -> None:
    tensors, config, preprocessor = export(SPEC.replace(classes=0, hidden=32) if pooled else SPEC)
    try:
        weights = read(tensors, config | change, preprocessor | preprocessing)
    except WeightsError as error:
        assert "\n" not in str(error)
    else:
        assert weights.tensors.keys() == make(weights.spec).tensors.keys()


@pytest.mark.parametrize("content", [[], "vit", 1])
def test_json_that_is_not_an_object(content: Any) -> None:
    tensors = export()[0]
    with pytest.raises(WeightsError, match=r"here: config\.json holds a \w+, not an object"):
        read(tensors, content)
    with pytest.raises(WeightsError, match=r"here: preprocessor_config\.json holds a \w+, not an object"):
        read(tensors, None, content)


def normalized(preprocessor: dict[str, Any], spec: ModelSpec = SPEC) -> tuple[tuple[float, ...], tuple[float, ...]]:
    tensors, config, _ = export(spec)
    about = read(tensors, config, preprocessor).about
    return about.mean, about.std


@pytest.mark.parametrize(("fit", "size", "kind", "back"), [
    ("crop", (32, 32), "CLIPImageProcessor", "crop"), ("squash", (32, 32), "ViTImageProcessor", "squash"),
    ("crop", (32, 48), "ViTImageProcessor", "squash"), ("pad", (32, 32), "ViTImageProcessor", "squash"),
])  # fmt: skip
def test_the_fit_round_trips(fit: str, size: tuple[int, int], kind: str, back: str) -> None:
    """No processor crops to another shape or pads with white: the export squashes instead, and warns."""
    tensors, config, preprocessor = export(SPEC.replace(height=size[0], width=size[1]), fit=fit)
    assert preprocessor["image_processor_type"] == kind
    assert preprocessor.get("crop_size") == ({"height": 32, "width": 32} if back == "crop" else None)
    assert read(tensors, config, preprocessor).about.fit == back


@pytest.mark.parametrize(("preprocessor", "fit"), [
    (None, "crop"), ({}, "squash"), ({"size": 224}, "squash"), ({"size": {"height": 224, "width": 224}}, "squash"),
    ({"feature_extractor_type": "ViTFeatureExtractor", "do_resize": True}, "squash"),
    ({"size": {"shortest_edge": 224}}, "crop"), ({"image_processor_type": "CLIPImageProcessor"}, "crop"),
    ({"image_processor_type": "BitImageProcessor", "do_center_crop": False}, "squash"),
    ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "crop"),
    ({"image_processor_type": ["ViT"], "size": [3]}, "squash"),
])  # fmt: skip
def test_the_fit_of_other_processors(preprocessor: dict[str, Any] | None, fit: str) -> None:
    tensors, config, _ = export()
    assert read(tensors, config, preprocessor).about.fit == fit


@pytest.mark.parametrize(("crop", "written"), [
    (EvalCrop("crop", 0.5), ({"shortest_edge": 64}, 3)), (EvalCrop("squash", 0.5), ({"height": 64, "width": 64}, 3)),
    (EvalCrop("crop", 1.0, "bilinear"), ({"shortest_edge": 32}, 2)),
])  # fmt: skip
def test_the_share_and_the_filter_round_trip(crop: EvalCrop, written: tuple[Any, int]) -> None:
    tensors, config, preprocessor = export(fit=crop.fit, crop_pct=crop.share, interpolation=crop.filter)
    assert (preprocessor["size"], preprocessor["resample"]) == written
    assert preprocessor["crop_size"] == {"height": 32, "width": 32}
    assert read(tensors, config, preprocessor).about.eval_crop == crop


@pytest.mark.parametrize(("preprocessor", "crop"), [
    # facebook/deit-small-patch16-224, facebook/dinov2-small, facebook/convnext-tiny-224 and its 384
    ({"image_processor_type": "DeiTImageProcessor", "size": {"height": 256, "width": 256}, "do_center_crop": True,
      "crop_size": {"height": 224, "width": 224}, "resample": 3}, EvalCrop("squash", 0.875)),
    ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "do_center_crop": True,
      "crop_size": {"height": 224, "width": 224}, "resample": 3}, EvalCrop("crop", 0.875)),
    ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875,
      "resample": 3}, EvalCrop("crop", 0.875)),
    ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "resample": 3},
     EvalCrop("squash")),
    ({"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, "resample": 2},
     EvalCrop("squash", 1.0, "bilinear")),
    ({"image_processor_type": "PerceiverImageProcessor", "size": {"height": 224, "width": 224},
      "crop_size": {"height": 256, "width": 256}}, EvalCrop("crop", 0.875)),
])  # fmt: skip
def test_the_evaluation_crops_of_published_processors(preprocessor: dict[str, Any], crop: EvalCrop) -> None:
    tensors, config, _ = export()
    assert read(tensors, config, preprocessor).about.eval_crop == crop


def test_mean_and_std_are_of_pixels_from_0_to_1() -> None:
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    assert normalized(values) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert normalized(values | {"rescale_factor": 1 / 255}) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert normalized({"image_mean": [51, 51, 51], "image_std": 25.5, "do_rescale": False}) == ((0.2,) * 3, (0.1,) * 3)
    assert normalized({"do_normalize": False}) == ((0.0,) * 3, (1.0,) * 3)
    assert normalized({"do_normalize": False, "rescale_factor": 1 / 127.5}) == ((0.0,) * 3, (0.5,) * 3)
    assert normalized({"image_mean": [0.5] * 3}, SPEC.replace(channels=1)) == ((0.5,), (0.5,))


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        ({"image_mean": [0.1, 0.2]}, "says image_mean [0.1, 0.2], but the images have 3 channels"),
        ({"image_mean": []}, "says image_mean []"),
        ({"image_mean": "half"}, "image_mean is 'half'; it must be a number"),
        ({"image_mean": [None, 0.5, 0.5]}, "image_mean is None"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std [0.5, 0.5, 0.0]; each must be above 0"),
        ({"image_std": float("inf")}, "image_std is inf"),
        ({"rescale_factor": 0}, "rescale_factor 0.0; it must be above 0"),
        ({"rescale_factor": [1]}, "rescale_factor is [1]"),
    ],
)
def test_an_impossible_normalization(preprocessor: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=f"^here: .*{re.escape(message)}"):
        normalized(preprocessor)


def test_a_missing_normalization_is_noted() -> None:
    tensors, config, _ = export()
    guess = read(tensors, config, {}).normalization_guess
    assert "no image_mean in preprocessor_config.json" in guess
    assert "no image_std" in guess
    assert read(tensors, config, None).about.std == (0.5,) * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "hybrid"}, "family hybrid (only vit)"),
        ({"family": "bit"}, "family bit (only vit)"),
        ({"head": "gap", "class_token": True}, "head gap (only cls)"),
        ({"head": "map"}, "head map (only cls), class_token False (only True), class_position False (only True)"),
        ({"positions": "2d"}, "positions 2d (only 1d, sincos, sincos-mae)"),
        ({"positions": "none"}, "positions none (only 1d, sincos, sincos-mae)"),
        (
            {"positions": "relative", "added": "every"},
            "positions relative (only 1d, sincos, sincos-mae), added every (only stem)",
        ),
        ({"added": "shared"}, "added shared (only stem)"),
        ({"class_position": False}, "class_position False (only True)"),
        ({"registers": 4, "layer_scale": True}, "registers 4 (only 0), layer_scale True (only False)"),
        ({"norm": "pooled"}, "norm pooled (only tokens)"),
        ({"hidden": 16}, "hidden 16 (only 0)"),
        ({"pad": True, "height": 33}, "pad True (only False)"),
    ],
)
def test_fields_that_hugging_face_cannot_store(change: dict[str, Any], message: str) -> None:
    expected = f"Hugging Face's ViT cannot store {message}; write .safetensors instead"
    with pytest.raises(UsageError, match=re.escape(expected)):
        hugging_face.to_hf(replace(make(), spec=SPEC.replace(**change)))


def test_fixed_positions_are_written_as_a_table() -> None:
    tensors, config, preprocessor = hugging_face.to_hf(replace(make(), spec=SPEC.replace(positions="sincos")))
    assert same_bits(read(tensors, config, preprocessor).tensors, make().tensors)


def test_weights_that_do_not_match_their_spec_are_not_written() -> None:
    weights = make()
    with pytest.raises(WeightsError, match=r"lacks 1 tensor \(norm\.bias\) and has 1 unexpected tensor \(odd\)"):
        tensors = {name: tensor for name, tensor in weights.tensors.items() if name != "norm.bias"}
        hugging_face.to_hf(replace(weights, tensors=tensors | {"odd": torch.ones(1)}))
    with pytest.raises(WeightsError, match=r"blocks\.0\.attn\.qkv\.bias is \[95\], but other tensors imply \[96\]"):
        hugging_face.to_hf(replace(weights, tensors=weights.tensors | {"blocks.0.attn.qkv.bias": torch.ones(95)}))


def test_names_and_normalization_must_match_the_model() -> None:
    with pytest.raises(UsageError, match="2 class names for 5 classes; Hugging Face needs one for each class"):
        export(class_names=("cat", "dog"))
    with pytest.raises(UsageError, match="do not fit images of 3 channels"):
        export(mean=(0.1, 0.2))
    gray = make(SPEC.replace(channels=1), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert hugging_face.to_hf(gray)[2]["image_mean"] == [0.5]


def test_a_folder_is_written_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    hugging_face.save_hf_folder(make(), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json"]  # fmt: skip
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config, preprocessor = (
        json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json")
    )
    back = read(load_file(folder / "model.safetensors"), config, preprocessor)
    assert (back.spec, same_bits(back.tensors, make().tensors)) == (SPEC, True)


def test_a_folder_that_is_not_empty_is_rejected(tmp_path: Path) -> None:
    hugging_face.save_hf_folder(make(), tmp_path)  # empty
    for place in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(
            OutputExists, match="exists and is not an empty folder; choose another path, or remove it first"
        ):
            hugging_face.save_hf_folder(make(), place)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        hugging_face.save_hf_folder(replace(make(), spec=SPEC.replace(registers=1)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def open_folder(folder: Path) -> Weights:
    """Weights from a folder of transformers."""
    config = json.loads((folder / "config.json").read_text())
    beside = folder / "preprocessor_config.json"
    preprocessor = json.loads(beside.read_text()) if beside.exists() else None
    return hugging_face.read_hf(load_file(folder / "model.safetensors"), config, preprocessor, str(folder))


def timm_answer(weights: Weights, images: torch.Tensor) -> torch.Tensor:
    model = module(weights.spec)
    model.load_state_dict(weights.tensors)
    return model(images)  # type: ignore[no-any-return]


def hf_config(library: Any, **options: Any) -> Any:
    base = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
        "patch_size": 8, "encoder_stride": 8, "initializer_range": 0.5}  # fmt: skip
    return library.ViTConfig(**(base | options))


@pytest.fixture
def transformers() -> Any:
    library = pytest.importorskip("transformers")
    library.logging.set_verbosity_error()
    torch.manual_seed(0)
    return library


def loaded_model(loaded: tuple[Any, dict[str, Any]]) -> Any:
    """The model, after checking that from_pretrained reports no missing or unexpected tensors."""
    model, report = loaded
    assert not any(report.values()), report
    return model.eval()


DINO_NAMES = (  # timm's, in DINOv2's files of transformers
    (r"^(cls_token)$", r"embeddings.\1"), ("^reg_token$", "embeddings.register_tokens"),
    ("^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"), (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."), (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
)  # fmt: skip


DEIT_NAMES = (  # timm's, in DeiT's files; the rest are those of DINOv2
    ("^dist_token$", "embeddings.distillation_token"), (r"^head\.", "cls_classifier."),
    (r"^head_dist\.", "distillation_classifier."), (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."), (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)  # fmt: skip
GATES, UP = ".mlp.gate_proj.weight", ".mlp.up_proj.weight"


def dino_folder(registers: int) -> tuple[Any, Tensors, dict[str, Any]]:
    """timm's DINOv2, and what transformers stores of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
        theirs = timm.create_model(name, img_size=(28, 42), embed_dim=32, depth=2, num_heads=4).eval()
    tensors: Tensors = {}
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            tensor.add_(torch.randn(tensor.shape) * 0.1)
            for pattern, new in DINO_NAMES:
                name = re.sub(pattern, new, name)
            if ".attn.qkv." in name:
                for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    tensors[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = value
            else:
                tensors[name] = tensor
        if registers:  # the class token's position, which timm has added to the token
            first = torch.randn(1, 1, 32)
            tensors["embeddings.position_embeddings"] = torch.cat([first, tensors["embeddings.position_embeddings"]], 1)
            tensors["embeddings.cls_token"] = tensors["embeddings.cls_token"] - first
    tensors["embeddings.mask_token"] = torch.randn(1, 32)
    kind = "dinov2_with_registers" if registers else "dinov2"
    config = {"model_type": kind, "num_attention_heads": 4, "image_size": [28, 42], "layer_norm_eps": 1e-6}
    return theirs, tensors, config


@torch.no_grad()
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("prefix", [False, True])
def test_dinov2_answers_as_in_timm(registers: int, prefix: bool) -> None:
    torch.manual_seed(0)
    theirs, tensors, config = dino_folder(registers)
    root = f"{config['model_type']}." if prefix else ""
    tensors = {root + name: tensor for name, tensor in tensors.items()}
    tensors |= {"classifier.weight": torch.randn(5, 64), "classifier.bias": torch.randn(5)} if prefix else {}
    assert hugging_face.looks_like(tensors)
    weights = read(tensors, config)
    assert (weights.spec.registers, weights.spec.layer_scale, weights.spec.classes) == (registers, True, 0)
    assert any("left out: features only" in note for note in weights.notes) == prefix
    images = torch.randn(2, 3, 28, 42)
    torch.testing.assert_close(load_model(weights)(images), theirs(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_dinov3_is_read(gated: bool) -> None:
    """Two of its tensors are one of ours, with zeros where keys have no bias; its config may allow them one."""
    for key_bias in (False, True):
        spec = ModelSpec(
            "vit", height=16, width=24, patch=8, dim=32, heads=4, depth=2, mlp=48, classes=0, positions="rope",
            class_position=False, registers=3, layer_scale=True, gelu="erf", norm_eps=1e-5, swiglu=gated,
            key_bias=key_bias,
        )  # fmt: skip
        ours = create_model(spec)
        naming = replace(DINO_3, layers="layer")
        naming = replace(naming, **dict(zip(("fc1", "fc2"), GATED[GATES if gated else UP], strict=True)))
        tensors: Tensors = {"embeddings.mask_token": torch.randn(1, 1, 32)}
        for row in hf_tensor_rows(spec, naming):
            value = collect_tensors(ours)[row.ours]
            value.add_(torch.randn(value.shape) * 0.1)
            parts = list(value.chunk(len(row.theirs) + (row.zero is not None)))
            if row.zero is not None:
                parts.pop(row.zero).zero_()
            tensors |= dict(zip(row.theirs, parts, strict=True))
        config = {"model_type": "dinov3_vit", "num_attention_heads": 4, "image_size": [16, 24], "rope_theta": 100.0}
        weights = read(tensors, config | {"hidden_act": "silu" if gated else "gelu"})
        assert weights.spec == spec.replace(name=weights.spec.name)
        images = torch.randn(2, 3, 16, 24)
        torch.testing.assert_close(load_model(weights)(images), ours(images))


@torch.no_grad()
def test_a_distilled_deit_answers_with_both_its_heads() -> None:
    """timm's model; with the class token's head alone, it is a ViT with a register that has a position."""
    options = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    theirs: Any = timm.create_model("deit_base_distilled_patch16_224", **options).eval()
    tensors: Tensors = {}
    for name, tensor in theirs.state_dict().items():
        tensor.add_(torch.randn(tensor.shape) * 0.1)
        for pattern, new in (*DEIT_NAMES, *DINO_NAMES):
            name = re.sub(pattern, new, name)
        root = "" if "classifier" in name else "deit."
        if ".attn.qkv." in name:
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                tensors[root + name.replace(".attn.qkv.", f".attention.attention.{part}.")] = value
        else:
            tensors[root + name] = tensor
    config = {"model_type": "deit", "num_attention_heads": 4, "image_size": 32, "layer_norm_eps": 1e-6}
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_model(read(tensors, config))(images), theirs(images), rtol=1e-4, atol=1e-5)
    one = {name.replace("cls_cl", "cl"): each for name, each in tensors.items() if "distillation_cl" not in name}
    weights = read(one, config)
    assert (weights.spec.family, weights.spec.registers, weights.spec.class_position) == ("vit", 1, True)
    expected = theirs.head(theirs.forward_features(images)[:, 0])
    torch.testing.assert_close(load_model(weights)(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings(SILENT)
@torch.no_grad()
@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_answers_as_in_transformers(transformers: Any, tmp_path: Path, registers: int) -> None:
    kinds = ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel") if registers else ("Dinov2Config", "Dinov2Model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
    options = sizes | {"layerscale_value": 0.5, "initializer_range": 0.5}
    options |= {"num_register_tokens": registers} if registers else {}
    model = getattr(transformers, kinds[1])(getattr(transformers, kinds[0])(**options)).eval()
    for value in model.parameters():
        value.add_(torch.randn_like(value) * 0.1)
    model.save_pretrained(tmp_path / "theirs")
    weights = open_folder(tmp_path / "theirs")
    images = torch.randn(2, 3, 28, 28)
    expected = model(images).last_hidden_state[:, 0]
    torch.testing.assert_close(load_model(weights)(images), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings(SILENT)
@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6},
        {"hidden_act": "gelu_fast"},
        {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 0.01},
        {"image_size": [16, 48], "id2label": {0: "cat", 1: "dog", 2: "ox"}, "label2id": {"cat": 0, "dog": 1, "ox": 2}},
        {"qkv_bias": False, "num_channels": 1},
    ],
    ids=str,
)
def test_classifiers_of_transformers(transformers: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    config = hf_config(transformers, **({"num_labels": 5} | options if "id2label" not in options else options))
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    weights = open_folder(tmp_path / "theirs")
    assert weights.spec.norm_eps == config.layer_norm_eps
    assert weights.about.class_names == (("cat", "dog", "ox") if "id2label" in options else ())
    images = torch.randn(3, weights.spec.channels, weights.spec.height, weights.spec.width)
    logits = model(images).logits
    assert logits.std() > 0.1
    torch.testing.assert_close(timm_answer(weights, images), logits, rtol=0, atol=1e-5)
    hugging_face.save_hf_folder(weights, tmp_path / "ours")
    back = loaded_model(
        transformers.ViTForImageClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    )
    assert back.config.id2label == model.config.id2label
    if options.get("hidden_act", "gelu") not in ("gelu_new", "gelu_fast"):  # those are written as gelu_pytorch_tanh
        assert torch.equal(back(images).logits, logits)
    torch.testing.assert_close(back(images).logits, logits, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings(SILENT)
@torch.no_grad()
def test_a_state_dict_of_transformers(transformers: Any, tmp_path: Path) -> None:
    """The names of the modules, which changed in 5.10."""
    model = transformers.ViTForImageClassification(hf_config(transformers, num_labels=5))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert same_bits(read(model.state_dict(), config).tensors, open_folder(tmp_path).tensors)


@pytest.mark.slow
@pytest.mark.filterwarnings(SILENT)
@torch.no_grad()
def test_bare_models_of_transformers(transformers: Any, tmp_path: Path) -> None:
    model = transformers.ViTModel(hf_config(transformers)).eval()
    model.save_pretrained(tmp_path / "theirs")
    weights = open_folder(tmp_path / "theirs")
    assert (weights.spec.hidden, weights.spec.classes) == (32, 0)
    images = torch.randn(3, 3, 32, 32)
    features = module(weights.spec.replace(hidden=0))
    features.load_state_dict({name: value for name, value in weights.tensors.items() if "pre_logits" not in name})
    pooler = nn.functional.linear(
        features(images), weights.tensors["pre_logits.fc.weight"], weights.tensors["pre_logits.fc.bias"]
    )
    torch.testing.assert_close(pooler.tanh(), model(images).pooler_output, rtol=0, atol=1e-5)
    hugging_face.save_hf_folder(weights, tmp_path / "ours")
    back = loaded_model(transformers.AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True))
    assert type(back) is type(model)
    assert torch.equal(back(images).pooler_output, model(images).pooler_output)


@pytest.mark.slow
@pytest.mark.filterwarnings(SILENT)
@torch.no_grad()
def test_masked_models_of_transformers(transformers: Any, tmp_path: Path) -> None:
    images = torch.randn(3, 3, 32, 32)
    simmim = transformers.ViTForMaskedImageModeling(hf_config(transformers)).eval()
    simmim.save_pretrained(tmp_path / "simmim")
    weights = open_folder(tmp_path / "simmim")
    assert set(weights.extra) == {"mask_token", "decoder.0.weight", "decoder.0.bias"}
    torch.testing.assert_close(
        timm_answer(weights, images), simmim.vit(images).last_hidden_state[:, 0], rtol=0, atol=1e-4
    )
    config = transformers.ViTMAEConfig(
        **hf_config(transformers).to_dict() | {"model_type": "vit_mae", "mask_ratio": 0.0, "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
    )  # fmt: skip
    mae = transformers.ViTMAEForPreTraining(config).eval()
    mae.save_pretrained(tmp_path / "mae")
    weights = open_folder(tmp_path / "mae")
    assert all(name.startswith("decoder.") for name in weights.extra)
    torch.testing.assert_close(timm_answer(weights, images), mae.vit(images).last_hidden_state[:, 0], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings(SILENT)
@torch.no_grad()
def test_exported_models_of_every_kind(transformers: Any, tmp_path: Path) -> None:
    """transformers loads every variant without a warning; a model without a head gets a new pooler."""
    for index, (name, spec) in enumerate(VARIANTS.items()):
        weights = make(spec)
        hugging_face.save_hf_folder(weights, tmp_path / str(index))
        kind = transformers.ViTForImageClassification if spec.classes else transformers.ViTModel
        options = {} if spec.classes or spec.hidden else {"add_pooling_layer": False}
        if spec.hidden not in (0, spec.dim) and "pooler_output_size" not in transformers.ViTConfig().to_dict():
            continue
        back = loaded_model(kind.from_pretrained(tmp_path / str(index), output_loading_info=True, **options))
        images = torch.randn(2, spec.channels, spec.height, spec.width)
        if not spec.hidden:
            answer = back(images).logits if spec.classes else back(images).last_hidden_state[:, 0]
            mine = timm_answer(weights, images)
            torch.testing.assert_close(answer, mine, rtol=0, atol=1e-5 * float(mine.abs().max()), msg=name)
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / str(index))
        assert tuple(processor.image_mean) == weights.about.mean
        assert dict(processor.size) == {"height": spec.height, "width": spec.width}
