"""Random arrays in each layout of the official npz files: small, nowhere zero, and made without vitctl.

Letters: B batch, N tokens, D width, H heads, P patch, C channels, K classes.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

Arrays = dict[str, np.ndarray]

BLOCK_NAMES = {
    "original": ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
    "big_vision": ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
}
VIT_LAYOUTS = {
    "original": ("cls", "gap"),
    "big_vision": ("cls", "gap", "map"),
    "big_vision-scan": ("cls", "gap", "map"),
}
BIT_LAYOUTS = ("big_transfer", "big_vision")
BOTTLENECK = 4  # a unit of a ResNet is four times as wide outside as inside


def make_vit(
    layout: str,
    head: str = "cls",
    hidden: int = 0,
    dim: int = 16,
    depth: int = 2,
    heads: int = 2,
    mlp: int = 24,
    patch: int = 4,
    grid: tuple[int, int] = (3, 3),
    channels: int = 3,
    classes: int = 5,
    seed: int = 0,
) -> Arrays:
    """`hidden` is the width of `pre_logits`, 0 for none."""
    if head not in VIT_LAYOUTS[layout]:
        raise ValueError(f"no {layout} file has a {head} head")
    rng = np.random.default_rng(seed)
    arrays = under("embedding", dense(rng, (patch, patch, channels), (dim,), gain=0.1))
    arrays |= tokens(rng, layout, head, math.prod(grid), dim)
    arrays |= encoder(rng, layout, [encoder_block(rng, layout, dim, heads, mlp) for _ in range(depth)], dim)
    arrays |= under("MAPHead_0", map_head(rng, dim, heads, mlp)) if head == "map" else {}
    arrays |= classifier(rng, dim, hidden, classes)
    return arrays if layout == "original" else under("params", arrays)


def make_hybrid(
    layers: Sequence[int] = (1, 1),
    stem: int = 64,
    dim: int = 16,
    depth: int = 2,
    heads: int = 2,
    mlp: int = 24,
    patch: int = 1,
    grid: tuple[int, int] = (3, 3),
    channels: int = 3,
    classes: int = 5,
    hidden: int = 0,
    head: str = "cls",
    old_norms: bool = False,
    seed: int = 0,
) -> Arrays:
    """`layers` are the units of each stage, () for the stem alone; `old_norms` are stored as [1, 1, 1, C]."""
    rng = np.random.default_rng(seed + 1)
    lead = (1, 1, 1) if old_norms else ()
    arrays = under("conv_root", conv(rng, 7, channels, stem)) | under("gn_root", norm(rng, *lead, stem))
    for name, inputs, mid in units(layers, stem, "block{}/unit{}"):
        arrays |= under(name, unit_convs(rng, inputs, mid) | post_activation_norms(rng, inputs, mid, lead))
    width = stem * 2 ** (len(layers) - 1) * BOTTLENECK if layers else stem
    return arrays | make_vit("original", head, hidden, dim, depth, heads, mlp, patch, grid, width, classes, seed)


def make_bit(
    layout: str,
    layers: Sequence[int] = (1, 1, 1, 1),
    factor: int = 1,
    channels: int = 3,
    classes: int = 5,
    seed: int = 0,
) -> Arrays:
    """`factor` is the 3 of R50x3."""
    if layout not in BIT_LAYOUTS:
        raise ValueError(f"no BiT file is laid out as {layout}")
    rng = np.random.default_rng(seed)
    stem = 64 * factor
    arrays = under("root_block/conv_root", conv(rng, 7, channels, stem))
    for name, inputs, mid in units(layers, stem, "block{}/unit{:02d}"):
        norms = {f"gn{i}": norm(rng, 1, 1, 1, width) for i, width in enumerate((inputs, mid, mid), 1)}
        arrays |= under(name, unit_convs(rng, inputs, mid) | joined(norms.items()))
    width = stem * 2 ** (len(layers) - 1) * BOTTLENECK
    arrays |= under("norm-pre-head", norm(rng, 1, 1, 1, width)) | under("head", dense(rng, (width,), (classes,)))
    return as_big_transfer(arrays) if layout == "big_transfer" else arrays


def as_big_transfer(arrays: Arrays) -> Arrays:
    named = {big_transfer_name(name): array for name, array in arrays.items()}
    flat = {name: array.reshape(-1) if array.shape[:3] == (1, 1, 1) else array for name, array in named.items()}
    kernel = flat["resnet/head/conv2d/kernel"]
    return flat | {"resnet/head/conv2d/kernel": kernel[None, None]}


def big_transfer_name(name: str) -> str:
    *place, module, leaf = name.split("/")
    part = {"1": "a/", "2": "b/", "3": "c/"}.get(module[-1], "")
    if module == "head":
        module = "head/conv2d"
    elif module == "conv_proj":
        module = "a/proj/standardized_conv2d"
    elif module.startswith("conv"):
        module = f"{part}standardized_conv2d"
    else:
        module, leaf = f"{part}group_norm", {"scale": "gamma", "bias": "beta"}[leaf]
    return "/".join(["resnet", *place, module, leaf])


def units(layers: Sequence[int], stem: int, name: str) -> Iterable[tuple[str, int, int]]:
    """The name, the input width and the inner width of each unit of a ResNet."""
    inputs = stem
    for i, count in enumerate(layers):
        mid = stem * 2**i
        for j in range(count):
            yield name.format(i + 1, j + 1), inputs, mid
            inputs = mid * BOTTLENECK


def unit_convs(rng: np.random.Generator, inputs: int, mid: int) -> Arrays:
    outputs = mid * BOTTLENECK
    shapes = {"conv1": (1, inputs, mid), "conv2": (3, mid, mid), "conv3": (1, mid, outputs)}
    if inputs != outputs:
        shapes["conv_proj"] = (1, inputs, outputs)
    return joined((name, conv(rng, *shape)) for name, shape in shapes.items())


def post_activation_norms(rng: np.random.Generator, inputs: int, mid: int, lead: tuple[int, ...]) -> Arrays:
    outputs = mid * BOTTLENECK
    widths = {"gn1": mid, "gn2": mid, "gn3": outputs} | ({"gn_proj": outputs} if inputs != outputs else {})
    return joined((name, norm(rng, *lead, width)) for name, width in widths.items())


def tokens(rng: np.random.Generator, layout: str, head: str, patches: int, dim: int) -> Arrays:
    """The class token and the positions, faint enough for the epsilon of the first norm to show."""
    own_row = layout == "original" and head == "cls"
    positions = "Transformer/posembed_input/pos_embedding" if layout == "original" else "pos_embedding"
    arrays = {positions: normals(rng, 1, patches + own_row, dim, spread=0.05)}
    return arrays | ({"cls": normals(rng, 1, 1, dim, spread=0.05)} if head == "cls" else {})


def encoder(rng: np.random.Generator, layout: str, blocks: list[Arrays], dim: int) -> Arrays:
    if layout == "big_vision-scan":
        named = under("encoderblock", {name: np.stack([block[name] for block in blocks]) for name in blocks[0]})
    else:
        named = joined((f"encoderblock_{i}", block) for i, block in enumerate(blocks))
    return under("Transformer", named | under("encoder_norm", norm(rng, dim)))


def encoder_block(rng: np.random.Generator, layout: str, dim: int, heads: int, mlp: int) -> Arrays:
    parts = norm(rng, dim), attention(rng, dim, heads), norm(rng, dim), mlp_block(rng, dim, mlp)
    return joined(zip(BLOCK_NAMES[layout.removesuffix("-scan")], parts, strict=True))


def map_head(rng: np.random.Generator, dim: int, heads: int, mlp: int) -> Arrays:
    _, attends, _, widens = BLOCK_NAMES["big_vision"]
    arrays = {"probe": normals(rng, 1, 1, dim, spread=1.0)} | under("LayerNorm_0", norm(rng, dim))
    return arrays | under(attends, attention(rng, dim, heads)) | under(widens, mlp_block(rng, dim, mlp))


def attention(rng: np.random.Generator, dim: int, heads: int) -> Arrays:
    split = (heads, dim // heads)
    arrays = joined((name, dense(rng, (dim,), split)) for name in ("query", "key", "value"))
    return arrays | under("out", dense(rng, split, (dim,)))


def mlp_block(rng: np.random.Generator, dim: int, mlp: int) -> Arrays:
    return under("Dense_0", dense(rng, (dim,), (mlp,))) | under("Dense_1", dense(rng, (mlp,), (dim,)))


def classifier(rng: np.random.Generator, dim: int, hidden: int, classes: int) -> Arrays:
    arrays = under("pre_logits", dense(rng, (dim,), (hidden,))) if hidden else {}
    return arrays | under("head", dense(rng, (hidden or dim,), (classes,)))


def dense(rng: np.random.Generator, inputs: tuple[int, ...], outputs: tuple[int, ...], gain: float = 1.0) -> Arrays:
    kernel = normals(rng, *inputs, *outputs, spread=gain / math.sqrt(math.prod(inputs)))
    return {"kernel": kernel, "bias": normals(rng, *outputs, spread=0.1 * gain)}


def conv(rng: np.random.Generator, size: int, inputs: int, outputs: int) -> Arrays:
    """A kernel for weight standardization: its outputs differ in mean and in spread, so that the epsilon shows."""
    spread = 10 ** rng.uniform(-1.5, 0, outputs) / math.sqrt(size * size * inputs)
    draws = rng.standard_normal((size, size, inputs, outputs), np.float32)
    return {"kernel": (draws + np.float32(0.5)) * spread.astype(np.float32)}


def norm(rng: np.random.Generator, *shape: int) -> Arrays:
    scale = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return {"scale": scale, "bias": normals(rng, *shape, spread=0.1)}


def normals(rng: np.random.Generator, *shape: int, spread: float) -> np.ndarray:
    return (spread * rng.standard_normal(shape)).astype(np.float32)


def under(place: str, arrays: Arrays) -> Arrays:
    return {f"{place}/{name}": array for name, array in arrays.items()}


def joined(parts: Iterable[tuple[str, Arrays]]) -> Arrays:
    return {name: array for place, arrays in parts for name, array in under(place, arrays).items()}
