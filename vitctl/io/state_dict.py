"""Plain state dicts in timm's names: timm's own files and folders, DeiT's, MAE's and DINOv2's.

Without a config beside them they say nothing of themselves: the spec is read off their shapes, and what shapes cannot
say is assumed and told.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vitctl.config.model import AS_BIT, SIZES, ModelSpec, Size, name_of
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.weights import HALF, IMAGENET, About, Tensors, Weights, zero_head_note
from vitctl.reporting import counted

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "encoder")
ROOTS = ("patch_embed.proj.weight", "stem.conv.weight")
BACKBONE = "patch_embed.backbone."
APART = re.compile(r"mask_token|decoder_")  # of masked pretraining: kept, but not part of the classifier
FITS: dict[Any, str] = {"center": "crop", "squash": "squash", "border": "pad"}
STRANGERS = (  # parts of other models, by a piece of their names
    (r"attn\.(q|k)_norm\.", "norms of queries and keys"),
    (r"rel_pos|relative_position", "relative position biases"),
    (r"^dist_token|^head_dist", "DeiT's distillation token"),
    (r"mlp\.(w12|w3|fc1_g|fc1_x)\.", "gated MLPs"),
    (r"^norm_pre\.", "a norm before the first block"),
    (r"\.bn\d\.|running_mean", "batch normalisation"),
)


@dataclass(frozen=True)
class Told:
    """What timm's config.json says that shapes do not; None is unknown."""

    heads: int | None = None
    gelu: Literal["tanh", "erf"] | None = None
    head: Literal["cls", "gap", "map"] | None = None
    height: int | None = None
    width: int | None = None


def unwrapped(content: Any, source: str) -> Tensors:
    """The tensors of a training checkpoint, which may lie some levels deep, under a common prefix."""
    for _ in range(3):
        inner = next((content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(f"{source}: holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    prefix = next(
        (name.removesuffix(root) for root in ROOTS for name in tensors if name == root or name.endswith(f".{root}")), ""
    ).removesuffix(BACKBONE)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def is_plain(tensors: Mapping[str, Any]) -> bool:
    return any(root in tensors for root in ROOTS)


def read(tensors: Tensors, source: str, config: dict[str, Any] | None = None) -> Weights:
    """Weights from a state dict, and from timm's config.json where one lies beside it."""
    tensors = {renamed(name): tensor for name, tensor in tensors.items()}
    for pattern, what in STRANGERS:
        if any(re.search(pattern, name) for name in tensors):
            raise WeightsError(
                f"{source}: has {what}, which plain ViTs have not; --from timm:NAME builds timm's models"
            )
    if "_rpn_" in str((config or {}).get("architecture")):  # its names and shapes are those of a plain one
        raise WeightsError(f"{source}: has norms behind its layers; --from timm:NAME builds timm's models")
    extra = {name: tensor for name, tensor in tensors.items() if APART.match(name)}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in extra}
    notes: list[str] = []
    try:
        told = told_by(config or {})
        if "stem.conv.weight" in tensors:
            spec = bit_spec(tensors)
        else:
            tensors = with_class_position_apart(tensors)
            spec = transformer_spec(tensors, told, source, notes)
        about = about_of(config, source, spec.channels, bool(extra), notes)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, ConfigError) as error:
        missing = f"misses {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{source}: not the state dict of a plain ViT or BiT: {missing}") from error
    if extra:
        shown = ", ".join(sorted(extra)[:3])
        notes.append(f"{counted(len(extra), 'tensor')} of masked pretraining kept apart ({shown})")
    return Weights(spec, tensors, about, extra, tuple(notes)).with_notes(zero_head_note(tensors))


def renamed(name: str) -> str:
    name = re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name)  # DeiT III's first files
    return "reg_token" if name == "register_tokens" else name


def with_class_position_apart(tensors: Tensors) -> Tensors:
    """DINOv2 adds the class token's position before it puts registers in: the position goes into the token."""
    if not {"cls_token", "reg_token", "pos_embed"} <= set(tensors):
        return tensors
    places = tensors["pos_embed"]
    if math.isqrt(places.shape[1] - 1) ** 2 != places.shape[1] - 1:
        return tensors
    return tensors | {"cls_token": tensors["cls_token"] + places[:, :1], "pos_embed": places[:, 1:].contiguous()}


def told_by(config: dict[str, Any]) -> Told:
    pretrained, arguments = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    size = arguments.get("img_size") or (pretrained.get("input_size") or (None, None, None))[1:]
    height, width = (size, size) if isinstance(size, int) else size
    gelus: dict[str, Literal["tanh", "erf"]] = {"gelu_tanh": "tanh", "gelu": "erf"}
    pools: dict[str, Literal["cls", "gap", "map"]] = {"token": "cls", "avg": "gap", "map": "map"}
    return Told(
        heads=int(arguments["num_heads"]) if "num_heads" in arguments else None,
        gelu=gelus.get(arguments.get("act_layer") or "gelu") if config else None,
        head=pools.get(arguments.get("global_pool") or pretrained.get("global_pool") or ""),
        height=int(height) if height else None,
        width=int(width) if width else None,
    )


