"""Reads a checkpoint of Hugging Face, after checking all of it."""

import json
import re
from dataclasses import replace
from typing import Any

import torch

from vitctl.config.model import ModelSpec, Rope, Size, model_name, model_spec
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.hugging_face import config as hf
from vitctl.io.hugging_face.names import HFTensorRow, Naming, detect_naming, hf_tensor_rows
from vitctl.io.weights import About, Tensors, Weights, decoder_note, describe_differences, zero_head_note

TYPES = ("vit", "vit_mae", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit")  # MAE's encoder is a plain ViT
TEACHERS = ("cls_classifier", "distillation_classifier")  # of DeiT: the mean of both is its answer


def read_hf(tensors: Tensors, config: hf.Config | None, preprocessor: hf.Config | None, source: str) -> Weights:
    """Weights from the tensors of a checkpoint, and the two JSON files of its folder, if they exist."""
    try:
        return parse_hf(tensors, config, preprocessor, source)
    except (ConfigError, WeightsError) as error:
        raise WeightsError(f"{source}: {' '.join(str(error).split())}") from error


def parse_hf(tensors: Tensors, config: hf.Config | None, preprocessor: hf.Config | None, source: str) -> Weights:
    check_types(tensors, config, preprocessor)
    naming = detect_naming(tensors)
    check_kind(naming, config)
    own, extra, notes = split_off_decoder(tensors, naming)
    heads = {name: own.pop(name) for name in list(own) if name.startswith(TEACHERS)}
    assumptions, guesses = list[str](), list[str]()
    spec = infer_hf_spec(own, naming, config, assumptions)
    renamed = rename_hf_tensors(own, list(hf_tensor_rows(spec, naming)))
    if spec.registers and spec.positions == "1d" and not spec.class_position:  # added before they are inserted
        table = renamed["pos_embed"]
        renamed |= {"cls_token": renamed["cls_token"] + table[:, :1], "pos_embed": table[:, 1:].contiguous()}
    mean, std = hf.read_normalization(preprocessor, spec.channels, guesses)
    if heads:
        spec, renamed = with_two_heads(spec, renamed, heads)
    names, crop = hf.class_names(config or {}, spec.classes), hf.read_eval_crop(preprocessor)
    answers = hf.answer_kind(config or {}, spec.classes)
    about = About("Hugging Face ViT", source, mean, std, names, **answers).with_eval_crop(crop)
    weights = Weights(spec, renamed, about, extra, (), tuple(assumptions), ", ".join(guesses))
    return weights.with_notes(*notes, zero_head_note(renamed))


def check_types(tensors: Any, config: Any, preprocessor: Any) -> None:
    """Values from JSON or a pickle may have any type."""
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        if content is not None and not isinstance(content, dict):
            raise WeightsError(f"{name} holds a {type(content).__name__}, not an object; save it again")
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{name} is a {type(value).__name__}, not a tensor; save only the state dict")
    kind = (config or {}).get("model_type")
    if kind not in (None, *TYPES):
        raise WeightsError(f"config.json says model_type {hf.quote_value(kind)}; supported: {', '.join(TYPES)}")


def check_kind(naming: Naming, config: hf.Config | None) -> None:
    kind, is_dino = str((config or {}).get("model_type")), naming.is_dino
    if (
        config
        and config.get("model_type")
        and (kind.startswith("dinov2"), kind == "dinov3_vit")
        != (
            is_dino and not naming.is_rotary,
            naming.is_rotary,
        )
    ):
        what = ("DINOv3" if naming.is_rotary else "DINOv2") if is_dino else "a ViT"
        raise WeightsError(f"config.json says model_type {kind!r}, but its tensors are those of {what}; {hf.SAME}")


def split_off_decoder(tensors: Tensors, naming: Naming) -> tuple[Tensors, Tensors, list[str]]:
    """The encoder with its head, the tensors of masked pretraining, and notes."""
    root = naming.prefix
    mask, ids = f"{root}embeddings.mask_token", f"{root}embeddings.position_ids"
    extra = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
    own = {name: each for name, each in tensors.items() if name not in extra and name not in (mask, ids)}
    own = {name: each for name, each in own.items() if each.numel()}  # no registers are a tensor without values
    head = ""
    if naming.is_dino and "classifier.weight" in own:
        own = {name: tensor for name, tensor in own.items() if not name.startswith("classifier.")}
        head = "its classifier reads the class token and the mean of the patches; it is left out: features only"
    if mask in tensors:
        extra["mask_token"] = tensors[mask]
    ignored = f"{ids} ignored: it only numbers the positions" if ids in tensors else ""
    return own, extra, [decoder_note(extra), ignored, head]


def infer_hf_spec(tensors: Tensors, naming: Naming, config: hf.Config | None, assumptions: list[str]) -> ModelSpec:
    root, facts = naming.prefix, config or {}
    dim, channels, patch, other = shape_of(tensors, f"{root}{naming.patches}.weight", 4)
    if patch != other:
        raise WeightsError(f"its patches are {patch}x{other}; vitctl supports square patches only")
    depth = depth_of(tensors, naming)
    token = root + naming.registers
    registers = shape_of(tensors, token, 3)[1] if token in tensors else 0
    rows = sum(shape_of(tensors, f"{root}{naming.layers}.0.{part}.weight", 2)[0] for part in naming.fc1)
    mlp = shape_of(tensors, f"{root}{naming.layers}.0.{naming.fc2}.weight", 2)[1]
    has_bias = [f"{root}{naming.layers}.0.{part}.bias" in tensors for part in naming.attention]
    classes = classes_of(tensors, facts)
    positions = None if naming.is_rotary else shape_of(tensors, f"{root}embeddings.position_embeddings", 3)[1]
    spec = ModelSpec(
        "vit", height=patch, width=patch, channels=channels, classes=classes, patch=patch, dim=dim, depth=depth,
        heads=1, mlp=mlp, hidden=0 if classes else length_of(tensors, f"{root}pooler.dense"), qkv_bias=has_bias[0],
        key_bias=has_bias[1] or not has_bias[0], swiglu=rows == 2 * mlp, gelu="erf",
        norm_eps=hf.DINO_3_EPS if naming.is_rotary else hf.DINO_EPS if naming.is_dino else hf.EPS,
        layer_scale=naming.is_dino, registers=registers, class_position=naming.is_distilled or not registers,
    )  # fmt: skip
    spec = (
        hf.assume_config(spec, positions, assumptions) if config is None else hf.apply_config(spec, positions, config)
    )
    if naming.is_rotary:
        temperature = hf.read_float(facts, "rope_theta", Rope().temperature)
        spec = replace(spec, positions="rope", class_position=False, rope=Rope(temperature=temperature))
    return replace(spec, name=model_name("vit", Size(dim, depth, spec.heads, mlp), patch))


def with_two_heads(spec: ModelSpec, tensors: Tensors, heads: Tensors) -> tuple[ModelSpec, Tensors]:
    """A distilled DeiT with the heads of both tokens, which timm builds. Its epsilon is DeiT's own."""
    own = {"dist_token" if name == "reg_token" else name: value for name, value in tensors.items()}
    for theirs, ours in zip(TEACHERS, ("head", "head_dist"), strict=True):
        own |= {f"{ours}.{kind}": heads[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    args = {
        "embed_dim": spec.dim, "depth": spec.depth, "num_heads": spec.heads, "patch_size": spec.patch,
        "mlp_ratio": (spec.mlp + 0.5) / spec.dim,
    }  # fmt: skip
    sizes = {name: getattr(spec, name) for name in ("height", "width", "channels", "patch")}
    name, classes = "timm:deit_base_distilled_patch16_224", len(own["head.bias"])
    return model_spec(name, classes=classes, timm_args=json.dumps(args, sort_keys=True), **sizes), own


def shape_of(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors:
        raise WeightsError(f"the tensor {name} is missing; use the complete checkpoint")
    shape = tuple(tensors[name].shape)
    if len(shape) != axes or 0 in shape:
        raise WeightsError(f"{name} is {list(shape)}; in a ViT it has {axes} axes, none of them empty")
    return shape


def depth_of(tensors: Tensors, naming: Naming) -> int:
    """The number of layers. A gap in their numbers shows later, as a missing layer."""
    pattern = re.compile(rf"{re.escape(naming.prefix + naming.layers)}\.(\d+)\.")
    return len({match[1] for name in tensors if (match := pattern.match(name))})


def length_of(tensors: Tensors, layer: str) -> int:
    """The number of outputs of a layer, from its weight or its bias; 0 if there is no such layer."""
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in tensors and tensors[name].dim():
            return int(tensors[name].shape[0])
    return 0


def classes_of(tensors: Tensors, config: hf.Config) -> int:
    """The number of classes. A classification model without a classifier is an error, unless it has no labels."""
    classes, kinds = length_of(tensors, "classifier"), config.get("architectures")
    is_classifier = isinstance(kinds, list) and "ViTForImageClassification" in kinds
    if is_classifier and not classes and config.get("id2label") != {} and config.get("num_labels") != 0:
        raise WeightsError(
            "config.json says ViTForImageClassification, but classifier.weight and classifier.bias are missing; "
            "use the complete checkpoint"
        )
    return classes


def rename_hf_tensors(tensors: Tensors, table: list[HFTensorRow]) -> Tensors:
    """The tensors under timm's names, after checking that none is missing or unexpected, and every shape."""
    shapes = {name: row.shape for row in table for name in row.theirs}
    if difference := describe_differences(set(shapes) - set(tensors), set(tensors) - set(shapes)):
        raise WeightsError(f"{difference}; use the complete checkpoint of a plain ViT, with its config.json")
    for name, shape in shapes.items():
        hf.check_tensor(name, tensors[name], shape)
    parts = {row.ours: [tensors[name].detach() for name in row.theirs] for row in table}
    for row in table:
        if row.zero is not None:
            parts[row.ours].insert(row.zero, torch.zeros_like(parts[row.ours][0]))
    return {name: torch.cat(several) if len(several) > 1 else several[0] for name, several in parts.items()}
