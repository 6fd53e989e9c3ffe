"""Reads and writes config.json (checked against the tensors) and preprocessor_config.json (normalization and fit)."""

import math
import reprlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from vitctl.config.eval_crop import EvalCrop
from vitctl.config.model import SIZES, Gelu, ModelSpec
from vitctl.errors import UsageError, WeightsError
from vitctl.io.weights import Weights
from vitctl.patches import square_grid
from vitctl.reporting import format_count

Config = dict[str, Any]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
quote_value = reprlib.repr
GELUS: dict[str, Gelu] = {
    "gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh", "quick_gelu": "quick",
}  # fmt: skip
DINO_EPS, DINO_3_EPS = 1e-6, 1e-5  # of DINOv2; of DINOv3
EPS, HEADS, PIXELS = 1e-12, 12, 224  # the defaults of transformers for what config.json leaves out
SAME = "use the config.json that was saved with these tensors"
SETS = "multi_label_classification"
CROPPING = ("Bit", "CLIP", "Perceiver")  # processors that crop by default
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers of filters
SMOOTH = ("ViT", "ConvNext", "DINOv3")  # processors whose default is bilinear
SQUASHED_FROM = 384  # pixels, by ConvNeXt's processor


def read_int(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise WeightsError(f"config.json says {name} {quote_value(value)}; it must be a positive integer")
    return value


def read_float(config: Config, name: str, default: float) -> float:
    value = config.get(name)
    return default if value is None else read_real(name, value)


def read_real(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e6:
        raise WeightsError(f"{name} is {quote_value(value)}; it must be a number")
    return float(value)


def check_tensor(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise WeightsError(f"{name} is {list(tensor.shape)}, but other tensors imply {list(shape)}; save it again")
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        raise WeightsError(f"{name} is {tensor.dtype}, {tensor.layout}; save it as float32, float16 or bfloat16")


def assume_config(spec: ModelSpec, positions: int | None, assumptions: list[str]) -> ModelSpec:
    """Without a config.json: assumes the values that shapes do not determine."""
    heads = next((size.heads for size in SIZES.values() if size.dim == spec.dim), 0)
    if not heads:
        raise WeightsError(
            f"the number of heads is unknown for width {spec.dim}: name the file model.safetensors or "
            "pytorch_model.bin, and put a config.json with num_attention_heads next to it"
        )
    prefix = 1 + spec.registers * spec.class_position
    grid = (PIXELS // spec.patch, 1) if positions is None else square_grid(positions, (prefix,))
    if grid is None:
        raise WeightsError(f"the grid is unknown: {positions} positions are no class token and square; add config.json")
    pixels = grid[0] * spec.patch
    assumptions.append(
        f"no config.json: {heads} heads, exact GELU, epsilon {spec.norm_eps:g} and image size {pixels}x{pixels} are "
        "assumed"
    )
    return replace(spec, heads=heads, height=pixels, width=pixels)


def apply_config(spec: ModelSpec, positions: int | None, config: Config) -> ModelSpec:
    heads = read_int("num_attention_heads", config.get("num_attention_heads"), HEADS)
    height, width = image_size(config.get("image_size"))
    pooling = config.get("pooler_act", "tanh")
    if spec.hidden and pooling not in ("tanh", None):
        raise WeightsError(f"config.json says pooler_act {quote_value(pooling)}; vitctl supports tanh only")
    eps = read_float(config, "layer_norm_eps", spec.norm_eps)
    if spec.swiglu and config.get("model_type") == "dinov3_vit" and config.get("hidden_act") != "silu":
        raise WeightsError(
            "config.json says use_gated_mlp with a hidden_act that is not silu; vitctl supports silu only"
        )
    gelu = "erf" if spec.swiglu else gelu_of(config.get("hidden_act"))
    spec = replace(spec, heads=heads, gelu=gelu, norm_eps=eps)
    check_agreement(spec, config)
    if height % spec.patch or width % spec.patch:
        raise WeightsError(
            f"config.json says image_size {height}x{width}; patches of {spec.patch} do not divide it; {SAME}"
        )
    spec = replace(spec, height=height, width=width)
    check_positions(spec, positions)
    return spec


def gelu_of(name: Any) -> Gelu:
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


def check_positions(spec: ModelSpec, positions: int | None) -> None:
    expected = spec.tokens - (0 if spec.class_position else spec.registers)
    if positions not in (None, expected):
        raise WeightsError(
            f"config.json says image_size {spec.height}x{spec.width}, which needs {expected} positions with the class "
            f"token, but embeddings.position_embeddings has {positions}; {SAME}"
        )


def image_size(value: Any) -> tuple[int, int]:
    """Height and width, from a number, a pair or an object."""
    if isinstance(value, dict):
        value = [value.get("height", "no height"), value.get("width", "no width")]
    pair = value if isinstance(value, list | tuple) else [value, value]
    if len(pair) != 2:
        raise WeightsError(f"config.json says image_size {quote_value(value)}; it must be a number or height and width")
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


def answer_kind(config: Config, classes: int) -> dict[str, Any]:
    """The fields of About that say whether the answer is a set; transformers knows no thresholds."""
    is_set = classes and config.get("problem_type") == SETS
    return {"task": "sets", "thresholds": (0.5,) * classes} if is_set else {}


def make_config(weights: Weights) -> Config:
    spec = weights.spec
    config: Config = {
        "architectures": ["ViTForImageClassification" if spec.classes else "ViTModel"],
        "model_type": "vit",
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp,
        "hidden_act": {"erf": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}[spec.gelu],
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
    return ({"problem_type": SETS} if weights.about.task == "sets" else {}) | {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }


def read_normalization(
    preprocessor: Config | None, channels: int, guesses: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels from 0 to 1. A file may state them for pixels in another range."""
    if preprocessor is None:
        guesses.append("transformers' default: no preprocessor_config.json")
        return (0.5,) * channels, (0.5,) * channels
    factor = read_float(preprocessor, "rescale_factor", 1 / 255)
    white = 255.0 if preprocessor.get("do_rescale") is False else 255 * factor  # a white pixel before mean and std
    if not white > 0:
        raise WeightsError(f"preprocessor_config.json says rescale_factor {factor}; it must be above 0")
    if preprocessor.get("do_normalize") is False:
        mean, std = (0.0,) * channels, (1.0,) * channels
    else:
        mean, std = (read_statistics(preprocessor, name, channels, guesses) for name in ("image_mean", "image_std"))
    if not min(std) > 0:
        raise WeightsError(f"preprocessor_config.json says image_std {list(std)}; each must be above 0")
    if math.isclose(white, 1.0):
        return mean, std
    return tuple(value / white for value in mean), tuple(value / white for value in std)


def read_eval_crop(preprocessor: Config | None) -> EvalCrop:
    """How images are resized, and the share of them that is taken."""
    if preprocessor is None:
        return EvalCrop()
    kind, size = str(preprocessor.get("image_processor_type")), preprocessor.get("size")
    crops = preprocessor.get("do_center_crop", kind.startswith(CROPPING))
    by_side = isinstance(size, dict) and "shortest_edge" in size
    squashes = not by_side and (not crops or (isinstance(size, dict) and not kind.startswith("Perceiver")))
    default = BILINEAR if kind.startswith(SMOOTH) else BICUBIC
    filter = "bilinear" if preprocessor.get("resample", default) == BILINEAR else "bicubic"
    if kind.startswith("ConvNext"):  # the short side of small images, and all of large ones, by its own share
        if side_of(size) >= SQUASHED_FROM:
            return EvalCrop("squash", 1.0, filter)
        return EvalCrop("crop", read_real("crop_pct", preprocessor.get("crop_pct", 224 / 256)), filter)
    outer, inner = side_of(size), side_of(preprocessor.get("crop_size"))
    if kind.startswith("Perceiver"):  # crops to a share of the image, then resizes
        outer, inner = inner, outer
    share = inner / outer if crops and 0 < inner < outer else 1.0
    return EvalCrop("squash" if squashes else "crop", share, filter)


def side_of(size: Any) -> float:
    """The shorter side that a processor's size names; 0 if it names none."""
    if isinstance(size, dict):
        sides = [size[name] for name in ("shortest_edge", "height", "width") if name in size]
        size = min(sides) if sides and all(isinstance(side, int) for side in sides) else 0
    return size if isinstance(size, int) else 0


def read_statistics(preprocessor: Config, name: str, channels: int, guesses: list[str]) -> tuple[float, ...]:
    value = preprocessor.get(name)
    if value is None:
        guesses.append(f"transformers' default: no {name} in preprocessor_config.json")
        return (0.5,) * channels
    numbers = tuple(read_real(name, each) for each in (value if isinstance(value, list | tuple) else [value]))
    fitting = per_channel(numbers, channels)
    if fitting is None:
        raise WeightsError(
            f"preprocessor_config.json says {name} {quote_value(value)}, but the images have "
            f"{format_count(channels, 'channel')}; use the file that was saved with these tensors"
        )
    return fitting


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...] | None:
    """One value per channel, or None. Values that are all equal fit any number of channels."""
    if len(values) == channels:
        return tuple(values)
    return (values[0],) * channels if len(set(values)) == 1 else None


def make_preprocessor(weights: Weights) -> Config:
    spec, about = weights.spec, weights.about
    mean, std = per_channel(about.mean, spec.channels), per_channel(about.std, spec.channels)
    if mean is None or std is None:
        raise UsageError(
            f"{spec.name}: mean {list(about.mean)} and std {list(about.std)} do not fit images of "
            f"{format_count(spec.channels, 'channel')}; Hugging Face needs one for each channel"
        )
    size, (height, width) = {"height": spec.height, "width": spec.width}, about.eval_crop.outer_size(*spec.res)
    by_side = about.fit == "crop" and spec.height == spec.width
    crops = by_side or about.crop_pct < 1  # CLIP's processor crops after it resizes; none pads with white
    processor: Config = {
        "image_processor_type": "CLIPImageProcessor" if crops else "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": height} if by_side else {"height": height, "width": width},
        "resample": BILINEAR if about.interpolation == "bilinear" else BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    processor |= {"do_center_crop": True, "crop_size": size} if crops else {}
    return processor | ({"do_convert_rgb": True} if spec.channels == 3 else {})
