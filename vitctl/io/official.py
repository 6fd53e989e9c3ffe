"""The official `.npz` layouts of Vision Transformers, hybrids and BiT ResNets, to timm's names and back.

    original      google-research/vision_transformer: the paper's files, AugReg's, and the hybrids
    big_vision    positions outside the Transformer, none for the class token, MAP heads, layers perhaps stacked
    big_transfer  BiT as published;  bit_paper  BiT in big_vision

A table has one row per tensor: its name in timm, its name or names in the file, and the conversion. Reading and writing
use the same table, so a round trip gives the same bits.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from vitctl.config.eval_crop import PROTOCOLS
from vitctl.config.model import ModelSpec, Size, model_name
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.capabilities import ANY, Capabilities, allow, allow_any, check_supported
from vitctl.io.state_dict import bit_spec, count_blocks_per_stage
from vitctl.io.weights import HALF, About, Weights, for_channels, settle, tensor_of, zero_head_note
from vitctl.patches import square_grid
from vitctl.reporting import format_count

Arrays = dict[str, np.ndarray[Any, Any]]
Named = tuple[str, np.ndarray[Any, Any]]
ROOTS = ("root_block/conv_root/kernel", "root_block/standardized_conv2d/kernel", "conv_root/kernel", "embedding/kernel")
UNIT = r"block(\d+)/unit(\d+)/"
STACK = "Transformer/encoderblock/"  # big_vision may stack the arrays of all layers into one


@dataclass(frozen=True)
class OfficialLayout:
    """The names that differ between the layouts of a Transformer."""

    name: str
    prefix: str
    positions: str
    attention: str
    norm2: str
    mlp: str


ATTENTION = "MultiHeadDotProductAttention"
TABLE = "Transformer/posembed_input/pos_embedding"
ORIGINAL = OfficialLayout("original", "", TABLE, f"{ATTENTION}_1", "LayerNorm_2", "MlpBlock_3")
BIG_VISION = OfficialLayout("big_vision", "params/", "pos_embedding", f"{ATTENTION}_0", "LayerNorm_1", "MlpBlock_0")

BARE_SIZE = 224  # the image size assumed for files without position embeddings


def allow_positions(spec: ModelSpec) -> tuple[str, ...]:
    """A file without position embeddings is read as big_vision's fixed sin-cos embeddings at one resolution."""
    if spec.family == "bit":
        return ("none",)
    at_bare_size = spec.family == "vit" and spec.height == BARE_SIZE // spec.patch * spec.patch
    return ("1d", "sincos") if at_bare_size and not spec.class_position else ("1d",)


CAPABILITIES = Capabilities(
    "the official npz layout",
    "write .safetensors instead, or use vitctl export --format npz, which folds mean, std and fixed positions into "
    "the weights",
    {
        "family": allow("vit", "hybrid", "bit"),
        "height": lambda spec: (BARE_SIZE,) if spec.family == "bit" else ANY,
        "width": lambda spec: (spec.height,),
        **dict.fromkeys(("channels", "classes", "patch", "dim", "depth", "heads", "mlp"), allow_any),
        "layers": lambda spec: ((),) if spec.family == "vit" else ANY,
        "factor": lambda spec: ANY if spec.family == "bit" else (1,),
        "head": lambda spec: ("cls",) if spec.class_token else ("gap", "map"),
        "class_token": lambda spec: (spec.head == "cls",),
        "class_position": lambda spec: (True, False) if spec.class_token else (False,),
        "hidden": lambda spec: (0,) if spec.family == "bit" else ANY,
        "positions": allow_positions,
    },
)
POSITIONS = (BIG_VISION.positions, TABLE, "Transformer/pos_embedding")  # each occurs in files of both layouts


@dataclass(frozen=True)
class TensorRow:
    ours: str
    theirs: tuple[str, ...]  # several are concatenated along the first axis of ours
    kind: str


Change = Callable[[torch.Tensor, ModelSpec], torch.Tensor]
READ: dict[str, Change] = {
    "same": lambda value, _: value,
    "vector": lambda value, _: value.reshape(-1),  # old files have norms of shape [1, 1, 1, C]
    "broad": lambda value, _: value.reshape(-1),
    "dense": lambda value, _: value.T,
    "conv": lambda value, _: value.permute(3, 2, 0, 1),  # HWIO -> OIHW
    "pointwise": lambda value, _: value.T[:, :, None, None],  # a dense layer in the file, a 1x1 convolution in timm
    "to_heads": lambda value, _: value.flatten(1).T,  # [D, H, Dh] -> [H*Dh, D]
    "heads_bias": lambda value, _: value.reshape(-1),
    "from_heads": lambda value, _: value.flatten(0, 1).T,  # [H, Dh, D] -> [D, H*Dh]
}
WRITE: dict[str, Change] = {
    "same": READ["same"],
    "vector": READ["same"],
    "broad": lambda value, _: value.reshape(1, 1, 1, -1),
    "dense": READ["dense"],
    "conv": lambda value, _: value.permute(2, 3, 1, 0),
    "pointwise": lambda value, _: value[:, :, 0, 0].T,
    "to_heads": lambda value, spec: value.T.reshape(value.shape[1], spec.heads, -1),
    "heads_bias": lambda value, spec: value.reshape(spec.heads, -1),
    "from_heads": lambda value, spec: value.T.reshape(spec.heads, -1, value.shape[0]),
}


def is_official(names: Iterable[str]) -> bool:
    return any(name.endswith(ROOTS) for name in names)


def read_official(arrays: Arrays, source: str, allow_missing: bool = False) -> Weights:
    """Weights from the arrays of an official file."""
    prefix = prefix_of(arrays, source)
    inside = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    outside = [name for name in arrays if not name.startswith(prefix)]
    is_stacked = any(name.startswith(STACK) for name in inside)
    inside = unstack_layers(inside)
    try:
        spec, rows, layout, notes = parse_official(inside, source)
    except (KeyError, IndexError, ValueError, ConfigError) as error:
        problem = f"the array {error} is missing" if isinstance(error, KeyError) else error
        raise WeightsError(f"{source}: {problem}") from error
    if outside:
        notes.append(f"{format_count(len(outside), 'array')} outside {prefix!r} ignored ({', '.join(outside[:3])})")
    known = {name for row in rows for name in row.theirs}
    notes += settle(source, known - set(inside), set(inside) - known, allow_missing)
    tensors = {row.ours: official_to_tensor(row, inside, spec) for row in rows if set(row.theirs) <= set(inside)}
    layout += ", layers stacked" if is_stacked else ""
    mean, std = (for_channels(values, spec.channels) for values in HALF)
    about = About(f"official npz ({layout})", source, mean, std, layout=layout)
    if "big_vision" in layout:
        about = replace(about.with_eval_crop(PROTOCOLS["big_vision"]), loss="sigmoid")  # as its vit_i1k and vit_i21k
    return Weights(spec, tensors, about, notes=tuple(notes)).with_notes(zero_head_note(tensors))


def prefix_of(arrays: Iterable[str], source: str) -> str:
    """The prefix of the image model's names: "", "params/", "opt/target/", "params/img/", "resnet/"."""
    for root in ROOTS:
        if matches := [name for name in arrays if name == root or name.endswith(f"/{root}")]:
            return min(matches, key=len).removesuffix(root)
    raise WeightsError(f"{source}: has no first layer of a Vision Transformer or a BiT ResNet")


def unstack_layers(arrays: Arrays) -> Arrays:
    """Splits stacked arrays into one per layer."""
    plain = {name: array for name, array in arrays.items() if not name.startswith(STACK)}
    for name, array in arrays.items():
        if name.startswith(STACK):
            leaf = name.removeprefix(STACK)
            plain |= {f"{STACK[:-1]}_{layer}/{leaf}": each for layer, each in enumerate(array)}
    return plain


