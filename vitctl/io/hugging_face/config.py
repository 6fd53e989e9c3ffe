"""Reads config.json and checks it against the tensors; writes the config.json of an export."""

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
EPS, HEADS, PIXELS = 1e-12, 12, 224  # the defaults of transformers for what config.json leaves out
SAME = "use the config.json that was saved with these tensors"


def assume_config(spec: ModelSpec, positions: int, assumptions: list[str]) -> ModelSpec:
    """What shapes do not say, without a config.json."""
    heads = next((size.heads for size in SIZES.values() if size.dim == spec.dim), 0)
    if not heads:
        raise WeightsError(
            f"the number of heads is unknown for width {spec.dim}: name the file model.safetensors or "
            "pytorch_model.bin, and put a config.json with num_attention_heads next to it"
        )
    side = math.isqrt(positions - 1)
    if not side or side * side != positions - 1:
        raise WeightsError(
            f"the grid is unknown: {positions} positions are not a class token and a square; put config.json next to it"
        )
    pixels = side * spec.patch
    assumptions.append(
        f"no config.json: {heads} heads, exact GELU, epsilon {EPS} and image size {pixels}x{pixels} are assumed"
    )
    return replace(spec, heads=heads, height=pixels, width=pixels)


def apply_config(spec: ModelSpec, positions: int, config: Config) -> ModelSpec:
    heads = read_int("num_attention_heads", config.get("num_attention_heads"), HEADS)
    height, width = image_size(config.get("image_size"))
    pooling = config.get("pooler_act", "tanh")
    if spec.hidden and pooling not in ("tanh", None):
        raise WeightsError(f"config.json says pooler_act {quote_value(pooling)}; vitctl supports tanh only")
    eps = read_float(config, "layer_norm_eps", EPS)
    spec = replace(spec, heads=heads, gelu=gelu_of(config.get("hidden_act")), norm_eps=eps)
    check_agreement(spec, config)
    check_positions(spec.patch, height, width, positions)
    return replace(spec, height=height, width=width)


def gelu_of(name: Any) -> Literal["tanh", "erf"]:
    if name is None:
        return "erf"
    if not isinstance(name, str) or name not in GELUS:
        raise WeightsError(f"config.json says hidden_act {quote_value(name)}; supported: {', '.join(GELUS)}")
    return GELUS[name]


def check_agreement(spec: ModelSpec, config: Config) -> None:
    """The sizes in config.json must be those of the tensors."""
    patch = spec.patch
    sizes = {
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "intermediate_size": spec.mlp,
        "num_channels": spec.channels,
        "qkv_bias": spec.qkv_bias,
        "head_dim": spec.dim // spec.heads,
    }
    sizes |= {"pooler_output_size": spec.hidden} if spec.hidden else {}
    sizes |= {"num_labels": spec.classes} if spec.classes else {}
    wrong = [name for name, size in sizes.items() if config.get(name) is not None and config[name] != size]
    if config.get("patch_size") not in (None, patch, [patch] * 2, (patch,) * 2, {"height": patch, "width": patch}):
        wrong.append("patch_size")
    if wrong:
        both = ", ".join(f"{name} {quote_value(config[name])}, not {sizes.get(name, patch)}" for name in wrong)
        raise WeightsError(f"config.json and the tensors disagree: it says {both}; {SAME}")


def check_positions(patch: int, height: int, width: int, positions: int) -> None:
    if height % patch or width % patch:
        raise WeightsError(f"config.json says image_size {height}x{width}; patches of {patch} do not divide it; {SAME}")
    expected = (height // patch) * (width // patch) + 1
    if positions != expected:
        raise WeightsError(
            f"config.json says image_size {height}x{width}, which needs {expected} positions with the class token, "
            f"but embeddings.position_embeddings has {positions}; {SAME}"
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
    """Class names in the order of their numbers; () for LABEL_0, LABEL_1, ... that transformers makes up."""
    labels = config.get("id2label")
    if labels is None or not classes:
        return ()
    if not isinstance(labels, dict):
        raise WeightsError("config.json's id2label is not an object of numbers and names; save it again")
    numbered = {str(number): name for number, name in labels.items()}
    numbers = [str(index) for index in range(classes)]
    if set(numbered) != set(numbers):
        raise WeightsError(
            f"config.json's id2label has {format_count(len(labels), 'name')}, but classifier.weight has classes 0 to "
            f"{classes - 1}; {SAME}"
        )
    names = tuple(numbered[index] for index in numbers)
    if not all(isinstance(name, str | int | float) for name in names):
        raise WeightsError("config.json's id2label has names that are not text; save it again")
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
            "Hugging Face needs one for each class"
        )
    labels = names or tuple(f"LABEL_{index}" for index in range(classes))
    return {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }
