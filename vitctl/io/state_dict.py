"""State dicts in timm's names: timm's own files and folders, DeiT's, MAE's, DINO's and DINOv2's.

A config.json beside them, or `arch` in a training checkpoint, names the architecture, and that decides. A bare file
says nothing of itself: its spec is read off its shapes where they leave one choice, and what is assumed is warned of.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from vitctl.config.model import AS_BIT, SIZES, ModelSpec, Size, model_name
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.weights import HALF, IMAGENET, About, Tensors, Weights, for_channels, parse_normalization, zero_head_note
from vitctl.reporting import format_count

Config = dict[str, Any]
Describe = Callable[[Config, str], tuple[ModelSpec, Config]]  # of a named architecture: spec and pretrained_cfg
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "encoder")
META = ("model", "model_ema", "teacher", "student")  # where DeiT, MAE, BEiT and DINO put the tensors; timm does not
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
    (r"\.bn\d\.|running_mean", "batch normalization"),
)
NAME_IT = (
    "put it into a folder as model.safetensors or pytorch_model.bin, beside a config.json that says "
    '{"architecture": NAME, "model_args": {...}} in timm\'s words, such as num_heads; or take --from timm:NAME'
)


def unwrap(content: Any, source: str) -> tuple[Tensors, str]:
    """The tensors of a training checkpoint, some levels deep, under a common prefix; and the innermost wrapper."""
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
    """The architecture that a training checkpoint of timm's names, as its config.json would."""
    name = content.get("arch") if isinstance(content, Mapping) else None
    if not isinstance(name, str) or name == "visiontransformer":  # a class, where timm was not told a name
        return None
    arguments = vars(content.get("args")) if hasattr(content.get("args"), "__dict__") else {}
    options = {"in_chans": arguments.get("in_chans"), "global_pool": arguments.get("gp")}
    options |= {"num_classes": arguments.get("num_classes")} | dict(arguments.get("model_kwargs") or {})
    return {"architecture": name, "model_args": {key: each for key, each in options.items() if each is not None}}


def is_plain(tensors: Mapping[str, Any]) -> bool:
    return any(root in tensors for root in ROOTS)


def read_state_dict(
    tensors: Tensors, source: str, config: Config | None = None, describe: Describe | None = None, wrapper: str = ""
) -> Weights:
    """Weights from a state dict: of the architecture that its config names, or as its shapes say."""
    raw = tensors
    tensors = {plain_tensor_name(name): tensor for name, tensor in raw.items()}
    extra = {name: tensor for name, tensor in tensors.items() if APART.match(name)}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in extra}
    kept = [f"{format_count(len(extra), 'tensor')} of masked pretraining kept apart ({', '.join(sorted(extra)[:3])})"]
    notes = tuple(kept if extra else ())
    try:
        if config is not None:
            weights = read_architecture(tensors, source, config, describe)
        else:
            check_plain_vit(raw, source, wrapper)
            look_alike = "DeiT III is assumed: models with rotary positions may look alike"
            assumptions = [look_alike] if has_gammas(raw) else []
            weights = read_bare(tensors, source, wrapper, bool(extra), assumptions)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, ConfigError) as error:
        missing = f"misses {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{source}: not the state dict of a plain ViT or BiT: {missing}") from error
    return replace(weights, extra=extra, notes=notes).with_notes(zero_head_note(tensors))


def read_architecture(tensors: Tensors, source: str, config: Config, describe: Describe | None) -> Weights:
    """Of the architecture that timm's config.json names."""
    if describe is None:
        raise WeightsError(f"{source}: is of {config['architecture']!r}, which vitctl.load_weights knows")
    check_depth(tensors, config)
    spec, pretrained = describe({"num_classes": count_classes(tensors)} | config, source)
    about = parse_pretrained_cfg(pretrained, spec, "timm folder", source)
    is_stated = "mean" in (config.get("pretrained_cfg") or config)
    guess = "" if is_stated else f"timm's for {config['architecture']}"
    return Weights(spec, split_class_position(tensors), about, normalization_guess=guess)


def count_classes(tensors: Tensors) -> int:
    head = tensors.get("head.weight", tensors.get("head.fc.weight"))
    return 0 if head is None else len(head)


