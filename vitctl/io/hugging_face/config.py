"""config.json: what it says of a model, which the tensors must bear out; and what ours says."""

import math
from dataclasses import replace
from typing import Any, Literal

from vitctl.config.model import SIZES, ModelSpec
from vitctl.errors import UsageError, WeightsError
from vitctl.io.hugging_face.checks import Config, quote_value, read_float, read_int
from vitctl.io.weights import Weights
from vitctl.reporting import format_count

GELUS: dict[str, Literal["tanh", "erf"]] = {
    "gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh"}  # fmt: skip
EPS = 1e-12  # here and below: what transformers takes where config.json is silent
HEADS = 12
PIXELS = 224
SAME = "take the config.json that was saved with these tensors"


def assume_config(spec: ModelSpec, positions: int, assumptions: list[str]) -> ModelSpec:
    """Without a config.json: what shapes do not say."""
    dim = spec.dim
    heads = next((size.heads for size in SIZES.values() if size.dim == dim), 0)
    if not heads:
        raise WeightsError(
            f"how many heads share a width of {dim} cannot be known without config.json: put one beside it, as "
            "model.safetensors or pytorch_model.bin, that says num_attention_heads"
        )
    side = math.isqrt(positions - 1)
    if not side or side * side != positions - 1:
        raise WeightsError(
            f"the grid cannot be told: {positions} positions are no square and a class token; put config.json beside"
        )
    pixels = side * spec.patch
    assumptions.append(
        f"no config.json: {heads} heads, GELU by erf, epsilon {EPS} and images of {pixels}x{pixels} assumed"
    )
    return replace(spec, heads=heads, height=pixels, width=pixels)


def apply_config(spec: ModelSpec, positions: int, config: Config) -> ModelSpec:
    heads = read_int("num_attention_heads", config.get("num_attention_heads"), HEADS)
    height, width = image_size(config.get("image_size"))
    pooling = config.get("pooler_act", "tanh")
    if spec.hidden and pooling not in ("tanh", None):
        raise WeightsError(
            f"config.json says pooler_act {quote_value(pooling)}; vitctl's layer before the head has a tanh"
        )
    eps = read_float(config, "layer_norm_eps", EPS)
    spec = replace(spec, heads=heads, gelu=gelu_of(config.get("hidden_act")), norm_eps=eps)
    check_agreement(spec, config)
    check_positions(spec.patch, height, width, positions)
    return replace(spec, height=height, width=width)


def gelu_of(name: Any) -> Literal["tanh", "erf"]:
    if name is None:
        return "erf"
    if not isinstance(name, str) or name not in GELUS:
        raise WeightsError(f"config.json says hidden_act {quote_value(name)}; vitctl has {', '.join(GELUS)}")
    return GELUS[name]


def check_agreement(spec: ModelSpec, config: Config) -> None:
    """What config.json says of the shapes must be what they are."""
    patch = spec.patch
    found = {
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "intermediate_size": spec.mlp,
        "num_channels": spec.channels,
        "qkv_bias": spec.qkv_bias,
        "head_dim": spec.dim // spec.heads,
    }
    found |= {"pooler_output_size": spec.hidden} if spec.hidden else {}
    found |= {"num_labels": spec.classes} if spec.classes else {}
    wrong = [name for name, size in found.items() if config.get(name) is not None and config[name] != size]
    if config.get("patch_size") not in (None, patch, [patch] * 2, (patch,) * 2, {"height": patch, "width": patch}):
        wrong.append("patch_size")
    if wrong:
        both = ", ".join(f"{name} {quote_value(config[name])}, not {found.get(name, patch)}" for name in wrong)
        raise WeightsError(f"config.json and the tensors disagree: it says {both}; {SAME}")


def check_positions(patch: int, height: int, width: int, positions: int) -> None:
    if height % patch or width % patch:
        raise WeightsError(f"config.json says image_size {height}x{width}; patches of {patch} do not divide it; {SAME}")
    wanted = (height // patch) * (width // patch) + 1
    if positions != wanted:
        raise WeightsError(
            f"config.json says image_size {height}x{width}, which has {wanted} positions with that of the class "
            f"token, but embeddings.position_embeddings has {positions}; {SAME}"
        )


def image_size(value: Any) -> tuple[int, int]:
    """Height and width, from a number, a pair or an object."""
    if isinstance(value, dict):
        value = [value.get("height", "no height"), value.get("width", "no width")]
    pair = value if isinstance(value, list | tuple) else [value, value]
    if len(pair) != 2:
        raise WeightsError(
            f"config.json says image_size {quote_value(value)}; it must be a number, or height and width"
        )
    return read_int("image_size", pair[0], PIXELS), read_int("image_size", pair[1], PIXELS)


def class_names(config: Config, classes: int) -> tuple[str, ...]:
    """In the order of their numbers; those that transformers makes up are none."""
    labels = config.get("id2label")
    if labels is None or not classes:
        return ()
    if not isinstance(labels, dict):
        raise WeightsError("config.json's id2label is not an object of numbers and names; save it anew")
    numbered = {str(number): name for number, name in labels.items()}
    wanted = [str(index) for index in range(classes)]
    if len(numbered) != classes or not all(index in numbered for index in wanted):
        raise WeightsError(
            f"config.json's id2label has {format_count(len(labels), 'name')}, classifier.weight numbers 0 to "
            f"{classes - 1}; {SAME}"
        )
    names = tuple(numbered[index] for index in wanted)
    if not all(isinstance(name, str | int | float) for name in names):
        raise WeightsError("config.json's id2label has names that are no text; save it anew")
    made_up = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return () if made_up else tuple(map(str, names))


def make_config(weights: Weights) -> Config:
    spec = weights.spec
    config: Config = {
        "architectures": ["ViTForImageClassification" if spec.classes else "ViTModel"],
        "model_type": "vit",
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp,
        "hidden_act": "gelu" if spec.gelu == "erf" else "gelu_pytorch_tanh",
        "layer_norm_eps": spec.norm_eps,
        "image_size": spec.height if spec.height == spec.width else [spec.height, spec.width],
        "patch_size": spec.patch,
        "num_channels": spec.channels,
        "qkv_bias": spec.qkv_bias,
        "encoder_stride": spec.patch,
        "torch_dtype": str(weights.tensors["cls_token"].dtype).removeprefix("torch."),
    }
    if spec.hidden:
        config |= {"pooler_act": "tanh", "pooler_output_size": spec.hidden}
    return config | (label_config(weights) if spec.classes else {})


def label_config(weights: Weights) -> Config:
    classes, names = weights.spec.classes, weights.about.class_names
    if names and len(names) != classes:
        raise UsageError(
            f"{weights.spec.name}: {format_count(len(names), 'class name')} for {format_count(classes, 'class')}; "
            "Hugging Face wants one each"
        )
    labels = names or tuple(f"LABEL_{index}" for index in range(classes))
    return {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }
