"""timm's models: pretrained ones as `timm:NAME[.tag]`, and the architecture that a timm config.json names.

Plain ViTs, hybrids and BiTs become vitctl's own models if every module computes the same in both.
"""

import dataclasses
import inspect
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import torch
from timm.layers import AttentionRope, Mlp, RotaryEmbeddingCat, RotaryEmbeddingDinoV3
from timm.models import PretrainedCfg
from timm.models.eva import Eva
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitctl.config.model import AS_BIT, Gelu, ModelSpec, Rope, Size, model_name, model_spec
from vitctl.errors import ConfigError, WeightsError, causes, did_you_mean
from vitctl.io.eva import from_eva
from vitctl.io.state_dict import parse_pretrained_cfg
from vitctl.io.weights import Weights
from vitctl.models.create import build_module, check_same_tensors, check_timm_name, collect_tensors, import_timm
from vitctl.models.hub import CHECK, NOT_DOWNLOADED, check_reachable
from vitctl.reporting import mute_loggers

NOT_ARGS = ("num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate")  # which are fields of the spec
CNN_REACH = 32  # pixels that every stage of a CNN divides
HEADS: dict[str, Literal["cls", "gap", "map"]] = {"token": "cls", "avg": "gap", "map": "map"}
EVA_PARTS = {
    "Eva", "PatchEmbed", "Conv2d", "Linear", "LayerNorm", "Identity", "Dropout", "ModuleList", "EvaBlock",
    "EvaAttention", "AttentionRope", "Mlp", "GluMlp", "SwiGLU", "GELU", "SiLU", "AttentionPoolLatent", "DropPath",
    "RotaryEmbeddingCat", "RotaryEmbeddingDinoV3",
}  # fmt: skip
IDLE = {"Identity", "Dropout", "DropPath", "PatchDropout"}  # the identity in eval mode
NOT_COMPUTED = {  # attributes of modules that do not change the output for images of the model's own size
    "training", "p", "inplace", "drop_prob", "drop_rate", "scale_by_keep", "grad_checkpointing", "fused_attn",
    "weight_init_mode", "fix_init", "init_values", "no_embed_class", "dynamic_img_size", "dynamic_img_pad",
    "strict_img_size", "flatten", "output_fmt",
}  # fmt: skip


def timm_weights(reference: str) -> Weights:
    """Weights of `timm:NAME`, downloaded unless they are cached."""
    name = reference.removeprefix("timm:")
    check_timm_name(name)
    check_tag(name)
    model = download_pretrained(name)
    config = dict(getattr(model, "pretrained_cfg", {}) or {})
    resolved = ".".join(each for each in (name.partition(".")[0], config.get("tag")) if each)
    config.setdefault("label_names", imagenet_names(model.num_classes))
    spec = choose_spec(model, config, resolved)
    about = parse_pretrained_cfg(config, spec, "timm", f"timm:{resolved}")
    if resolved.startswith("deit3_"):  # trained with one binary loss per class
        about = dataclasses.replace(about, loss="sigmoid")
    origin = {"from": f"timm:{resolved}", "license": config.get("license")}
    tensors = collect_tensors(model)
    if isinstance(model, Eva) and spec.family != "timm":
        tensors = from_eva(tensors, spec, in_halves(model))
    weights = Weights(spec, tensors, dataclasses.replace(about, training=origin))
    return weights.with_notes(f"{name} is {resolved}" if name != resolved else "")


def check_tag(name: str) -> None:
    """Checks that timm has such weights, before its client asks a server for them."""
    architecture, _, tag = name.partition(".")
    tags = [each.partition(".")[2] for each in import_timm().list_models(f"{architecture}.*", pretrained=True)]
    if not tags:
        raise WeightsError(f"timm:{name}: timm has no pretrained weights for it")
    if tag and tag not in tags:
        raise WeightsError(f"timm:{name}: timm has no weights {tag!r} for it, but {', '.join(tags)}")


def choose_spec(model: Any, config: dict[str, Any], name: str, args: dict[str, Any] | None = None) -> ModelSpec:
    """vitctl's own spec of a timm model; if its layers differ from ours, a spec that timm builds."""
    try:
        return infer_spec(model, config)
    except WeightsError:
        args = {key: value for key, value in (args or {}).items() if value is not None}
        channels, *size = config.get("input_size") or (3, 224, 224)
        height, width = getattr(getattr(model, "patch_embed", None), "img_size", None) or args.get("img_size") or size
        own = {key: value for key, value in args.items() if key not in NOT_ARGS}
        return model_spec(
            f"timm:{name}",
            height=height, width=width, channels=args.get("in_chans", channels), classes=model.num_classes,
            patch=(getattr(getattr(model, "patch_embed", None), "patch_size", None) or (CNN_REACH,))[0],
            timm_args=json.dumps(own, sort_keys=True) if own else "",
        )  # fmt: skip


def imagenet_names(classes: int) -> list[str]:
    """The classes of ImageNet's subsets, which timm tells apart by their number; of two of a name, with the synset."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    if not subset:
        return []
    info = ImageNetInfo(subset)
    names = [info.index_to_description(index) for index in range(classes)]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({info.index_to_label_name(index)})" for index, name in enumerate(names)
    ]


def download_pretrained(name: str) -> Any:
    timm = import_timm()
    check_reachable(name, timm.models.get_pretrained_cfg(name))
    with warnings.catch_warnings(), mute_loggers("huggingface_hub"):
        warnings.simplefilter("ignore")
        try:
            return timm.create_model(name, pretrained=True)
        except Exception as error:  # from the hub's client, its network library, or timm
            raise WeightsError(f"timm:{name}: {NOT_DOWNLOADED} ({describe_refusal(error)}") from error


def describe_refusal(error: Exception) -> str:
    """The cause of a failed download, and what to do about it."""
    kinds = {type(each).__name__ for each in causes(error)}
    if "GatedRepoError" in kinds:
        return "its authors grant access on request); accept their license on the hub's page, and set HF_TOKEN"
    if "RepositoryNotFoundError" in kinds:
        return f"the hub has no such repository); {CHECK}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}); {CHECK}"


def describe_architecture(config: dict[str, Any], source: str) -> tuple[ModelSpec, dict[str, Any]]:
    """The spec of the architecture in a timm config.json, and timm's facts about its images and classes."""
    timm, name = import_timm(), str(config["architecture"])
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise WeightsError(f"{source}: its architecture {name!r} does not exist in timm; {hint}")
    stated = config.get("pretrained_cfg", config)  # old files have it at the top
    arguments = {"num_classes": config.get("num_classes")} | (config.get("model_args") or {})
    reserved = sorted(set(arguments) & set(inspect.signature(timm.create_model).parameters))
    if reserved:
        raise WeightsError(f"{source}: config.json has {reserved[0]!r} among its model_args; remove it")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            model = timm.create_model(name, pretrained=False, pretrained_cfg=filter_pretrained_cfg(stated), **arguments)
        except Exception as error:  # anything that timm raises for arguments that do not fit
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            raise WeightsError(f"{source}: timm cannot build {name} from config.json ({text})") from error
    facts = model.pretrained_cfg | {"label_names": config.get("label_names") or stated.get("label_names")}
    facts |= {"eva_in_halves": in_halves(model)} if isinstance(model, Eva) else {}
    return choose_spec(model, facts, name, arguments), facts


