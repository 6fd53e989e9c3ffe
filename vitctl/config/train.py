"""How a model is trained: one frozen dataclass, which recipes fill and flags change."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from vitctl.config.augment import AugmentConfig
from vitctl.config.checks import (
    COUNT,
    AboveZero,
    Amount,
    BelowOne,
    Count,
    CountOrZero,
    Limit,
    Mean,
    Range,
    Seed,
    Share,
    Std,
    Steps,
    StepsOrZero,
    check_numbers,
    one_of,
    parse_resolution,
    require,
    word_or_number,
)
from vitctl.config.masking import OBJECTIVES, MaskingConfig, Objective
from vitctl.config.model import ADDED, HEADS, NORMS, POSITIONS, Depth, Width
from vitctl.errors import ConfigError

OPTIMIZERS = ("adam", "sgd", "adafactor")
DECAYS = ("lr", "fixed", "l2")
UNUSED = {  # fields that say nothing to a command: it refuses them, rather than to leave them unread
    "pretrain": ("source", "keep_head", "lrs", "mean", "std", "masking", "probe"),
    "finetune": ("model", "positions", "shape", "hidden", "pad", "head_bias", "masking", "probe"),
    "selfsup": (
        "source",
        "keep_head",
        "norm",
        "lrs",
        "mean",
        "std",
        "freeze",
        "loss",
        "smoothing",
        "head_bias",
        "head_std",
    ),
}
FREE = ("micro_batch", "device", "parallel", "compile", "checkpointing", "save_every", "tensorboard")  # may change
KEEP_HEAD = ("never", "if-same", "always")
SCHEDULES = ("cosine", "linear", "rsqrt", "constant")
Lr = Annotated[float, Range(0, 1000, above=True)]
Length = Annotated[float, Range(0, 1_000_000_000)]


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["adam", "sgd", "adafactor"] = "adam"
    lr: Lr = 1e-3
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    eps: AboveZero = 1e-8
    momentum: BelowOne = 0.9  # sgd
    weight_decay: Amount = 0.0
    # lr: w -= lr * wd * w (AdamW). fixed: w -= lr / peak * wd * w (big_vision: its 1e-4 at lr 1e-3 is AdamW's 0.1).
    # l2: wd * w is part of the gradient (torch's Adam and SGD).
    decay: Literal["lr", "fixed", "l2"] = "lr"
    decay_on: Literal["kernels", "all"] = "kernels"  # matrices and kernels alone; or biases, scales and positions too
    layer_decay: AboveZero = 1.0  # the lr of a layer is this times that of the next one (BEiT, MAE)
    clip: Annotated[float, Range(0, 1_000_000_000)] = 0.0  # global norm of the gradient; 0 is off

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, OPTIMIZERS)
        one_of("optim.decay", self.decay, DECAYS)
        one_of("optim.decay_on", self.decay_on, ("kernels", "all"))
        check_numbers(self, "optim.")


@dataclass(frozen=True)
class ScheduleConfig:
    """The share of the peak lr at a step: a straight warm-up, a decay, and perhaps a straight cool-down to zero."""

    kind: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    warmup: Length = 0  # steps; below 1, a share of the run
    cooldown: Length = 0  # steps at the end; below 1, a share of the run
    end: Share = 0.0  # share of the peak where cosine and linear end
    timescale: Steps = 10_000  # rsqrt: steps until the lr has fallen to 1 / sqrt(2)

    def __post_init__(self) -> None:
        one_of("schedule.kind", self.kind, SCHEDULES)
        check_numbers(self, "schedule.")

    def warmup_steps(self, steps: int) -> int:
        return count_steps(self.warmup, steps)

    def cooldown_steps(self, steps: int) -> int:
        return count_steps(self.cooldown, steps)


def count_steps(length: float, steps: int) -> int:
    return round(length * steps) if length < 1 else int(length)


@dataclass(frozen=True)
class ShapeConfig:
    """A fresh model's own numbers, in place of those that its name says."""

    depth: Depth | None = None
    dim: Width | None = None
    heads: Width | None = None
    mlp: Width | None = None
    added: Literal["stem", "every", "shared"] | None = None  # where positions are

    def __post_init__(self) -> None:
        check_numbers(self, "shape.")
        if self.added is not None:
            one_of("shape.added", self.added, ADDED)

    @property
    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run ends in, and below it what only decides how fast it gets there."""

    model: str = "vit-b/16"
    data: str | None = None
    source: str | None = None  # weights to begin with; none is a fresh model
    recipe: str = ""
    res: str | None = None  # as in the data, for a fresh model; as in the weights otherwise
    head: Literal["cls", "gap", "map"] | None = None
    norm: Literal["tokens", "pooled"] | None = None  # the last one: before the pooling, or behind it
    keep_head: Literal["never", "if-same", "always"] = "never"  # if the classes are the same; always: or else fail
    positions: Literal["none", "1d", "2d", "relative", "sincos", "sincos-mae"] | None = None
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    hidden: bool = False  # a pre-logits layer as wide as the model
    pad: bool = False  # images that patches do not divide
    dropout: Share = 0.0
    drop_path: Share = 0.0
    split: str = "train"
    val: str = "val"
    steps: Steps | None = None  # or else
    epochs: Annotated[float, Range(0, 1_000_000, above=True)] | None = None
    batch: Count = 256  # global
    objective: Objective = "labels"
    masking: MaskingConfig = field(default_factory=MaskingConfig)  # of every objective but labels
    probe: CountOrZero = 10  # shots a class by which a model without labels is measured on the way; 0 is off
    loss: Literal["softmax", "sigmoid"] = "softmax"
    head_bias: Annotated[float, Range(-1000, 1000)] = 0.0
    head_std: Amount = 0.0  # of its first weights: zeros, as the paper has them, cost Adam many steps on little data
    smoothing: Share = 0.0
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    ema: BelowOne = 0.0  # share of the average that a step keeps; 0 is off
    mean: tuple[Mean, ...] = ()  # of the pixels, in place of what the weights say: one number, or one for each channel
    std: tuple[Std, ...] = ()
    freeze: str | None = None  # "backbone": all but the head; a number: the stem and so many blocks
    lrs: tuple[Lr, ...] = ()  # tried on a part of the training data; the best of them trains on all
    limit: Limit | None = None  # train on so many examples, drawn evenly from the classes
    seed: Seed = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    # steps; an epoch, or a twentieth of the run if that is longer; 0: at the end alone
    eval_every: StepsOrZero | None = None
    log_every: Steps | None = None  # steps; a hundredth of the run, at most 50

    micro_batch: str = "auto"  # images that are computed at once on one device
    device: str = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: Literal["auto", "on", "off"] = "auto"
    checkpointing: bool = False  # activations are computed again in the backward pass instead of kept
    save_every: Steps | None = None  # steps; as often as it costs less than a fiftieth of the time
    tensorboard: bool = False

    def __post_init__(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        check_numbers(self)
        one_of("loss", self.loss, ("softmax", "sigmoid"))
        one_of("precision", self.precision, ("auto", "float32", "bf16"))
        one_of("parallel", self.parallel, ("ddp", "fsdp"))
        one_of("compile", self.compile, ("auto", "on", "off"))
        one_of("keep_head", self.keep_head, KEEP_HEAD)
        for name, options in (("head", HEADS), ("norm", NORMS), ("positions", POSITIONS)):
            value = getattr(self, name)
            if value is not None:
                one_of(name, value, options)
        require(not (self.steps and self.epochs), "both steps and epochs are given; give one of them")
        word_or_number("micro-batch", self.micro_batch, "auto", "a number of images", COUNT)
        if self.freeze is not None:
            word_or_number("freeze", self.freeze, "backbone", "a number of blocks", Range(0, 10_000))
        if self.res is not None:
            parse_resolution(self.res)

    def total_steps(self, rows: int) -> int:
        return self.steps or max(1, math.ceil((self.epochs or 1) * rows / self.batch))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "TrainConfig":
        """From the JSON of a run. What it says besides is not of the config."""
        parts = {"optim": OptimConfig, "schedule": ScheduleConfig, "augment": AugmentConfig,
                 "masking": MaskingConfig, "shape": ShapeConfig}  # fmt: skip
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in fields.items() if name in known}
        try:
            inner = {name: kind(**tuples(values[name])) for name, kind in parts.items() if name in values}
            return cls(**tuples(values | inner))
        except TypeError as error:
            raise ConfigError(f"this config is of another version of vitctl: {error}") from error


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
