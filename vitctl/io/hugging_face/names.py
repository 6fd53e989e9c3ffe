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
    fc1: tuple[str, ...]  # one, or gates and values
    fc2: str
    norms: tuple[str, str] = ("layernorm_before", "layernorm_after")
    prefix: str = ""  # "vit." in a model with a head
    patches: str = "embeddings.patch_embeddings.projection"
    norm: str = "layernorm"
    registers: str = "embeddings.register_tokens"

    @property
    def is_dino(self) -> bool:
        return self.norms[0] == "norm1"

    @property
    def is_rotary(self) -> bool:
        """DINOv3's."""
        return self.norm == "norm"

    @property
    def is_distilled(self) -> bool:
        """DeiT's, whose distillation token is a register here, with a position."""
        return self.registers == DISTILLED


DISTILLED = "embeddings.distillation_token"
CLASSIC = Naming(
    "encoder.layer", ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.output.dense", ("intermediate.dense",), "output.dense",
)  # fmt: skip
RENAMED = Naming(
    "layers", ("attention.q_proj", "attention.k_proj", "attention.v_proj"), "attention.o_proj", ("mlp.fc1",),
    "mlp.fc2",
)  # fmt: skip
DINO = replace(CLASSIC, fc1=("mlp.fc1",), fc2="mlp.fc2", norms=("norm1", "norm2"))  # DINOv2's
DINO_RENAMED = replace(DINO, attention=RENAMED.attention, output=RENAMED.output)
DINO_3 = replace(DINO_RENAMED, patches="embeddings.patch_embeddings", norm="norm")
GATED = {  # the first layer of an MLP, the last
    ".mlp.weights_in.weight": (("mlp.weights_in",), "mlp.weights_out"),  # gates and values in one
    ".mlp.gate_proj.weight": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    ".mlp.up_proj.weight": (("mlp.up_proj",), "mlp.down_proj"),  # no gate
}
ROOT = r"(vit\.|deit\.|dinov2\.|dinov2_with_registers\.)?"
LAYERS = r"encoder\.layer|layers|(?:model\.)?layer"


@dataclass(frozen=True)
class HFTensorRow:
    ours: str
    theirs: tuple[str, ...]  # several are concatenated along the first axis of ours
    shape: tuple[int, ...]  # of each tensor of theirs
    zero: int | None = None  # a part of ours that they do not have: zeros


def hf_tensor_rows(spec: ModelSpec, naming: Naming) -> Iterator[HFTensorRow]:
    """One row for every tensor of the model."""
    dim, root = spec.dim, naming.prefix
    yield HFTensorRow("cls_token", (f"{root}embeddings.cls_token",), (1, 1, dim))
    if not naming.is_rotary:
        rows = spec.tokens - (0 if naming.is_distilled else spec.registers)
        yield HFTensorRow("pos_embed", (f"{root}embeddings.position_embeddings",), (1, rows, dim))
    if spec.registers:
        yield HFTensorRow("reg_token", (root + naming.registers,), (1, spec.registers, dim))
    kernel = (dim, spec.channels, spec.patch, spec.patch)
    yield from affine("patch_embed.proj", (root + naming.patches,), kernel)
    for index in range(spec.depth):
        yield from hf_block_rows(spec, naming, index)
    yield from affine("norm", (root + naming.norm,), (dim,))
    if spec.hidden:
        yield from affine("pre_logits.fc", (f"{root}pooler.dense",), (spec.hidden, dim))
    if spec.classes:
        yield from affine("head", ("classifier",), (spec.classes, dim))


def hf_block_rows(spec: ModelSpec, naming: Naming, index: int) -> Iterator[HFTensorRow]:
    here, there = f"blocks.{index}", f"{naming.prefix}{naming.layers}.{index}"
    dim, mlp = spec.dim, spec.mlp * (1 + spec.swiglu)
    yield from affine(f"{here}.norm1", (f"{there}.{naming.norms[0]}",), (dim,))
    parts = tuple(f"{there}.{part}" for part in naming.attention)
    yield from affine(f"{here}.attn.qkv", parts, (dim, dim), spec.qkv_bias and spec.key_bias)
    if spec.qkv_bias and not spec.key_bias:
        yield HFTensorRow(f"{here}.attn.qkv.bias", (f"{parts[0]}.bias", f"{parts[2]}.bias"), (dim,), zero=1)
    yield from affine(f"{here}.attn.proj", (f"{there}.{naming.output}",), (dim, dim))
    yield from affine(f"{here}.norm2", (f"{there}.{naming.norms[1]}",), (dim,))
    first = tuple(f"{there}.{part}" for part in naming.fc1)
    yield from affine(f"{here}.mlp.fc1", first, (mlp // len(first), dim))
    yield from affine(f"{here}.mlp.fc2", (f"{there}.{naming.fc2}",), (dim, spec.mlp))
    if spec.layer_scale:
        for number in (1, 2):
            yield HFTensorRow(f"{here}.ls{number}.gamma", (f"{there}.layer_scale{number}.lambda1",), (dim,))


def affine(ours: str, theirs: tuple[str, ...], shape: tuple[int, ...], bias: bool = True) -> Iterator[HFTensorRow]:
    """A weight, and a bias as long as the weight's first axis."""
    yield HFTensorRow(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs), shape)
    if bias:
        yield HFTensorRow(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), shape[:1])


def looks_like(names: Iterable[str]) -> bool:
    """Whether embeddings and layers have the names of Hugging Face's ViT, DeiT, DINOv2 or DINOv3."""
    known = list(names)
    embeddings = rf"{ROOT}embeddings\.(cls_token|position_embeddings|patch_embeddings\.(projection\.)?\w+)"
    layer = rf"{ROOT}({LAYERS})\.\d+\.(layernorm_(before|after)|norm[12])\.\w+"
    return all(any(re.fullmatch(pattern, name) for name in known) for pattern in (embeddings, layer))


def detect_naming(names: Iterable[str]) -> Naming:
    known = list(names)
    matches = [match for name in known if (match := re.match(rf"{ROOT}({LAYERS})\.\d+\.", name))]
    prefix, layers = matches[0][1] or "", matches[0][2]
    if not any(name.endswith(".layer_scale1.lambda1") for name in known):
        naming = RENAMED if layers == "layers" else CLASSIC
    elif any(name.endswith("embeddings.patch_embeddings.weight") for name in known):
        naming = DINO_3
    else:
        naming = DINO if any(".attention.attention.query." in name for name in known) else DINO_RENAMED
    for ending, (first, last) in GATED.items():
        if any(name.endswith(ending) for name in known):
            naming = replace(naming, fc1=first, fc2=last)
            break
    if prefix + DISTILLED in known:
        naming = replace(naming, registers=DISTILLED)
    return replace(naming, prefix=prefix, layers=layers)
