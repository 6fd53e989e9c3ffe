"""State dicts in timm's names: timm's own files and folders, DeiT's, MAE's, DINO's and DINOv2's.

A config.json in the same folder, or `arch` in a training checkpoint, names the architecture. Without one, the spec is
inferred from the shapes where they leave one choice, and every assumption is a warning.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from vitctl.config.eval_crop import FILTERS, EvalCrop
from vitctl.config.model import AS_BIT, SIZES, ModelSpec, Size, model_name
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.dino import PERIODS, count_heads, rename_dino
from vitctl.io.eva import from_eva
from vitctl.io.weights import (
    HALF,
    IMAGENET,
    About,
    Tensors,
    Weights,
    decoder_note,
    for_channels,
    parse_normalization,
    zero_head_note,
)
from vitctl.patches import round_to, square_grid

Config = dict[str, Any]
Describe = Callable[[Config, str], tuple[ModelSpec, Config]]  # config of an architecture to spec and pretrained_cfg
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "encoder")
TIMM_SHARE = 0.875  # timm's crop_pct where a config has none; that of DeiT, MAE and DINO too
META = ("model", "model_ema", "teacher", "student")  # where DeiT, MAE, BEiT and DINO put the tensors; timm does not
ROOTS = ("patch_embed.proj.weight", "stem.conv.weight")
HEAD_WEIGHTS = ("head.weight", "head.fc.weight", "fc.weight", "classifier.weight")  # of timm's models
BACKBONE = "patch_embed.backbone."
STAGE = r"stages\.(\d+)\.blocks\.(\d+)\."
APART = re.compile(r"mask_token|decoder_")  # tensors of masked pretraining, not part of the classifier
FITS: dict[Any, str] = {"center": "crop", "squash": "squash", "border": "pad"}
STRANGERS = (  # parts of other models, by patterns of names
    (r"attn\.(q|k)_norm\.", "norms of queries and keys"),
    (r"rel_pos|relative_position", "relative position biases"),
    (r"^dist_token|^head_dist", "DeiT's distillation token"),
    (r"mlp\.(fc1_g|fc1_x)\.", "gated MLPs of two parts"),
    (r"^norm_pre\.", "a norm before the first block"),
    (r"\.bn\d\.|running_mean", "batch normalization"),
)
DISAGREE = "its tensors are not those that its config.json describes"
NAME_IT = (
    "put it in a folder as model.safetensors or pytorch_model.bin, with a config.json of timm's "
    '{"architecture": NAME, "model_args": {...}}, such as num_heads; or use --from timm:NAME'
)


def unwrap(content: Any, source: str) -> tuple[Tensors, str]:
    """Finds the tensors of a training checkpoint, and removes their prefix. Also returns the key they were under."""
    wrapper = ""
    for _ in range(3):
        inner = next((key for key in WRAPPERS if isinstance(content, Mapping) and key in content), None)
        if inner is None or not isinstance(content[inner], Mapping):
            break
        content, wrapper = content[inner], inner
    if not isinstance(content, Mapping):
        raise WeightsError(f"{source}: holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    prefix = next(
        (name.removesuffix(root) for root in ROOTS for name in tensors if name == root or name.endswith(f".{root}")), ""
    ).removesuffix(BACKBONE)
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}, wrapper


def read_arch(content: Any) -> Config | None:
    """The architecture in a training checkpoint of timm, in the form of its config.json."""
    name = content.get("arch") if isinstance(content, Mapping) else None
    if not isinstance(name, str) or name == "visiontransformer":  # a class name, if timm had no name
        return None
    arguments = vars(content.get("args")) if hasattr(content.get("args"), "__dict__") else {}
    options = {"in_chans": arguments.get("in_chans"), "global_pool": arguments.get("gp")}
    options |= {"num_classes": arguments.get("num_classes")} | dict(arguments.get("model_kwargs") or {})
    return {"architecture": name, "model_args": {key: value for key, value in options.items() if value is not None}}


def is_plain(tensors: Mapping[str, Any]) -> bool:
    return any(root in tensors for root in ROOTS)


def read_state_dict(
    tensors: Tensors, source: str, config: Config | None = None, describe: Describe | None = None, wrapper: str = ""
) -> Weights:
    """Weights from a state dict, of the architecture in its config, or else inferred from its shapes."""
    raw = tensors
    tensors = {plain_tensor_name(name): tensor for name, tensor in rename_dino(raw).items()}
    extra = {name: tensor for name, tensor in tensors.items() if APART.match(name)}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in extra}
    try:
        if config is not None:
            weights = read_architecture(raw, tensors, source, config, describe)
            extra = extra if weights.spec.family != "timm" else {}
        else:
            check_plain_vit(raw, source, wrapper)
            look_alike = "DeiT III is assumed: models with rotary position embeddings may look the same"
            assumptions = [look_alike] if has_gammas(raw) else []
            weights = read_bare(tensors, source, wrapper, bool(extra), assumptions, count_heads(raw))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, ConfigError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else error
        raise WeightsError(f"{source}: not the state dict of a plain ViT or BiT: {problem}") from error
    return replace(weights, extra=extra).with_notes(decoder_note(extra), zero_head_note(tensors))


def read_architecture(
    raw: Tensors, tensors: Tensors, source: str, config: Config, describe: Describe | None
) -> Weights:
    """Weights of the architecture in timm's config.json: vitctl's own, or the raw tensors of one that timm builds."""
    if describe is None:
        raise WeightsError(f"{source}: has architecture {config['architecture']!r}; use vitctl.load_weights to read it")
    check_depth(tensors, config)
    spec, pretrained = describe({"num_classes": count_classes(tensors)} | config, source)
    about = parse_pretrained_cfg(pretrained, spec, "timm folder", source)
    is_stated = "mean" in (config.get("pretrained_cfg") or config)
    guess = "" if is_stated else f"timm's for {config['architecture']}"
    own = raw if spec.family == "timm" else split_class_position(tensors)
    if "eva_in_halves" in pretrained and spec.family != "timm":
        try:
            own = from_eva(tensors, spec, pretrained["eva_in_halves"])
        except RuntimeError as error:
            raise ValueError(f"{DISAGREE}: {error}") from error
    return Weights(spec, own, about, normalization_guess=guess)


def count_classes(tensors: Tensors) -> int:
    return next((len(tensors[name]) for name in HEAD_WEIGHTS if name in tensors), 0)


def check_depth(tensors: Tensors, config: Config) -> None:
    """Checked before the model is built: the stated depth may be huge."""
    stated = (config.get("model_args") or {}).get("depth")
    if stated is not None and stated != count_blocks(tensors):
        raise ValueError(f"config.json says depth {stated!r}, but there are {count_blocks(tensors)} blocks")


def check_plain_vit(tensors: Tensors, source: str, wrapper: str) -> None:
    """Rejects other models, and files that could be of several models."""
    for pattern, what in STRANGERS:
        if any(re.search(pattern, name) for name in tensors):
            raise WeightsError(f"{source}: has {what}, unlike a plain ViT; use --from timm:NAME for timm's models")
    if "stem.conv.weight" in tensors:
        return
    problem = None
    if PERIODS in tensors:  # DINOv3's
        return
    if "pos_embed" not in tensors:
        problem = "no pos_embed, like models with rotary position embeddings"
    elif has_gammas(tensors) and wrapper not in ("model", "model_ema"):
        problem = "gamma_1, like both DeiT III and models with rotary position embeddings"
    elif "cls_token" not in tensors and not {"fc_norm.weight", "blocks.0.attn.qkv.bias"} <= set(tensors):
        problem = "no class token, like SigLIP and other models that differ in heads and GELU"
    if problem:
        raise WeightsError(f"{source}: has {problem}; {NAME_IT}")


def has_gammas(tensors: Tensors) -> bool:
    return any(re.search(r"\.gamma_[12]$", name) for name in tensors)


def read_bare(
    tensors: Tensors, source: str, wrapper: str, is_masked: bool, assumptions: list[str], heads: int | None
) -> Weights:
    """Weights of a file without a config: inferred from shapes, and from what is usual where shapes do not decide.

    `heads` are known of rotary models alone.
    """
    if "stem.conv.weight" in tensors:
        width, channels = tensors["stem.conv.weight"].shape[:2]
        spec = bit_spec(count_blocks_per_stage(tensors, STAGE), width, channels, count_classes(tensors), "timm")
        assumptions.append(f"image size {spec.height}x{spec.width} is assumed: there is no config.json")
    else:
        tensors = split_class_position(tensors)
        spec = infer_transformer_spec(tensors, source, assumptions, heads)
    values, guess = guess_normalization(tensors, wrapper, is_masked)
    mean, std = (for_channels(each, spec.channels) for each in values)
    share = TIMM_SHARE if values is IMAGENET and not has_layer_scale(tensors) else 1.0
    about = About("timm state dict", source, mean, std, crop_pct=share)
    return Weights(spec, tensors, about, assumptions=tuple(assumptions), normalization_guess=guess)


def plain_tensor_name(name: str) -> str:
    return re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name)  # DeiT III's first files


def split_class_position(tensors: Tensors) -> Tensors:
    """DINOv2 adds the class token's position before it inserts registers: here, the token includes its position."""
    if not {"cls_token", "reg_token", "pos_embed"} <= set(tensors):
        return tensors
    table = tensors["pos_embed"]  # [1, 1 + N, D]
    if math.isqrt(table.shape[1] - 1) ** 2 != table.shape[1] - 1:
        return tensors
    return tensors | {"cls_token": tensors["cls_token"] + table[:, :1], "pos_embed": table[:, 1:].contiguous()}