def check_depth(tensors: Tensors, config: Config) -> None:
    """Before anything is built so deep."""
    stated = (config.get("model_args") or {}).get("depth")
    if stated is not None and stated != count_blocks(tensors):
        raise ValueError(f"config.json says depth {stated!r}, and there are {count_blocks(tensors)} blocks")


def check_plain_vit(tensors: Tensors, source: str, wrapper: str) -> None:
    """What other models share their names or shapes with is not taken for a plain one."""
    for pattern, what in STRANGERS:
        if any(re.search(pattern, name) for name in tensors):
            raise WeightsError(
                f"{source}: has {what}, which plain ViTs have not; --from timm:NAME builds timm's models"
            )
    if "stem.conv.weight" in tensors:
        return
    problems = {
        "has no pos_embed, as models with rotary positions": "pos_embed" not in tensors,
        "has gamma_1, as DeiT III and models with rotary positions, and does not say which": (
            has_gammas(tensors) and wrapper not in ("model", "model_ema")
        ),
        "has no class token, as SigLIP and others that differ in heads and GELU, and does not say which": (
            "cls_token" not in tensors and not {"fc_norm.weight", "blocks.0.attn.qkv.bias"} <= set(tensors)
        ),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise WeightsError(f"{source}: {problem}; {NAME_IT}")


def has_gammas(tensors: Tensors) -> bool:
    return any(re.search(r"\.gamma_[12]$", name) for name in tensors)


def read_bare(tensors: Tensors, source: str, wrapper: str, is_masked: bool, assumptions: list[str]) -> Weights:
    """As the shapes say, and what is usual where they do not."""
    if "stem.conv.weight" in tensors:
        spec = infer_bit_spec(tensors)
        assumptions.append(f"images of {spec.height}x{spec.width} are assumed: no config.json says their size")
    else:
        tensors = split_class_position(tensors)
        spec = infer_transformer_spec(tensors, source, assumptions)
    values, why = guess_normalization(tensors, wrapper, is_masked)
    mean, std = (for_channels(each, spec.channels) for each in values)
    about = About("timm state dict", source, mean, std)
    return Weights(spec, tensors, about, assumptions=tuple(assumptions), normalization_guess=why)


def plain_tensor_name(name: str) -> str:
    name = re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name)  # DeiT III's first files
    return "reg_token" if name == "register_tokens" else name


def split_class_position(tensors: Tensors) -> Tensors:
    """DINOv2 adds the class token's position before it puts registers in: the position goes into the token."""
    if not {"cls_token", "reg_token", "pos_embed"} <= set(tensors):
        return tensors
    places = tensors["pos_embed"]
    if math.isqrt(places.shape[1] - 1) ** 2 != places.shape[1] - 1:
        return tensors
    return tensors | {"cls_token": tensors["cls_token"] + places[:, :1], "pos_embed": places[:, 1:].contiguous()}


def count_blocks(tensors: Tensors) -> int:
    """How many blocks there are. A number that is left out shows later, as tensors that are missing."""
    return len({match[1] for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))})


def infer_transformer_spec(tensors: Tensors, source: str, assumptions: list[str]) -> ModelSpec:
    dim, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    heads = heads_of(dim, source)
    assumptions.append(f"{heads} heads, from the width of {dim}, and GELU by erf are assumed: no config.json says them")
    size = Size(dim, count_blocks(tensors), heads, tensors["blocks.0.mlp.fc1.weight"].shape[0])
    layers = stages_of(tensors, BACKBONE) if any(name.startswith(BACKBONE) for name in tensors) else None
    reach = patch
    if layers is not None:
        root = "patch_embed.backbone.stem.conv.weight" if layers else "patch_embed.backbone.conv.weight"
        channels, reach = tensors[root].shape[1], patch * 4 * 2 ** max(0, len(layers) - 1)
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    has_class = "cls_token" in tensors
    side, class_position = find_grid(tensors["pos_embed"].shape[1], int(has_class) + registers, reach, source)
    is_pooled = "fc_norm.weight" in tensors
    head: Literal["cls", "gap", "map"] = "cls" if has_class and not is_pooled else "gap"
    return ModelSpec(
        model_name("vit" if layers is None else "hybrid", size, patch, layers or ()),
        "vit" if layers is None else "hybrid",
        height=side,
        width=side,
        channels=channels,
        classes=count_classes(tensors),
        patch=patch,
        **vars(size),
        layers=layers or (),
        head="map" if "attn_pool.latent" in tensors else head,
        class_token=has_class,
        class_position=class_position,
        registers=registers,
        hidden=tensors["pre_logits.fc.bias"].shape[0] if "pre_logits.fc.bias" in tensors else 0,
        norm="pooled" if is_pooled else "tokens",
        layer_scale="blocks.0.ls1.gamma" in tensors,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        gelu="erf",
        numerics="official" if layers is None else "timm",
    )