def stack_layers(arrays: Arrays, prefix: str, depth: int) -> Iterator[Named]:
    """The inverse of `unstack_layers`."""
    first = f"{prefix}{STACK[:-1]}_0/"
    leaves = [name.removeprefix(first) for name in arrays if name.startswith(first)]
    yield from ((name, array) for name, array in arrays.items() if not name.startswith(f"{prefix}{STACK[:-1]}_"))
    for leaf in leaves:
        layers = [arrays[f"{prefix}{STACK[:-1]}_{layer}/{leaf}"] for layer in range(depth)]
        yield f"{prefix}{STACK}{leaf}", np.stack(layers)


def parse_official(arrays: Arrays, source: str) -> tuple[ModelSpec, list[TensorRow], str, list[str]]:
    """Spec, table, layout and assumptions, from names and shapes."""
    if "embedding/kernel" not in arrays:
        spec, layout = infer_official_bit(arrays)
        return spec, bit_rows(spec, layout), layout, []
    style = ORIGINAL if any(ORIGINAL.attention in name for name in arrays) else BIG_VISION
    style = replace(style, positions=next((name for name in POSITIONS if name in arrays), style.positions))
    spec, notes = infer_official_transformer(arrays, style, source)
    return spec, transformer_rows(spec, style), style.name, notes


def infer_official_transformer(arrays: Arrays, style: OfficialLayout, source: str) -> tuple[ModelSpec, list[str]]:
    *_, patch, channels, dim = arrays["embedding/kernel"].shape
    depth = len({name.split("/")[1] for name in arrays if name.startswith("Transformer/encoderblock_")})
    block = "Transformer/encoderblock_0"
    heads = arrays[f"{block}/{style.attention}/query/kernel"].shape[1]
    size = Size(dim, depth, heads, arrays[f"{block}/{style.mlp}/Dense_0/kernel"].shape[1])
    family: Literal["vit", "hybrid"] = "hybrid" if "conv_root/kernel" in arrays else "vit"
    layers: tuple[int, ...] = ()
    reach = patch  # pixels from one token to the next
    if family == "hybrid":
        layers, channels = count_blocks_per_stage(arrays, UNIT), arrays["conv_root/kernel"].shape[2]
        reach = patch * 4 * 2 ** max(0, len(layers) - 1)
    has_class = "cls" in arrays
    grid, class_position, notes = grid_of(arrays, style, has_class, patch, source)
    spec = ModelSpec(
        model_name(family, size, patch, layers), family, height=grid * reach, width=grid * reach, channels=channels,
        classes=len(arrays.get("head/bias", ())), patch=patch, **vars(size), layers=layers,
        head="cls" if has_class else "map" if any(name.startswith("MAPHead_0/") for name in arrays) else "gap",
        class_token=has_class, class_position=class_position, hidden=len(arrays.get("pre_logits/bias", ())),
        positions="1d" if style.positions in arrays else "sincos",
    )  # fmt: skip
    return spec, notes


def grid_of(
    arrays: Arrays, style: OfficialLayout, has_class: bool, patch: int, source: str
) -> tuple[int, bool, list[str]]:
    """The side of the square grid, and whether the class token has a position."""
    if style.positions not in arrays:
        note = f"the file has no position embeddings; big_vision's fixed sin-cos at {BARE_SIZE}x{BARE_SIZE} are used"
        return BARE_SIZE // patch, False, [note]
    count = arrays[style.positions].shape[-2]
    if grid := square_grid(count, (1, 0) if has_class else (0,)):
        return grid[0], grid[1] > 0, []
    raise WeightsError(f"{source}: {count} positions are not a square grid, with or without a class token")


def infer_official_bit(arrays: Arrays) -> tuple[ModelSpec, str]:
    is_paper = "root_block/conv_root/kernel" in arrays
    root = "root_block/conv_root/kernel" if is_paper else "root_block/standardized_conv2d/kernel"
    classes = len(arrays.get("head/bias" if is_paper else "head/conv2d/bias", ()))
    *_, channels, width = arrays[root].shape
    spec = bit_spec(count_blocks_per_stage(arrays, UNIT), width, channels, classes)
    return spec, "bit_paper" if is_paper else "big_transfer"