def count_blocks(tensors: Tensors) -> int:
    """The number of blocks. A gap in their numbers shows later, as missing tensors."""
    return len({match[1] for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))})


def infer_transformer_spec(tensors: Tensors, source: str, assumptions: list[str], heads: int | None) -> ModelSpec:
    dim, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    mlp, is_rotary = tensors["blocks.0.mlp.fc2.weight"].shape[1], heads is not None
    if heads is None:
        heads = heads_of(dim, source)
        assumptions.append(f"{heads} heads (usual for width {dim}) and exact GELU are assumed: there is no config.json")
    size = Size(dim, count_blocks(tensors), heads, mlp)
    family: Literal["vit", "hybrid"] = "hybrid" if any(name.startswith(BACKBONE) for name in tensors) else "vit"
    layers: tuple[int, ...] = ()
    reach = patch  # pixels from one token to the next
    if family == "hybrid":
        layers = count_blocks_per_stage(tensors, re.escape(BACKBONE) + STAGE)
        root = f"{BACKBONE}stem.conv.weight" if layers else f"{BACKBONE}conv.weight"
        channels, reach = tensors[root].shape[1], patch * 4 * 2 ** max(0, len(layers) - 1)
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    has_class = "cls_token" in tensors
    if is_rotary:
        side, class_position = round_to(224, reach, up=False), False
        assumptions.append(f"image size {side}x{side} is assumed; rotary positions suit any other too")
    else:
        side, class_position = find_grid(tensors["pos_embed"].shape[1], int(has_class) + registers, reach, source)
    is_pooled = "fc_norm.weight" in tensors
    head: Literal["cls", "gap", "map"] = "cls" if has_class and not is_pooled else "gap"
    return ModelSpec(
        model_name(family, size, patch, layers), family, height=side, width=side, channels=channels,
        classes=count_classes(tensors), patch=patch, **vars(size), layers=layers,
        head="map" if "attn_pool.latent" in tensors else head, class_token=has_class, class_position=class_position,
        registers=registers, hidden=len(tensors.get("pre_logits.fc.bias", ())),
        norm="pooled" if is_pooled else "tokens", layer_scale="blocks.0.ls1.gamma" in tensors,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors, gelu="erf", swiglu=len(tensors["blocks.0.mlp.fc1.weight"]) > mlp,
        positions="rope" if is_rotary else "1d", norm_eps=1e-5 if is_rotary else 1e-6, key_bias=not is_rotary,
        numerics="official" if family == "vit" else "timm",
    )  # fmt: skip


