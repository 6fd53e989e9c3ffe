"""The table of names in timm and in Hugging Face, for reading and writing."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from vitctl.config.model import ModelSpec


@dataclass(frozen=True)
class Naming:
    """The names in a file of the parts of a layer."""

    layers: str
    attention: tuple[str, str, str]  # query, key, value: one tensor in timm
    output: str
    fc1: str
    fc2: str
    norms: tuple[str, str] = ("layernorm_before", "layernorm_after")
    prefix: str = ""  # "vit." in a model with a head

    @property
    def is_dino(self) -> bool:
        return self.norms[0] == "norm1"


CLASSIC = Naming(
    "encoder.layer", ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.output.dense", "intermediate.dense", "output.dense",
)  # fmt: skip
RENAMED = Naming(
    "layers", ("attention.q_proj", "attention.k_proj", "attention.v_proj"), "attention.o_proj", "mlp.fc1", "mlp.fc2"
)
DINO = replace(CLASSIC, fc1="mlp.fc1", fc2="mlp.fc2", norms=("norm1", "norm2"))  # DINOv2's
DINO_RENAMED = replace(DINO, attention=RENAMED.attention, output=RENAMED.output)
ROOT = r"(vit\.|dinov2\.|dinov2_with_registers\.)?"


@dataclass(frozen=True)
class HFTensorRow:
    ours: str
    theirs: tuple[str, ...]  # several are concatenated along the first axis of ours
    shape: tuple[int, ...]  # of each tensor of theirs


def hf_tensor_rows(spec: ModelSpec, naming: Naming) -> Iterator[HFTensorRow]:
    """One row for every tensor of the model."""
    dim, root = spec.dim, naming.prefix
    yield HFTensorRow("cls_token", (f"{root}embeddings.cls_token",), (1, 1, dim))
    yield HFTensorRow("pos_embed", (f"{root}embeddings.position_embeddings",), (1, spec.tokens - spec.registers, dim))
    if spec.registers:
        yield HFTensorRow("reg_token", (f"{root}embeddings.register_tokens",), (1, spec.registers, dim))
    kernel = (dim, spec.channels, spec.patch, spec.patch)
    yield from affine("patch_embed.proj", (f"{root}embeddings.patch_embeddings.projection",), kernel)
    for index in range(spec.depth):
        yield from hf_block_rows(spec, naming, index)
    yield from affine("norm", (f"{root}layernorm",), (dim,))
    if spec.hidden:
        yield from affine("pre_logits.fc", (f"{root}pooler.dense",), (spec.hidden, dim))
    if spec.classes:
        yield from affine("head", ("classifier",), (spec.classes, dim))


def hf_block_rows(spec: ModelSpec, naming: Naming, index: int) -> Iterator[HFTensorRow]:
    here, there = f"blocks.{index}", f"{naming.prefix}{naming.layers}.{index}"
    dim, mlp = spec.dim, spec.mlp
    yield from affine(f"{here}.norm1", (f"{there}.{naming.norms[0]}",), (dim,))
    parts = tuple(f"{there}.{part}" for part in naming.attention)
    yield from affine(f"{here}.attn.qkv", parts, (dim, dim), spec.qkv_bias)
    yield from affine(f"{here}.attn.proj", (f"{there}.{naming.output}",), (dim, dim))
    yield from affine(f"{here}.norm2", (f"{there}.{naming.norms[1]}",), (dim,))
    yield from affine(f"{here}.mlp.fc1", (f"{there}.{naming.fc1}",), (mlp, dim))
    yield from affine(f"{here}.mlp.fc2", (f"{there}.{naming.fc2}",), (dim, mlp))
    if spec.layer_scale:
        for number in (1, 2):
            yield HFTensorRow(f"{here}.ls{number}.gamma", (f"{there}.layer_scale{number}.lambda1",), (dim,))


def affine(ours: str, theirs: tuple[str, ...], shape: tuple[int, ...], bias: bool = True) -> Iterator[HFTensorRow]:
    """A weight, and a bias as long as the weight's first axis."""
    yield HFTensorRow(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs), shape)
    if bias:
        yield HFTensorRow(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), shape[:1])


def looks_like(names: Iterable[str]) -> bool:
    """Whether embeddings and layers have the names of Hugging Face's ViT or DINOv2."""
    known = list(names)
    embeddings = rf"{ROOT}embeddings\.(cls_token|position_embeddings|patch_embeddings\.projection\.\w+)"
    layer = rf"{ROOT}(encoder\.layer|layers)\.\d+\.(layernorm_(before|after)|norm[12])\.\w+"
    return all(any(re.fullmatch(pattern, name) for name in known) for pattern in (embeddings, layer))


def detect_naming(names: Iterable[str]) -> Naming:
    known = list(names)
    matches = (re.match(rf"{ROOT}(embeddings|encoder|layers)\.", name) for name in known)
    prefix = next((match[1] for match in matches if match and match[1]), "")
    if any(name.endswith(".layer_scale1.lambda1") for name in known):
        is_classic = any(".attention.attention.query." in name for name in known)
        return replace(DINO if is_classic else DINO_RENAMED, prefix=prefix)
    style = RENAMED if any(re.match(rf"{ROOT}layers\.\d+\.", name) for name in known) else CLASSIC
    return replace(style, prefix=prefix)
