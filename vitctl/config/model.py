"""What a model is: one frozen dataclass that says everything, and the names that people use for it.

    vit-b/16                 a Vision Transformer of Table 1, at any patch size
    r50+vit-b/16, r+vit-ti/16    a hybrid: the feature map of a ResNet, cut into patches
    axial-vit-b/16           row attention and MLP, then column attention and MLP (appendix D.6)
    bit-r50x1                the ResNet baseline (BiT: group normalization, standardized convolutions)
    timm:NAME                any model of timm

A spec holds every size itself, so what a name means may never change under weights that were saved with it.
"""

import dataclasses
import math
import re
from dataclasses import dataclass
from itertools import dropwhile
from typing import Annotated, Any, Literal

from vitctl.config.checks import BelowOne, Between, CountOrZero, Pixels, Range, Share, check_config, require
from vitctl.config.res import Res
from vitctl.errors import ConfigError, did_you_mean
from vitctl.patches import round_to


@dataclass(frozen=True)
class Size:
    """A row of Table 1."""

    dim: int
    depth: int
    heads: int
    mlp: int


SIZES = {
    "mu": Size(32, 1, 2, 128),  # big_vision's, for tests
    "ti": Size(192, 12, 3, 768),  # DeiT
    "s": Size(384, 12, 6, 1536),  # DeiT
    "b": Size(768, 12, 12, 3072),  # Table 1
    "l": Size(1024, 24, 16, 4096),  # Table 1
    "h": Size(1280, 32, 16, 5120),  # Table 1
    "g": Size(1408, 40, 16, 6144),  # "Scaling Vision Transformers", Table 2
    "gg": Size(1664, 48, 16, 8192),  # the same, G
}

CUTS = {  # (ResNet, reach of a token in pixels) -> blocks of each stage, patch on the feature map
    ("r", 16): ((), 8),  # the stem alone, 8x8 patches of it: the official model says /16, and reaches 32 pixels
    ("r26", 32): ((2, 2, 2, 2), 1),
    ("r50", 16): ((3, 4, 9), 1),  # the paper's second way: stage 4 is dropped and its blocks go to stage 3
    ("r50", 32): ((3, 4, 6, 3), 1),  # the first way: the output of stage 4
}