def heads_of(dim: int, source: str) -> int:
    """Those of the known size with this width."""
    heads = next((size.heads for size in SIZES.values() if size.dim == dim), None)
    if heads is None:
        raise WeightsError(f"{source}: how many heads share a width of {dim} a state dict does not say; {NAME_IT}")
    return heads


def find_grid(places: int, prefix: int, reach: int, source: str) -> tuple[int, bool]:
    """Pixels a side of square images, and whether tokens in front have positions."""
    for own in dict.fromkeys((prefix, 0)):
        side = math.isqrt(max(places - own, 0))
        if side and side * side == places - own:
            return side * reach, own > 0
    raise WeightsError(
        f"{source}: its {places} positions are no square grid, and a state dict does not say which; {NAME_IT}"
    )


def stages_of(tensors: Tensors, prefix: str) -> tuple[int, ...]:
    """Blocks of each stage of a ResNet."""
    pattern = re.compile(re.escape(prefix) + r"stages\.(\d+)\.blocks\.(\d+)\.")
    units = {match.groups() for name in tensors if (match := pattern.match(name))}
    stages = sorted({int(stage) for stage, _ in units})
    return tuple(sum(int(one) == stage for one, _ in units) for stage in stages)


def infer_bit_spec(tensors: Tensors) -> ModelSpec:
    width, channels = tensors["stem.conv.weight"].shape[:2]
    layers = stages_of(tensors, "")
    return ModelSpec(
        model_name("bit", Size(0, 0, 0, 0), 1, layers, width // 64),
        **AS_BIT,
        channels=channels,
        classes=count_classes(tensors),
        layers=layers,
        factor=width // 64,
        numerics="timm",
    )


def guess_normalization(tensors: Tensors, wrapper: str, is_masked: bool) -> tuple[tuple[tuple[float, ...], ...], str]:
    """Mean and std of a file that does not say them, by whose it looks like; and why."""
    signs = {
        "a mask token or decoder, as MAE and DINOv2": is_masked,
        "layer scale, as DeiT III and DINOv2": "blocks.0.ls1.gamma" in tensors,
        "a norm behind the mean beside a class token, as MAE and BEiT": {"fc_norm.weight", "cls_token"} <= set(tensors),
        f"its tensors under {wrapper!r}, as DeiT, MAE and DINO": wrapper in META,
        "no head, as MAE and DINO": not {"head.weight", "head.fc.weight"} & set(tensors),
    }
    why = next((sign for sign, is_there in signs.items() if is_there), None)
    return (IMAGENET, f"ImageNet's: it has {why}") if why else (HALF, "as AugReg's files, which look alike")


def parse_pretrained_cfg(config: Config, spec: ModelSpec, format: str, source: str) -> About:
    """What timm's pretrained_cfg says of images and classes."""
    mean, std = (config.get(key, HALF[0]) for key in ("mean", "std"))
    if all(isinstance(values, list | tuple) and len(values) == 3 for values in (mean, std)):
        mean, std = (for_channels(tuple(values), spec.channels) for values in (mean, std))  # timm leaves those of RGB
    mean, std = parse_normalization(mean, std, spec.channels)
    names = parse_class_names(config.get("label_names") or (), spec.classes)
    return About(format, source, mean, std, names, fit=FITS.get(config.get("crop_mode"), "crop"))


def parse_class_names(names: Any, classes: int) -> tuple[str, ...]:
    """A list, or an object of numbers and names; none where they are not those of the head."""
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(classes)]
    return tuple(map(str, names)) if len(names) == classes and None not in names else ()