def transformer_rows(spec: ModelSpec, style: OfficialLayout) -> list[TensorRow]:
    rows = [
        *(resnet_rows(spec) if spec.family == "hybrid" else []),
        *pair_rows("patch_embed.proj", "embedding/kernel", "embedding/bias", "conv"),
        *([TensorRow("cls_token", ("cls",), "same")] if spec.class_token else []),
        *([TensorRow("pos_embed", (style.positions,), "same")] if spec.positions == "1d" else []),
    ]
    for layer in range(spec.depth):
        rows += official_block_rows(f"blocks.{layer}", f"Transformer/encoderblock_{layer}", style)
    rows += norm_rows("norm", "Transformer/encoder_norm")
    if spec.head == "map":
        rows += map_rows()
    if spec.hidden:
        rows += dense_rows("pre_logits.fc", "pre_logits")
    return rows + (dense_rows("head", "head") if spec.classes else [])


def official_block_rows(ours: str, theirs: str, style: OfficialLayout) -> list[TensorRow]:
    attention = f"{theirs}/{style.attention}"
    return [
        *norm_rows(f"{ours}.norm1", f"{theirs}/LayerNorm_0"),
        *head_rows(f"{ours}.attn.qkv", attention, "query", "key", "value"),
        *pair_rows(f"{ours}.attn.proj", f"{attention}/out/kernel", f"{attention}/out/bias", "from_heads"),
        *norm_rows(f"{ours}.norm2", f"{theirs}/{style.norm2}"),
        *dense_rows(f"{ours}.mlp.fc1", f"{theirs}/{style.mlp}/Dense_0"),
        *dense_rows(f"{ours}.mlp.fc2", f"{theirs}/{style.mlp}/Dense_1"),
    ]


def map_rows() -> list[TensorRow]:
    attention = f"MAPHead_0/{ATTENTION}_0"
    return [
        TensorRow("attn_pool.latent", ("MAPHead_0/probe",), "same"),
        *head_rows("attn_pool.q", attention, "query"),
        *head_rows("attn_pool.kv", attention, "key", "value"),
        *pair_rows("attn_pool.proj", f"{attention}/out/kernel", f"{attention}/out/bias", "from_heads"),
        *norm_rows("attn_pool.norm", "MAPHead_0/LayerNorm_0"),
        *dense_rows("attn_pool.mlp.fc1", "MAPHead_0/MlpBlock_0/Dense_0"),
        *dense_rows("attn_pool.mlp.fc2", "MAPHead_0/MlpBlock_0/Dense_1"),
    ]


def resnet_rows(spec: ModelSpec) -> list[TensorRow]:
    """The ResNet of a hybrid. In timm, a stem without stages has no prefix "stem"."""
    ours = "patch_embed.backbone"
    stem = f"{ours}.stem" if spec.layers else ours
    rows = [TensorRow(f"{stem}.conv.weight", ("conv_root/kernel",), "conv"), *norm_rows(f"{stem}.norm", "gn_root")]
    for stage, unit in units(spec.layers):
        block, theirs = f"{ours}.stages.{stage}.blocks.{unit}", f"block{stage + 1}/unit{unit + 1}"
        for number in (1, 2, 3):
            rows.append(TensorRow(f"{block}.conv{number}.weight", (f"{theirs}/conv{number}/kernel",), "conv"))
            rows += norm_rows(f"{block}.norm{number}", f"{theirs}/gn{number}")
        if unit == 0:
            rows.append(TensorRow(f"{block}.downsample.conv.weight", (f"{theirs}/conv_proj/kernel",), "conv"))
            rows += norm_rows(f"{block}.downsample.norm", f"{theirs}/gn_proj")
    return rows