def heads_of(dim: int, source: str) -> int:
    """The heads of the known size with this width."""
    heads = next((size.heads for size in SIZES.values() if size.dim == dim), None)
    if heads is None:
        raise WeightsError(
            f"{source}: the number of heads is not in a state dict, and unknown for width {dim}; {NAME_IT}"
        )
    return heads


def find_grid(count: int, prefix: int, reach: int, source: str) -> tuple[int, bool]:
    """The side of the square images in pixels, and whether the prefix tokens have positions."""
    if grid := square_grid(count, (prefix, 0)):
        return grid[0] * reach, grid[1] > 0
    raise WeightsError(f"{source}: {count} positions are not a square grid, and a state dict has no grid; {NAME_IT}")


def count_blocks_per_stage(names: Iterable[str], pattern: str) -> tuple[int, ...]:
    """The blocks in each stage of a ResNet; the pattern's two groups are the numbers of stage and block."""
    blocks = {match.groups() for name in names if (match := re.match(pattern, name))}
    counts = Counter(int(stage) for stage, _ in blocks)
    return tuple(counts[stage] for stage in sorted(counts))


def bit_spec(
    layers: tuple[int, ...], width: int, channels: int, classes: int, numerics: Literal["official", "timm"] = "official"
) -> ModelSpec:
    """The spec of a BiT ResNet whose first convolution has `width` outputs."""
    name, factor = model_name("bit", Size(0, 0, 0, 0), 1, layers, width // 64), width // 64
    sizes: dict[str, Any] = {"channels": channels, "classes": classes, "layers": layers, "factor": factor}
    return ModelSpec(name, **AS_BIT, **sizes, numerics=numerics)


def has_layer_scale(tensors: Tensors) -> bool:
    return "blocks.0.ls1.gamma" in tensors


def guess_normalization(tensors: Tensors, wrapper: str, is_masked: bool) -> tuple[tuple[tuple[float, ...], ...], str]:
    """Mean and std of a file that does not say them: those of the models that it looks like, and the reason."""
    signs = {
        "a mask token or decoder, like MAE and DINOv2": is_masked,
        "layer scale, like DeiT III and DINOv2": has_layer_scale(tensors),
        "a norm after pooling and a class token, like MAE and BEiT": {"fc_norm.weight", "cls_token"} <= set(tensors),
        f"its tensors under {wrapper!r}, like DeiT, MAE and DINO": wrapper in META,
        "no head, like MAE and DINO": not {"head.weight", "head.fc.weight"} & set(tensors),
    }
    reason = next((sign for sign, is_there in signs.items() if is_there), None)
    return (IMAGENET, f"ImageNet's: it has {reason}") if reason else (HALF, "0.5: it looks like AugReg's files")


def parse_pretrained_cfg(config: Config, spec: ModelSpec, format: str, source: str) -> About:
    """Normalization, fit and class names from timm's pretrained_cfg."""
    mean, std = (config.get(key, HALF[0]) for key in ("mean", "std"))
    if all(isinstance(values, list | tuple) and len(values) == 3 for values in (mean, std)):
        mean, std = (for_channels(tuple(values), spec.channels) for values in (mean, std))  # timm keeps those of RGB
    mean, std = parse_normalization(mean, std, spec.channels)
    names = parse_class_names(config.get("label_names") or (), spec.classes)
    share, filter = config.get("crop_pct", TIMM_SHARE), config.get("interpolation")
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"crop_pct is {share!r}; it is a share of an image's sides")
    crop = EvalCrop(FITS.get(config.get("crop_mode"), "crop"), float(share), filter if filter in FILTERS else "bicubic")
    return About(format, source, mean, std, names).with_eval_crop(crop)


def parse_class_names(names: Any, classes: int) -> tuple[str, ...]:
    """From a list, or an object that maps numbers to names; empty if they do not match the head."""
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(classes)]
    return tuple(map(str, names)) if len(names) == classes and None not in names else ()