def transformer_spec(tensors: Tensors, told: Told, source: str, notes: list[str]) -> ModelSpec:
    dim, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name))
    heads = told.heads or heads_of(dim, source, notes)
    size = Size(dim, depth, heads, tensors["blocks.0.mlp.fc1.weight"].shape[0])
    layers = stages_of(tensors, BACKBONE) if any(name.startswith(BACKBONE) for name in tensors) else None
    reach = patch
    if layers is not None:
        root = "patch_embed.backbone.stem.conv.weight" if layers else "patch_embed.backbone.conv.weight"
        channels, reach = tensors[root].shape[1], patch * 4 * 2 ** max(0, len(layers) - 1)
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    has_class = "cls_token" in tensors
    places = tensors["pos_embed"].shape[1] if "pos_embed" in tensors else None
    height, width, class_position = size_of(places, int(has_class) + registers, reach, told, source, notes)
    is_pooled = "fc_norm.weight" in tensors
    head: Literal["cls", "gap", "map"] = "cls" if has_class and not is_pooled else "gap"
    if told.gelu is None:
        notes.append("GELU by erf, as in timm, is assumed")
    return ModelSpec(
        name_of("vit" if layers is None else "hybrid", size, patch, layers or ()),
        "vit" if layers is None else "hybrid",
        height=height,
        width=width,
        channels=channels,
        classes=tensors["head.weight"].shape[0] if "head.weight" in tensors else 0,
        patch=patch,
        **vars(size),
        layers=layers or (),
        head="map" if "attn_pool.latent" in tensors else told.head or head,
        class_token=has_class,
        class_position=class_position,
        registers=registers,
        hidden=tensors["pre_logits.fc.bias"].shape[0] if "pre_logits.fc.bias" in tensors else 0,
        positions="1d" if places is not None else "none",
        norm="pooled" if is_pooled else "tokens",
        layer_scale="blocks.0.ls1.gamma" in tensors,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        gelu=told.gelu or "erf",
        numerics="official" if layers is None else "timm",
    )


def heads_of(dim: int, source: str, notes: list[str]) -> int:
    """A state dict does not say it: that of the known size with this width, or 64 wide each."""
    heads = next((size.heads for size in SIZES.values() if size.dim == dim), dim // 64 if dim % 64 == 0 else 0)
    if not heads:
        raise WeightsError(f"{source}: how many heads share a width of {dim} cannot be told from a state dict")
    notes.append(f"{heads} heads are assumed from the width of {dim}")
    return heads


def size_of(
    places: int | None, prefix: int, reach: int, told: Told, source: str, notes: list[str]
) -> tuple[int, int, bool]:
    """Height and width of the pictures, and whether tokens in front have positions. Untold, the grid is a square."""
    told_size = (told.height, told.width) if told.height and told.width else None
    if places is None:
        if not told_size:
            notes.append("there are no positions in it, so its resolution is not known: 224x224 is assumed")
        return *(told_size or (224, 224)), False
    for own in dict.fromkeys((prefix, 0)):
        count = places - own
        if told_size and (told_size[0] // reach) * (told_size[1] // reach) == count:
            return *told_size, own > 0
        side = math.isqrt(max(count, 0))
        if side and side * side == count:
            return side * reach, side * reach, own > 0
    raise WeightsError(
        f"{source}: its {places} positions are no square grid, and a state dict does not say which; "
        "our .safetensors and timm's folders keep the grid of other pictures"
    )


def stages_of(tensors: Tensors, prefix: str) -> tuple[int, ...]:
    """Blocks of each stage of a ResNet."""
    pattern = re.compile(re.escape(prefix) + r"stages\.(\d+)\.blocks\.(\d+)\.")
    units = {match.groups() for name in tensors if (match := pattern.match(name))}
    stages = sorted({int(stage) for stage, _ in units})
    return tuple(sum(int(one) == stage for one, _ in units) for stage in stages)


def bit_spec(tensors: Tensors) -> ModelSpec:
    width, channels = tensors["stem.conv.weight"].shape[:2]
    layers = stages_of(tensors, "")
    return ModelSpec(
        name_of("bit", Size(0, 0, 0, 0), 1, layers, width // 64),
        **AS_BIT,
        channels=channels,
        classes=tensors["head.fc.weight"].shape[0] if "head.fc.weight" in tensors else 0,
        layers=layers,
        factor=width // 64,
        numerics="timm",
    )


def about_of(config: dict[str, Any] | None, source: str, channels: int, masked: bool, notes: list[str]) -> About:
    """Normalisation and class names: of the config, or assumed and told."""
    if config is None:
        mean, std = (
            values * channels if channels > 3 else values[:channels] for values in (IMAGENET if masked else HALF)
        )
        notes.append(f"normalisation is assumed: mean {mean[0]}, ... and std {std[0]}, ...")
        return About("timm state dict", source, mean[:channels], std[:channels])
    pretrained = config.get("pretrained_cfg") or {}
    mean, std = (tuple(map(float, pretrained.get(key) or HALF[0])) for key in ("mean", "std"))
    names = config.get("label_names") or pretrained.get("label_names") or ()
    fit = FITS.get(pretrained.get("crop_mode"), "crop")
    return About("timm folder", source, mean, std, tuple(map(str, names)), fit=fit)