RESNETS = {"r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3), "r152": (3, 8, 36, 3), "r200": (3, 24, 36, 3)}  # BiT

LISTED = (
    "vit-mu/16", "vit-ti/16", "vit-s/32", "vit-s/16", "vit-b/32", "vit-b/16", "vit-b/8", "vit-l/32", "vit-l/16",
    "vit-h/14", "vit-g/14", "vit-gg/14",
    "r+vit-ti/16", "r26+vit-s/32", "r26+vit-b/32", "r50+vit-b/32", "r50+vit-b/16", "r50+vit-l/32", "r50+vit-l/16",
    "axial-vit-b/32", "axial-vit-b/16",
    "bit-r50x1", "bit-r50x2", "bit-r101x1", "bit-r152x1", "bit-r152x2", "bit-r200x3",
)  # fmt: skip

EXAFLOPS = {  # Table 6: pretraining on JFT for 7 epochs, or for those in brackets
    "vit-b/32": "55", "vit-b/16": "224", "vit-l/32": "196", "vit-l/16": "783; 1567 (14)", "vit-h/14": "4262 (14)",
    "bit-r50x1": "50", "bit-r50x2": "199", "bit-r101x1": "96", "bit-r152x1": "141", "bit-r152x2": "563; 1126 (14)",
    "bit-r200x3": "3306 (14)", "r50+vit-b/32": "106", "r50+vit-b/16": "274", "r50+vit-l/32": "246",
    "r50+vit-l/16": "859; 1668 (14)",
}  # fmt: skip

Depth = Annotated[int, Range(1, 10_000)]
Width = Annotated[int, Range(1, 1_000_000)]
Head = Literal["cls", "gap", "map"]
Positions = Literal["none", "1d", "2d", "relative", "sincos", "sincos-mae", "rope", "1d+rope"]
Added = Literal["stem", "every", "shared"]
Norm = Literal["tokens", "pooled"]
Gelu = Literal["tanh", "erf", "quick"]
Init = Literal["official", "mae", "mimetic"]


@dataclass(frozen=True)
class Rope:
    """Rotary positions: the row and the column of a patch, times these frequencies, turn its queries and keys."""

    place: Literal["center", "index"] = "center"  # DINOv3's, from -1 to 1 on any grid; or EVA's 0, 1, 2, ...
    temperature: Annotated[float, Range(1, 1_000_000_000)] = 100.0  # from the highest frequency to the lowest
    grid: tuple[Annotated[int, Range(1, 100_000)], ...] = ()  # to which indices are scaled, on any grid (EVA)
    offset: Annotated[float, Range(-1000, 1000)] = 0.0  # added to the indices
    order: Literal["yx", "xy"] = "yx"  # which of the two turns the first half

    def __post_init__(self) -> None:
        check_config(self, "rope.")


@dataclass(frozen=True)
class ModelSpec:
    name: str
    family: Literal["vit", "hybrid", "axial", "bit", "timm"] = "vit"
    height: Pixels = 224
    width: Pixels = 224
    channels: Annotated[int, Range(1, 10_000)] = 3
    classes: Annotated[int, Range(0, 100_000_000)] = 1000  # 0: features only
    patch: Pixels = 16  # of the image; of the feature map in a hybrid
    dim: Width = 768  # D
    depth: Depth = 12
    heads: Width = 12
    mlp: Width = 3072
    layers: tuple[Depth, ...] = ()  # blocks of each ResNet stage
    factor: Annotated[int, Range(1, 1000)] = 1  # width of a BiT ResNet
    head: Head = "cls"
    class_token: bool = True
    class_position: bool = True  # the class token has a position too: in the paper's code, not in big_vision's
    registers: CountOrZero = 0
    hidden: CountOrZero = 0  # width of the pre-logits layer (dense, then tanh) that pretraining puts before the head
    positions: Positions = "1d"
    added: Added = "stem"  # before the first block; before each; the same before each
    norm: Norm | Literal["none"] = (
        "tokens"  # what the last norm is applied to: before pooling, or after it; or there is none
    )
    layer_scale: bool = False  # DINOv2's and DeiT III's
    qkv_bias: bool = True
    gelu: Gelu = "tanh"  # the official code's is tanh, timm's erf, CLIP's quick
    norm_eps: Between = 1e-6
    numerics: Literal["official", "timm"] = "official"  # of the ResNet part of a hybrid
    dropout: Share = 0.0
    drop_path: Share = 0.0
    pad: bool = False  # images that patches do not divide are padded below and on the right
    timm_args: str = ""  # JSON: arguments with which timm builds its own model, beside those above
    rope: Rope = Rope()  # of positions that are rotary
    swiglu: bool = False  # MLPs are gated by a SiLU (DINOv2's giant, EVA02)
    qk_norm: bool = False  # queries and keys are normalized in every head
    key_bias: bool = True  # where queries and values have a bias, keys have one too: not in EVA and DINOv3
    attn_norm: bool = False  # a norm before the projection of the attention (EVA02's CLIP)
    mlp_norm: bool = False  # a norm before the second layer of the MLP (EVA02)
    pre_norm: bool = False  # a norm before the first block, and no bias of the patches (CLIP)
    pool_heads: CountOrZero = 0  # of head map; 0: as many as in a block
    pool_mlp: CountOrZero = 0  # of head map; 0: as wide as in a block
    pool_prefix: bool = False  # head map reads the class token and registers too
    patch_dropout: BelowOne = 0.0

    def __post_init__(self) -> None:
        check_config(self)
        if self.family in ("vit", "hybrid", "axial"):
            self.check_transformer()
        require(
            not self.patch_dropout
            or (self.family in ("vit", "hybrid") and self.added == "stem" and not self.is_rotary),
            f"{self.name}: patch dropout needs a transformer whose positions are added at the stem alone",
        )

    def check_transformer(self) -> None:
        require(self.dim % self.heads == 0, f"{self.name}: {self.heads} heads do not divide a width of {self.dim}")
        require(self.head != "cls" or self.class_token, f"{self.name}: head cls needs the class token; take gap or map")
        require(
            self.positions != "relative" or self.added != "stem",
            f"{self.name}: relative positions act in every layer; set added to every, or to shared for one table",
        )
        require(
            self.added == "stem" or self.positions != "none",
            f"{self.name}: positions none cannot be added anywhere; leave added at stem",
        )
        divisor = {"2d": 2, "sincos": 4, "sincos-mae": 4}.get(self.positions, 1)
        require(self.dim % divisor == 0, f"{self.name}: {self.positions} positions need a width that {divisor} divides")
        require(
            not self.is_rotary or (self.added == "stem" and self.dim // self.heads % 4 == 0),
            f"{self.name}: rotary positions act in every block, on heads whose width 4 divides; this has heads of "
            f"{self.dim // self.heads} and added {self.added}",
        )
        if self.family == "axial":
            require(
                not self.class_token and not self.registers and self.positions != "relative" and not self.is_rotary,
                f"{self.name}: rows and columns have no place for a class token, registers or relative or rotary "
                "positions; set head to gap or map",
            )
        self.check_size()

    def check_size(self) -> None:
        """Tokens must cover the image: padded, or the nearest sizes are named."""
        reach, size = self.reach, f"{self.height}x{self.width}"
        require(
            min(self.height, self.width) >= reach,
            f"{self.name}: a patch of {reach}x{reach} is larger than an image of {size}",
        )
        if not self.pad and (self.height % reach or self.width % reach):
            near = dict.fromkeys(
                f"{round_to(self.height, reach, up)}x{round_to(self.width, reach, up)}" for up in (False, True)
            )
            raise ConfigError(
                f"{self.name}: patches of {reach} do not divide an image of {size}; the nearest are "
                f"{' and '.join(near)}, or pad them by --set pad=true"
            )

    @property
    def res(self) -> Res:
        return Res(self.height, self.width)

    @property
    def stride(self) -> int:
        """Pixels a cell of the ResNet's feature map; 1 where there is none."""
        if self.family not in ("hybrid", "bit"):
            return 1
        return int(4 * 2 ** max(0, len(self.layers) - 1))

    @property
    def reach(self) -> int:
        """Pixels a token covers, each way."""
        return self.patch * self.stride

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens in a column and in a row."""
        return math.ceil(self.height / self.reach), math.ceil(self.width / self.reach)

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches."""
        return int(self.class_token) + self.registers

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] + self.prefix

    @property
    def is_rotary(self) -> bool:
        return self.positions in ("rope", "1d+rope")

    @property
    def position_rows(self) -> int:
        """Rows of a table with one position a token; registers have none unless the class token has one."""
        return self.grid[0] * self.grid[1] + (self.prefix if self.class_position else 0)

    def replace(self, **options: Any) -> "ModelSpec":
        """A copy with these fields; a head without a class token drops the token, and the other way round."""
        is_new = options.get("head", self.head) != self.head
        if is_new and "class_token" not in options and self.family != "bit":
            token = options["head"] == "cls"
            options |= {"class_token": token, "class_position": token}
        return dataclasses.replace(self, **options)

    def as_dict(self) -> dict[str, Any]:
        """All fields; of those that 0.1 did not have, only the ones that say something: digests stay as they were."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in SINCE_02 or value != SINCE_02[name]
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "ModelSpec":
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        require(not unknown, f"this spec is of a newer version: it has {', '.join(unknown)}")
        try:
            rope = fields.get("rope", {})
            rope = Rope(**rope | {"grid": tuple(rope.get("grid", ()))})
            return cls(**(fields | {"layers": tuple(fields.get("layers", ())), "rope": rope}))
        except TypeError as error:
            raise ConfigError(f"this is not the spec of a model: {error}") from error


def model_spec(name: str, **options: Any) -> ModelSpec:
    """The spec that a name means, with other fields as given: `model_spec("vit-b/16", height=384, width=384)`."""
    if name.startswith("timm:"):
        require(len(name) > 5, "timm: wants a model's name behind it, as in timm:vit_base_patch16_224")
        return ModelSpec(name, "timm").replace(**options)
    text = name.strip().lower()
    for pattern, read in (
        (r"vit-([a-z]+)/([0-9]{1,3})", read_vit),
        (r"axial-vit-([a-z]+)/([0-9]{1,3})", read_axial),
        (r"(r[0-9]*)\+vit-([a-z]+)/([0-9]{1,3})", read_hybrid),
        (r"bit-(r[0-9]+)x([0-9])", read_bit),
    ):
        match = re.fullmatch(pattern, text)
        if match:
            return ModelSpec(text, **(read(*match.groups()) | complete_options(options)))
    raise ConfigError(f"model {name!r} is unknown; {nearest(text)}; vitctl models lists them")


def nearest(text: str) -> str:
    """A name that was meant: by timm's words, without the stroke, or with a slip of the finger."""
    words = re.fullmatch(r"(?:timm:)?vit_(tiny|small|base|large|huge)_patch([0-9]+)(_[0-9]+)?.*", text)
    if words:
        size = "ti" if words[1] == "tiny" else words[1][0]
        return f"did you mean 'vit-{size}/{words[2]}', or timm's own 'timm:{text.removeprefix('timm:')}'?"
    joined = re.fullmatch(r"((?:axial-)?vit-[a-z]+)[-_]?([0-9]{1,3})", text)
    return f"did you mean '{joined[1]}/{joined[2]}'?" if joined else did_you_mean(text, LISTED)


def complete_options(options: dict[str, Any]) -> dict[str, Any]:
    """What follows from the fields that are given: a head other than cls does without the class token."""
    if options.get("head") in ("gap", "map") and "class_token" not in options:
        options = {"class_token": False, "class_position": False} | options
    return options


def read_vit(size: str, patch: str, front: str = "") -> dict[str, Any]:
    row, name = SIZES.get(size), f"{front}vit-{size}/{patch}"
    require(row is not None, f"{name}: size {size!r} is unknown; {did_you_mean(size, SIZES)}")
    require(int(patch) >= 1, f"{name}: a patch has at least one pixel")
    return {"family": "vit", "patch": int(patch), **vars(row)}


def read_axial(size: str, patch: str) -> dict[str, Any]:
    """Where the class token would stand is not in the paper: ours averages over the patches."""
    return read_vit(size, patch, "axial-") | {
        "family": "axial", "head": "gap", "class_token": False, "class_position": False}  # fmt: skip


def read_hybrid(resnet: str, size: str, reach: str) -> dict[str, Any]:
    cut = CUTS.get((resnet, int(reach)))
    known = ", ".join(f"{name}+vit-{size}/{number}" for name, number in CUTS)
    require(cut is not None, f"{resnet}+vit-{size}/{reach}: no such hybrid; known: {known}")
    assert cut is not None
    return read_vit(size, reach, f"{resnet}+") | {"family": "hybrid", "layers": cut[0], "patch": cut[1]}


SINCE_02 = dict(dropwhile(lambda item: item[0] != "timm_args", dataclasses.asdict(ModelSpec("vit")).items()))

AS_BIT: dict[str, Any] = {  # what is the same in every ResNet
    "family": "bit", "patch": 1, "head": "gap", "class_token": False, "class_position": False, "positions": "none",
}  # fmt: skip


def read_bit(resnet: str, factor: str) -> dict[str, Any]:
    layers = RESNETS.get(resnet)
    require(layers is not None, f"bit-{resnet}x{factor}: {resnet} is unknown; {did_you_mean(resnet, RESNETS)}")
    require(int(factor) >= 1, f"bit-{resnet}x{factor}: the factor is at least 1")
    return AS_BIT | {"layers": layers, "factor": int(factor)}


def model_name(family: str, size: Size, patch: int, layers: tuple[int, ...] = (), factor: int = 1) -> str:
    """The name that people would say for these numbers; a plain "vit" where no table has them."""
    if family == "bit":
        letters = next((name for name, row in RESNETS.items() if row == layers), "r")
        return f"bit-{letters}x{factor}"
    letter = next((name for name, row in SIZES.items() if row == size), None)
    if letter is None:
        return "vit"
    if family == "hybrid":
        known = (f"{name}+vit-{letter}/{reach}" for (name, reach), cut in CUTS.items() if cut == (layers, patch))
        return next(known, "hybrid")
    return f"vit-{letter}/{patch}"