def filter_pretrained_cfg(stated: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of a pretrained_cfg that the installed timm knows; None, if there are none, means its defaults."""
    known = {field.name for field in dataclasses.fields(PretrainedCfg)} - {"architecture", "num_classes", "label_names"}
    return {name: value for name, value in stated.items() if name in known and value is not None} or None


def infer_spec(model: nn.Module, config: dict[str, Any]) -> ModelSpec:
    """The spec of a timm model; the error names the first module that ours would compute differently."""
    if type(model) not in (VisionTransformer, ResNetV2, Eva):
        raise WeightsError(f"is timm's {type(model).__name__}, not a plain Vision Transformer")
    try:
        if isinstance(model, ResNetV2):
            spec = infer_bit(model, config)
        else:
            spec = infer_eva(model) if isinstance(model, Eva) else infer_transformer(model)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, ConfigError) as error:
        raise WeightsError(f"is not a plain Vision Transformer or BiT ({type(error).__name__}: {error})") from error
    difference = next(compare_eva(spec, model) if isinstance(model, Eva) else compare_modules(spec, model), None)
    if difference:
        raise WeightsError(f"is not vitctl's {spec.name}: {difference}")
    return spec


def infer_transformer(model: Any) -> ModelSpec:
    backbone = getattr(model.patch_embed, "backbone", None)
    layers = tuple(len(stage.blocks) for stage in getattr(backbone, "stages", ()))
    family: Literal["vit", "hybrid"] = "vit" if backbone is None else "hybrid"
    block = model.blocks[0]
    return describe_vit(
        model, family=family, layers=layers, numerics="official" if backbone is None else "timm",
        positions="none" if model.pos_embed is None else "1d", class_token=model.has_class_token,
        registers=model.num_reg_tokens, layer_scale=not isinstance(block.ls1, nn.Identity),
        qkv_bias=block.attn.qkv.bias is not None,
    )  # fmt: skip


def describe_vit(model: Any, **more: Any) -> ModelSpec:
    """The spec of a ViT or an Eva, whose other attributes are given."""
    embed, block = model.patch_embed, model.blocks[0]
    is_gated = not isinstance(block.mlp, Mlp)
    size = Size(model.embed_dim, len(model.blocks), block.attn.num_heads, block.mlp.fc2.in_features)
    backbone, layers = getattr(embed, "backbone", None), more.get("layers", ())
    first = embed.proj if backbone is None else backbone.stem.conv if layers else backbone.conv
    pool, act = model.attn_pool, gelu_formula(block.mlp.act)
    norms: dict[Literal["tokens", "pooled", "none"], nn.Module] = {
        "tokens": model.norm,
        "pooled": model.fc_norm,
        "none": nn.LayerNorm(1),
    }
    return ModelSpec(
        model_name(more.get("family", "vit"), size, embed.patch_size[0], layers),
        height=embed.img_size[0], width=embed.img_size[1], channels=first.in_channels, classes=model.num_classes,
        patch=embed.patch_size[0], **vars(size), head=HEADS[model.global_pool],
        class_position=not model.no_embed_class and model.num_prefix_tokens > 0 and model.pos_embed is not None,
        norm=next(name for name, norm in norms.items() if not isinstance(norm, nn.Identity)),
        gelu="erf" if act is None or is_gated else act, norm_eps=block.norm1.eps,
        swiglu=is_gated, qk_norm=not isinstance(block.attn.q_norm, nn.Identity),
        attn_norm=not isinstance(block.attn.norm, nn.Identity), mlp_norm=not isinstance(block.mlp.norm, nn.Identity),
        pre_norm=not isinstance(model.norm_pre, nn.Identity),
        pool_heads=pool.num_heads if pool is not None and pool.num_heads != size.heads else 0,
        pool_mlp=pool.mlp.fc1.out_features if pool is not None and pool.mlp.fc1.out_features != size.mlp else 0,
        **more,
    )  # fmt: skip


def infer_eva(model: Any) -> ModelSpec:
    attention = model.blocks[0].attn
    key_bias = isinstance(attention, AttentionRope)  # timm's other attention has none
    if attention.qkv is None:
        query = attention.q_proj.bias
    else:
        query = attention.qkv.bias if key_bias else attention.q_bias
    positions = "none" if model.pos_embed is None else "1d"
    if model.rope is not None:
        positions = "rope" if model.pos_embed is None else "1d+rope"
    return describe_vit(
        model, positions=positions, class_token=model.cls_token is not None,
        registers=0 if model.reg_token is None else model.reg_token.shape[1],
        layer_scale=model.blocks[0].gamma_1 is not None, qkv_bias=query is not None,
        pool_prefix=model.attn_pool is not None and model.num_prefix_tokens > 0, key_bias=key_bias or query is None,
        rope=Rope() if model.rope is None else infer_rope(model.rope),
    )  # fmt: skip


def infer_rope(rope: Any) -> Rope:
    if type(rope) is RotaryEmbeddingDinoV3 and rope.normalize_coords == "separate" and rope.grid_offset == 0:
        return Rope("center", rope.temperature, order="yx" if rope.grid_indexing == "ij" else "xy")
    if type(rope) is not RotaryEmbeddingCat or rope.in_pixels:
        raise ConfigError(f"its rope is a {type(rope).__name__}")
    grid = tuple(rope.ref_feat_shape or ())
    order: Literal["yx", "xy"] = "yx" if rope.grid_indexing == "ij" else "xy"
    return Rope("index", rope.temperature, grid, rope.grid_offset, order)


def compare_eva(spec: ModelSpec, model: Any) -> Iterator[str]:
    """What ours would compute differently: modules of other kinds, and tensors of other names or shapes."""
    for name, module in model.named_modules():
        if type(module).__name__ not in EVA_PARTS:
            yield f"its {name} is a {type(module).__name__}"
    if any(getattr(block.attn, "gate", None) is not None for block in model.blocks):
        yield "its attention has gates"
    with torch.device("meta"):
        ours, theirs = collect_tensors(build_module(spec)), from_eva(collect_tensors(model), spec, in_halves(model))
        try:
            yield from check_same_tensors(ours, theirs, "its tensors")
        except WeightsError as error:
            yield str(error)


def in_halves(model: Any) -> bool:
    """Whether an Eva turns the first half of a head with the second."""
    return bool(getattr(model.blocks[0].attn, "rotate_half", False))


def infer_bit(model: Any, config: dict[str, Any]) -> ModelSpec:
    _, height, width = config.get("input_size") or (3, 224, 224)
    layers = tuple(len(stage.blocks) for stage in model.stages)
    factor = model.stem.conv.out_channels // 64
    return ModelSpec(
        model_name("bit", Size(0, 0, 0, 0), 1, layers, factor), **AS_BIT, height=height, width=width, layers=layers,
        channels=model.stem.conv.in_channels, classes=model.num_classes, factor=factor, numerics="timm",
    )  # fmt: skip


def compare_modules(spec: ModelSpec, theirs: nn.Module) -> Iterator[str]:
    """Modules of another type and plain attributes of another value, under their names in timm's model."""
    with torch.device("meta"):
        own = dict(build_module(spec).named_modules())
    for name, module in theirs.named_modules():
        mine, kind = own.get(name), type(module).__name__
        if {kind, type(mine).__name__} <= IDLE or (gelu_formula(module) and gelu_formula(module) == gelu_formula(mine)):
            continue
        if not isinstance(mine, type(module)):
            yield f"its {name} is a {kind}"
            continue
        for attribute, value in vars(module).items():
            is_plain = isinstance(value, bool | int | float | str | tuple | None) and not attribute.startswith("_")
            if is_plain and attribute not in NOT_COMPUTED and getattr(mine, attribute, None) != value:
                yield f"its {name or 'model'} has {attribute} {value!r}"


def gelu_formula(activation: nn.Module | None) -> Gelu | None:
    """The formula of a GELU of torch, timm or vitctl; None for any other activation."""
    kind = type(activation).__name__
    if kind == "GELU":
        return "erf" if getattr(activation, "approximate", "none") == "none" else "tanh"
    return {"GELUTanh": "tanh", "TanhGelu": "tanh", "QuickGELU": "quick"}.get(kind)  # type: ignore[return-value]
