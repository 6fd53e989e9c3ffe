"""How a model is trained: one frozen dataclass, which recipes fill and flags change."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from vitctl.config.augment import AugmentConfig
from vitctl.config.checks import at_least, fraction, one_of, require, resolution
from vitctl.config.masking import OBJECTIVES, MaskingConfig, Objective
from vitctl.config.model import ADDED, HEADS, NORMS, POSITIONS
from vitctl.errors import ConfigError

OPTIMISERS = ("adam", "sgd", "adafactor")
DECAYS = ("lr", "fixed", "l2")
UNUSED = {  # fields that say nothing to a command: it refuses them, rather than to leave them unread
    "pretrain": ("source", "keep_head", "lrs", "masking", "probe"),
    "finetune": ("model", "positions", "shape", "hidden", "pad", "head_bias", "masking", "probe"),
    "selfsup": ("source", "keep_head", "norm", "lrs", "freeze", "loss", "smoothing", "head_bias", "head_std"),
}
FREE = ("micro_batch", "device", "parallel", "compile", "checkpointing", "save_every", "tensorboard")  # may change
KEEP_HEAD = ("never", "if-same", "always")
SCHEDULES = ("cosine", "linear", "rsqrt", "constant")


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["adam", "sgd", "adafactor"] = "adam"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9  # sgd
    weight_decay: float = 0.0
    # lr: w -= lr * wd * w (AdamW). fixed: w -= lr / peak * wd * w (big_vision: its 1e-4 at lr 1e-3 is AdamW's 0.1).
    # l2: wd * w is part of the gradient (torch's Adam and SGD).
    decay: Literal["lr", "fixed", "l2"] = "lr"
    decay_on: Literal["kernels", "all"] = "kernels"  # matrices and kernels alone; or biases, scales and positions too
    layer_decay: float = 1.0  # the lr of a layer is this times that of the next one (BEiT, MAE)
    clip: float = 0.0  # global norm of the gradient; 0 is off

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, OPTIMISERS)
        one_of("optim.decay", self.decay, DECAYS)
        one_of("optim.decay_on", self.decay_on, ("kernels", "all"))
        require(self.lr > 0, f"optim.lr is {self.lr}; it must be above 0")
        require(self.eps > 0, f"optim.eps is {self.eps}; it must be above 0")
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optim.{name} is {value}; it must be at least 0 and under 1")
        for name in ("weight_decay", "clip"):
            at_least(f"optim.{name}", getattr(self, name), 0)
        require(0 < self.layer_decay <= 1, f"optim.layer_decay is {self.layer_decay}; it must be above 0, at most 1")


@dataclass(frozen=True)
class ScheduleConfig:
    """The share of the peak lr at a step: a straight warm-up, a decay, and perhaps a straight cool-down to zero."""

    kind: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    warmup: float = 0  # steps; below 1, a share of the run
    cooldown: float = 0  # steps at the end; below 1, a share of the run
    end: float = 0.0  # share of the peak where cosine and linear end
    timescale: int = 10_000  # rsqrt: steps until the lr has fallen to 1 / sqrt(2)

    def __post_init__(self) -> None:
        one_of("schedule.kind", self.kind, SCHEDULES)
        for name in ("warmup", "cooldown"):
            at_least(f"schedule.{name}", getattr(self, name), 0)
        at_least("schedule.timescale", self.timescale, 1)
        fraction("schedule.end", self.end)

    def warmup_steps(self, steps: int) -> int:
        return counted(self.warmup, steps)

    def cooldown_steps(self, steps: int) -> int:
        return counted(self.cooldown, steps)


def counted(length: float, steps: int) -> int:
    return round(length * steps) if length < 1 else int(length)


@dataclass(frozen=True)
class ShapeConfig:
    """A fresh model's own numbers, in place of those that its name says."""

    depth: int | None = None
    dim: int | None = None
    heads: int | None = None
    mlp: int | None = None
    added: Literal["stem", "every", "shared"] | None = None  # where positions are

    def __post_init__(self) -> None:
        for name in ("depth", "dim", "heads", "mlp"):
            at_least(f"shape.{name}", getattr(self, name), 1)
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
    pad: bool = False  # pictures that patches do not divide
    dropout: float = 0.0
    drop_path: float = 0.0
    split: str = "train"
    val: str = "val"
    steps: int | None = None  # or else
    epochs: float | None = None
    batch: int = 256  # global
    objective: Objective = "labels"
    masking: MaskingConfig = field(default_factory=MaskingConfig)  # of every objective but labels
    probe: int = 10  # shots a class by which a model without labels is measured on the way; 0 is off
    loss: Literal["softmax", "sigmoid"] = "softmax"
    head_bias: float = 0.0
    head_std: float = 0.0  # of its first weights: zeros, as the paper has them, cost Adam many steps on little data
    smoothing: float = 0.0
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    ema: float = 0.0  # share of the average that a step keeps; 0 is off
    freeze: str | None = None  # "backbone": all but the head; a number: the stem and so many blocks
    lrs: tuple[float, ...] = ()  # tried on a part of the training data; the best of them trains on all
    limit: int | None = None  # train on so many examples, drawn evenly from the classes
    seed: int = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    eval_every: int | None = None  # steps; an epoch, or a twentieth of the run if that is longer; 0: at the end alone
    log_every: int | None = None  # steps; a hundredth of the run, at most 50

    micro_batch: str = "auto"  # pictures that are computed at once on one device
    device: str = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: Literal["auto", "on", "off"] = "auto"
    checkpointing: bool = False  # activations are computed again in the backward pass instead of kept
    save_every: int | None = None  # steps; as often as it costs less than a fiftieth of the time
    tensorboard: bool = False

    def __post_init__(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        at_least("probe", self.probe, 0)
        at_least("head_std", self.head_std, 0)
        one_of("loss", self.loss, ("softmax", "sigmoid"))
        one_of("precision", self.precision, ("auto", "float32", "bf16"))
        one_of("parallel", self.parallel, ("ddp", "fsdp"))
        one_of("compile", self.compile, ("auto", "on", "off"))
        one_of("keep_head", self.keep_head, KEEP_HEAD)
        for name, options in (("head", HEADS), ("norm", NORMS), ("positions", POSITIONS)):
            value = getattr(self, name)
            if value is not None:
                one_of(name, value, options)
        for name in ("steps", "batch", "log_every", "save_every", "limit"):
            at_least(name, getattr(self, name), 1)
        at_least("eval_every", self.eval_every, 0)
        for name in ("dropout", "drop_path", "smoothing"):
            fraction(name, getattr(self, name))
        require(0 <= self.ema < 1, f"ema is {self.ema}; it must be at least 0 and under 1")
        require(self.epochs is None or self.epochs > 0, f"epochs is {self.epochs}; it must be above 0")
        require(not (self.steps and self.epochs), "both steps and epochs are given; give one of them")
        require(all(lr > 0 for lr in self.lrs), f"an lr of {', '.join(map(str, self.lrs))} is not above 0")
        require(
            self.micro_batch == "auto" or (self.micro_batch.isdigit() and int(self.micro_batch) > 0),
            f"micro-batch {self.micro_batch!r} is not understood; write auto, or a number of pictures",
        )
        require(
            self.freeze is None or self.freeze == "backbone" or self.freeze.isdigit(),
            f"freeze {self.freeze!r} is not understood; write backbone, or a number of blocks",
        )
        if self.res is not None:
            resolution(self.res)

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