def bit_rows(spec: ModelSpec, layout: str) -> list[TensorRow]:
    is_paper = layout == "bit_paper"
    root = "root_block/conv_root/kernel" if is_paper else "root_block/standardized_conv2d/kernel"
    rows = [TensorRow("stem.conv.weight", (root,), "conv")]
    for stage, unit in units(spec.layers):
        block, theirs = f"stages.{stage}.blocks.{unit}", f"block{stage + 1}/unit{unit + 1:02d}"
        for number, letter in ((1, "a"), (2, "b"), (3, "c")):
            conv = f"conv{number}/kernel" if is_paper else f"{letter}/standardized_conv2d/kernel"
            rows.append(TensorRow(f"{block}.conv{number}.weight", (f"{theirs}/{conv}",), "conv"))
            norm = f"{theirs}/gn{number}" if is_paper else f"{theirs}/{letter}"
            rows += bit_norm_rows(f"{block}.norm{number}", norm, is_paper)
        if unit == 0:
            conv = "conv_proj/kernel" if is_paper else "a/proj/standardized_conv2d/kernel"
            rows.append(TensorRow(f"{block}.downsample.conv.weight", (f"{theirs}/{conv}",), "conv"))
    rows += bit_norm_rows("norm", "norm-pre-head" if is_paper else "", is_paper)
    if spec.classes:
        head, kind = ("head", "pointwise") if is_paper else ("head/conv2d", "conv")
        rows += pair_rows("head.fc", f"{head}/kernel", f"{head}/bias", kind)
    return rows


def units(layers: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(stage, unit) for stage, count in enumerate(layers) for unit in range(count)]


def pair_rows(ours: str, weight: str, bias: str, kind: str, bias_kind: str = "vector") -> list[TensorRow]:
    return [TensorRow(f"{ours}.weight", (weight,), kind), TensorRow(f"{ours}.bias", (bias,), bias_kind)]


def head_rows(ours: str, attention: str, *parts: str) -> list[TensorRow]:
    """Projections to heads; those of query, key and value are one tensor in timm."""
    weights, biases = (tuple(f"{attention}/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias"))
    return [TensorRow(f"{ours}.weight", weights, "to_heads"), TensorRow(f"{ours}.bias", biases, "heads_bias")]


def norm_rows(ours: str, theirs: str) -> list[TensorRow]:
    return pair_rows(ours, f"{theirs}/scale", f"{theirs}/bias", "vector")


def bit_norm_rows(ours: str, theirs: str, is_paper: bool) -> list[TensorRow]:
    if is_paper:
        return pair_rows(ours, f"{theirs}/scale", f"{theirs}/bias", "broad", "broad")
    place = f"{theirs}/group_norm" if theirs else "group_norm"
    return pair_rows(ours, f"{place}/gamma", f"{place}/beta", "vector")


def dense_rows(ours: str, theirs: str) -> list[TensorRow]:
    return pair_rows(ours, f"{theirs}/kernel", f"{theirs}/bias", "dense")


def official_to_tensor(row: TensorRow, arrays: Arrays, spec: ModelSpec) -> torch.Tensor:
    parts = [READ[row.kind](tensor_of(arrays[name]), spec) for name in row.theirs]
    copies = [part.clone(memory_format=torch.contiguous_format) for part in parts]  # the mapped file may change
    return torch.cat(copies) if len(copies) > 1 else copies[0]


def write_official(weights: Weights) -> Iterator[Named]:
    """The arrays of an official file, in the layout they were read from, or else in one that can store them."""
    spec = weights.spec
    check_supported(weights, CAPABILITIES)
    if spec.family == "bit":
        layout = "bit_paper" if "bit_paper" in weights.about.layout else "big_transfer"
        return tensors_to_official(bit_rows(spec, layout), weights, "" if layout == "bit_paper" else "resnet/")
    plain = spec.head != "map" and spec.class_position == spec.class_token and "big_vision" not in weights.about.layout
    style = ORIGINAL if plain else BIG_VISION
    arrays = tensors_to_official(transformer_rows(spec, style), weights, style.prefix)
    return stack_layers(dict(arrays), style.prefix, spec.depth) if "stacked" in weights.about.layout else arrays


def tensors_to_official(rows: list[TensorRow], weights: Weights, prefix: str) -> Iterator[Named]:
    missing = [row.ours for row in rows if row.ours not in weights.tensors]
    if missing:
        raise WeightsError(f"the weights have no tensor {missing[0]}, so they cannot be written as npz")
    return (
        (prefix + name, array_of(WRITE[row.kind](part, weights.spec)))
        for row in rows
        for name, part in zip(row.theirs, weights.tensors[row.ours].chunk(len(row.theirs)), strict=True)
    )


def array_of(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("V2")
    return tensor.numpy()
