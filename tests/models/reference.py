"""The official models once more, in float64 NumPy from their definitions: what vitctl's models must equal.

Each forward takes the arrays of an official npz file and images [B, height, width, C] already normalized, and answers
the features (what `pre_logits` hands to the head) and the logits [B, K].
Letters: B batch, N tokens, D width, H heads, P patch, C channels, K classes.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]
Weights = dict[str, Array]
Outputs = tuple[Array, Array]
Pads = tuple[tuple[int, int], tuple[int, int]]

PREFIXES = ("params/img/", "params/", "opt/target/", "resnet/")
UNIT = re.compile(r"block(\d+)/unit(\d+)")
NO_PADS: Pads = ((0, 0), (0, 0))


def vit(arrays: Mapping[str, np.ndarray], images: np.ndarray, gelu: str = "tanh") -> Outputs:
    weights = as_float64(arrays)
    x = with_positions(weights, patch_tokens(part(weights, "embedding"), images.astype(np.float64)))
    for block in encoder_blocks(part(weights, "Transformer")):
        x = encoder_block(block, x, gelu)
    x = layer_norm(part(weights, "Transformer/encoder_norm"), x)
    return classified(weights, pooled(weights, x, gelu))


def hybrid(
    arrays: Mapping[str, np.ndarray], images: np.ndarray, gelu: str = "tanh", patch: int | None = None
) -> Outputs:
    """`patch` is read from the arrays; given, it must be theirs."""
    weights = as_float64(arrays)
    if patch not in (None, len(weights["embedding/kernel"])):
        raise ValueError(f"the arrays have patches of {len(weights['embedding/kernel'])}, not {patch}")
    return vit(weights, hybrid_features(weights, images.astype(np.float64)), gelu)


def bit(arrays: Mapping[str, np.ndarray], images: np.ndarray) -> Outputs:
    weights = as_big_vision(as_float64(arrays))
    x = conv(images.astype(np.float64), bit_kernel(weights["root_block/conv_root/kernel"]), 2, ((3, 3), (3, 3)))
    x = max_pool(x, ((1, 1), (1, 1)), 0.0)
    for name, stride in residual_units(weights):
        x = pre_activation_unit(part(weights, name), x, stride)
    features = relu(group_norm(part(weights, "norm-pre-head"), x, 1e-5)).mean((1, 2))
    return features, dense(part(weights, "head"), features)


def as_float64(arrays: Mapping[str, np.ndarray]) -> Weights:
    """The arrays without the layout's prefix."""
    prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in arrays)), "")
    return {name.removeprefix(prefix): array.astype(np.float64) for name, array in arrays.items()}


def part(weights: Weights, place: str) -> Weights:
    return {name.removeprefix(f"{place}/"): array for name, array in weights.items() if name.startswith(f"{place}/")}


def patch_tokens(embedding: Weights, images: Array) -> Array:
    patch = embedding["kernel"].shape[0]
    rows, columns = images.shape[1] // patch, images.shape[2] // patch
    whole = images[:, : rows * patch, : columns * patch]
    patches = whole.reshape(len(images), rows, patch, columns, patch, -1)
    x = np.einsum("bipjqc,pqcd->bijd", patches, embedding["kernel"]) + embedding["bias"]
    return x.reshape(len(images), rows * columns, -1)


def with_positions(weights: Weights, x: Array) -> Array:
    """The original gives the class token a position; big_vision puts it in front after the positions."""
    first = np.repeat(weights["cls"], len(x), axis=0) if "cls" in weights else x[:, :0]
    if "pos_embedding" in weights:
        return np.concatenate([first, x + weights["pos_embedding"]], axis=1)
    return np.concatenate([first, x], axis=1) + weights["Transformer/posembed_input/pos_embedding"]


def encoder_blocks(encoder: Weights) -> list[Weights]:
    stacked = part(encoder, "encoderblock")
    if stacked:
        depth = len(stacked["LayerNorm_0/scale"])
        return [{name: array[i] for name, array in stacked.items()} for i in range(depth)]
    numbered = (part(encoder, f"encoderblock_{i}") for i in itertools.count())
    return list(itertools.takewhile(bool, numbered))


def encoder_block(block: Weights, x: Array, gelu: str) -> Array:
    """Pre-norm attention and MLP; the original numbers the four modules through, big_vision each kind by itself."""
    attends, norms, widens = (1, 2, 3) if "MlpBlock_3/Dense_0/kernel" in block else (0, 1, 0)
    y = layer_norm(part(block, "LayerNorm_0"), x)
    x = x + attention(part(block, f"MultiHeadDotProductAttention_{attends}"), y, y)
    y = layer_norm(part(block, f"LayerNorm_{norms}"), x)
    return x + mlp(part(block, f"MlpBlock_{widens}"), y, gelu)


def attention(weights: Weights, asks: Array, answers: Array) -> Array:
    def heads(name: str, x: Array) -> Array:
        return np.einsum("bnd,dhe->bhne", x, weights[f"{name}/kernel"]) + weights[f"{name}/bias"][:, None]

    q, k, v = heads("query", asks), heads("key", answers), heads("value", answers)
    shares = softmax(np.einsum("bhqe,bhke->bhqk", q, k) / math.sqrt(q.shape[-1]))
    return np.einsum("bhqk,bhke,hed->bqd", shares, v, weights["out/kernel"], optimize=True) + weights["out/bias"]


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def mlp(weights: Weights, x: Array, gelu: str) -> Array:
    return dense(part(weights, "Dense_1"), GELUS[gelu](dense(part(weights, "Dense_0"), x)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


GELUS: dict[str, Callable[[Array], Array]] = {"tanh": gelu_tanh, "erf": gelu_erf}


def dense(weights: Weights, x: Array) -> Array:
    return x @ weights["kernel"] + weights["bias"]


def layer_norm(weights: Weights, x: Array) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6) * weights["scale"] + weights["bias"]


def pooled(weights: Weights, x: Array, gelu: str) -> Array:
    head = part(weights, "MAPHead_0")
    if head:
        return map_pooled(head, x, gelu)
    return x[:, 0] if "cls" in weights else x.mean(1)


def map_pooled(head: Weights, x: Array, gelu: str) -> Array:
    probe = np.repeat(head["probe"], len(x), axis=0)
    y = attention(part(head, "MultiHeadDotProductAttention_0"), probe, x)
    y = y + mlp(part(head, "MlpBlock_0"), layer_norm(part(head, "LayerNorm_0"), y), gelu)
    return y[:, 0]


def classified(weights: Weights, features: Array) -> Outputs:
    hidden = part(weights, "pre_logits")
    if hidden:
        features = np.tanh(dense(hidden, features))
    return features, dense(part(weights, "head"), features)


def hybrid_features(weights: Weights, x: Array) -> Array:
    x = same_conv(x, hybrid_kernel(weights["conv_root/kernel"]), 2)
    x = relu(group_norm(part(weights, "gn_root"), x, 1e-6))
    x = max_pool(x, same_pads(x, 3, 2), -math.inf)
    for name, stride in residual_units(weights):
        x = post_activation_unit(part(weights, name), x, stride)
    return x


def residual_units(weights: Weights) -> list[tuple[str, int]]:
    """The name and the stride of each: the first unit of every stage but the first halves the map."""
    units = {match[0]: (int(match[1]), int(match[2])) for match in map(UNIT.match, weights) if match}
    return [(name, 2 if i > 1 and j == 1 else 1) for name, (i, j) in sorted(units.items(), key=lambda item: item[1])]


def post_activation_unit(unit: Weights, x: Array, stride: int) -> Array:
    """A bottleneck of ResNet V1 with the stride in its 3x3."""

    def step(number: str, x: Array, stride: int = 1) -> Array:
        y = same_conv(x, hybrid_kernel(unit[f"conv{number}/kernel"]), stride)
        return group_norm(part(unit, f"gn{number}"), y, 1e-6)

    residual = step("_proj", x, stride) if "conv_proj/kernel" in unit else x
    y = relu(step("2", relu(step("1", x)), stride))
    return relu(residual + step("3", y))


def pre_activation_unit(unit: Weights, x: Array, stride: int) -> Array:
    """A bottleneck of ResNet V2: the projection too reads the activated input."""

    def activated(number: int, x: Array) -> Array:
        return relu(group_norm(part(unit, f"gn{number}"), x, 1e-5))

    kernels = {name: bit_kernel(kernel) for name, kernel in unit.items() if name.endswith("kernel")}
    first = activated(1, x)
    residual = conv(first, kernels["conv_proj/kernel"], stride) if "conv_proj/kernel" in unit else x
    y = activated(2, conv(first, kernels["conv1/kernel"]))
    y = activated(3, conv(y, kernels["conv2/kernel"], stride, ((1, 1), (1, 1))))
    return residual + conv(y, kernels["conv3/kernel"])


def hybrid_kernel(kernel: Array) -> Array:
    return (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5)


def bit_kernel(kernel: Array) -> Array:
    return (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)


def group_norm(weights: Weights, x: Array, epsilon: float) -> Array:
    groups = x.reshape(*x.shape[:3], 32, -1)
    mean = groups.mean((1, 2, 4), keepdims=True)
    variance = groups.var((1, 2, 4), keepdims=True)
    x = ((groups - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
    return x * weights["scale"].reshape(-1) + weights["bias"].reshape(-1)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def conv(x: Array, kernel: Array, stride: int = 1, pads: Pads = NO_PADS) -> Array:
    terms = (view @ kernel[place] for place, view in windows(x, kernel.shape[0], stride, pads, 0.0))
    return sum(terms)


def same_conv(x: Array, kernel: Array, stride: int) -> Array:
    return conv(x, kernel, stride, same_pads(x, kernel.shape[0], stride))


def max_pool(x: Array, pads: Pads, beyond: float) -> Array:
    """3x3 with stride 2; the edge of the map is surrounded by `beyond`."""
    return np.max([view for _, view in windows(x, 3, 2, pads, beyond)], axis=0)


def windows(x: Array, size: int, stride: int, pads: Pads, beyond: float) -> Iterator[tuple[tuple[int, int], Array]]:
    """For each place in a window, what every window sees there."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=beyond)
    rows, columns = x.shape[1] - size + 1, x.shape[2] - size + 1
    for i, j in itertools.product(range(size), repeat=2):
        yield (i, j), x[:, i : i + rows : stride, j : j + columns : stride]


def same_pads(x: Array, size: int, stride: int) -> Pads:
    """TensorFlow's SAME: ceil(length / stride) windows, the odd row of padding at the end."""
    return same_pad(x.shape[1], size, stride), same_pad(x.shape[2], size, stride)


def same_pad(length: int, size: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def as_big_vision(weights: Weights) -> Weights:
    """The names of big_transfer turned into big_vision's, which BiT's forward reads."""
    if "head/conv2d/kernel" not in weights:
        return weights
    named = {big_vision_name(name): array for name, array in weights.items()}
    return named | {"head/kernel": named["head/kernel"][0, 0]}


def big_vision_name(name: str) -> str:
    place, leaf = name.rsplit("/", 1)
    for old, new in BIG_VISION_NAMES.items():
        place = place.replace(old, new)
    leaf = {"gamma": "scale", "beta": "bias"}.get(leaf, leaf)
    return f"{place}/{leaf}"


BIG_VISION_NAMES = {
    "a/proj/standardized_conv2d": "conv_proj",
    "a/standardized_conv2d": "conv1",
    "b/standardized_conv2d": "conv2",
    "c/standardized_conv2d": "conv3",
    "root_block/standardized_conv2d": "root_block/conv_root",
    "a/group_norm": "gn1",
    "b/group_norm": "gn2",
    "c/group_norm": "gn3",
    "group_norm": "norm-pre-head",
    "head/conv2d": "head",
}
