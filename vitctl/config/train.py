"""How a model is trained: a frozen dataclass for each of the three trainers.

Recipes fill it, flags and `--set` change it. Every field says how it is called on the command line and what it does.
"""

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

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
    check_config,
    require,
    word_or_number,
)
from vitctl.config.common import DATA, Precision, SourceConfig
from vitctl.config.masking import MaskingConfig, Objective
from vitctl.config.model import Added, Depth, Gelu, Head, Init, Norm, Positions, Width
from vitctl.config.option import Partial, option, setting, subconfig, with_fields, with_named
from vitctl.config.res import Res
from vitctl.errors import ConfigError

# These fields may change when a run is resumed: they do not decide what it ends in.
FREE = ("micro_batch", "device", "parallel", "compile", "checkpointing", "save_every", "tensorboard")
Lr = Annotated[float, Range(0, 1000, above=True)]
Best = Literal["top1", "macro_f1", "balanced", "loss"]
Length = Annotated[float, Range(0, 1_000_000_000)]
Minutes = Annotated[float, Range(0, 1_000_000, above=True)]
LENGTHS = ("steps", "epochs", "minutes")  # a run has one of them
WARM_AT_MOST = 0.1  # of a run that is shorter than its recipe's warm-up


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Partial):
    # One lr for both, as Moonshot's: Keller Jordan's first Muon had 0.02 beside an lr of its own for Adam.
    name: Literal["adam", "sgd", "adafactor", "muon"] = setting(
        "adam", "optimizer; muon: of the matrices of blocks, scaled so that it takes adam's lr and weight decay "
        "(match_rms_adamw of arXiv 2502.16982), and adam of all else"
    )  # fmt: skip
    lr: Lr = option(1e-3, "Peak learning rate.", metavar="LR")
    beta1: BelowOne = setting(0.9, "of adam")
    beta2: BelowOne = setting(0.999, "of adam")
    eps: AboveZero = setting(1e-8, "of adam")
    momentum: BelowOne = setting(0.9, "of sgd")
    muon_momentum: BelowOne = setting(0.95, "of muon")
    weight_decay: Amount = setting(0.0, "weight decay")
    # fixed is big_vision's: its 1e-4 at lr 1e-3 is AdamW's 0.1.
    decay: Literal["lr", "fixed", "l2"] = setting(
        "lr", "lr: w -= lr * wd * w (AdamW); fixed: w -= lr / peak * wd * w (big_vision); l2: wd * w is in the gradient"
    )
    decay_on: Literal["kernels", "tables", "all"] = setting(
        "kernels", "kernels: matrices and convolutions; tables: tokens and positions too; all: biases and scales too"
    )
    layer_decay: AboveZero = setting(1.0, "the lr of a layer is this times the lr of the next one (BEiT, MAE)")
    clip: Annotated[float, Range(0, 1_000_000_000)] = setting(0.0, "largest global norm of the gradient; 0 is off")

    def __post_init__(self) -> None:
        check_config(self, "optim.")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Partial):
    """The lr as a share of its peak: a linear warm-up, a decay, and perhaps a linear cool-down to zero."""

    kind: Literal["cosine", "linear", "rsqrt", "constant"] = setting("cosine", "shape of the decay")
    warmup: Length = setting(0, "steps; below 1, a share of the run")
    cooldown: Length = setting(0, "steps at the end; below 1, a share of the run")
    end: Share = setting(0.0, "share of the peak at which cosine and linear end")
    timescale: Steps = setting(10_000, "rsqrt: steps until the lr has fallen to 1 / sqrt(2)")

    def __post_init__(self) -> None:
        check_config(self, "schedule.")

    def warmup_steps(self, steps: int) -> int:
        return count_steps(self.warmup, steps)

    def cooldown_steps(self, steps: int) -> int:
        return count_steps(self.cooldown, steps)

    def fit_to(self, steps: int) -> "ScheduleConfig":
        """With a shorter warm-up, if it would be longer than the run: that of a recipe is often a number of steps."""
        warmup = self.warmup_steps(steps)
        if warmup < steps or not warmup:
            return self
        return dataclasses.replace(self, warmup=max(1, round(WARM_AT_MOST * steps)))


def count_steps(length: float, steps: int) -> int:
    return round(length * steps) if length < 1 else int(length)


@dataclass(frozen=True, kw_only=True)
class ShapeConfig(Partial):
    """Sizes of a fresh model, in place of those that its name says."""

    depth: Depth | None = setting(None, "blocks")
    dim: Width | None = setting(None, "width")
    heads: Width | None = setting(None, "attention heads")
    mlp: Width | None = setting(None, "width of the MLP")
    added: Added | None = setting(None, "where positions are added: at the stem, in every block, or in shared ones")
    registers: CountOrZero | None = setting(None, "register tokens")
    swiglu: bool | None = setting(None, "MLPs gated by a SiLU; two thirds of mlp have as many weights")
    qk_norm: bool | None = setting(None, "norms of queries and keys")
    layer_scale: bool | None = setting(None, "a scale of every residual branch")
    gelu: Gelu | None = setting(None, "formula of the GELU; timm's rotary models have erf")

    def __post_init__(self) -> None:
        check_config(self, "shape.")

    def changes(self) -> dict[str, Any]:
        """The sizes that are given."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Partial):
    rank: Count | None = option(
        None, "Learn adapters of this rank on the attention (LoRA) in place of all weights.", "lora", metavar="RANK",
        default="",
    )  # fmt: skip
    on: tuple[str, ...] = setting(
        ("qkv", "q", "k", "v", "q_proj", "k_proj", "v_proj", "proj"), "layers, by their names"
    )
    scale: Annotated[float, Range(0, 1000, above=True)] = setting(2.0, "factor of the adapters (alpha / rank)")

    def __post_init__(self) -> None:
        check_config(self, "lora.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Partial):
    """What all three trainers share."""

    command: ClassVar[Literal["pretrain", "finetune", "selfsup"]]

    data: str | None = option(None, DATA, metavar="DATA", default="")
    recipe: str = option(
        "", "Recipe to start from; flags and --set change it. vitctl recipes lists them. Default: chosen by model and "
        "number of images.",
        metavar="NAME", default="", complete="recipes",
    )  # fmt: skip
    res: Res | None = option(
        None, "224, or 192x256 for height x width. Default: that of the recipe, or else of the data or the weights.",
        metavar="RES", default="",
    )  # fmt: skip
    head: Head | None = setting(None, "class token, mean of the patches, or attention pooling; default: the model's")
    dropout: Share = setting(0.0, "dropout")
    drop_path: Share = setting(0.0, "stochastic depth, growing linearly up to this rate")
    split: str = setting("train", "split to train on")
    val: str = setting("val", "split to evaluate on")
    epochs: Annotated[float, Range(0, 1_000_000, above=True)] | None = option(
        None, "Passes over the training data.", metavar="N"
    )
    steps: Steps | None = option(None, "Optimizer steps, in place of epochs.", metavar="N")
    minutes: Minutes | None = option(
        None, "Minutes from start to end, in place of epochs: as many steps as fit, with the whole schedule.",
        metavar="N", default="",
    )  # fmt: skip
    patience: Count | None = option(
        None, "Stop once val has not improved for N evaluations, without the rest of the schedule; best.safetensors "
        "has the best weights.",
        metavar="N", default="",
    )  # fmt: skip
    batch: Count = option(256, "Images per step, over all devices.", metavar="N")
    micro_batch: str = option(
        "auto", "Images per forward pass on one device; auto uses what fits into memory.", metavar="N", default="auto",
        hidden=True,
    )  # fmt: skip
    optim: OptimConfig = subconfig(OptimConfig, "lr")
    schedule: ScheduleConfig = subconfig(ScheduleConfig)
    augment: AugmentConfig = subconfig(AugmentConfig)
    ema: BelowOne = setting(0.0, "decay of the moving average of the weights; 0 is off")
    ema_ramp: bool = setting(True, "the decay after t steps is at most (1 + t) / (10 + t)")
    limit: Limit | None = setting(None, "train on this many images")
    limit_draw: Literal["even", "fixed"] = setting(
        "even", "even: as many of each class, by the seed; fixed: as the classes come, the same for every seed (VTAB)"
    )
    seed: Seed = option(0, "Random seed of weights, data order, augmentation and dropout.", metavar="N", default="0")
    precision: Precision = option("auto", "auto is bf16 where the device has it.", default="auto", late=True)
    eval_every: StepsOrZero | None = setting(
        None,
        "steps; default: an epoch, or a twentieth of the run if that is longer (with minutes, a tenth); 0: only "
        "at the end",
    )
    log_every: Steps | None = setting(None, "steps; default: a hundredth of the run, at most 50")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE", default="auto", late=True)
    parallel: Literal["ddp", "fsdp"] = option(
        "ddp", "A whole copy of the model on each device, or a part of it (FSDP2).", default="ddp", late=True,
        hidden=True,
    )  # fmt: skip
    compile: Literal["auto", "on", "off"] = setting("auto", "torch.compile; auto: where it saves time over the run")
    checkpointing: bool = setting(False, "compute activations again in the backward pass instead of storing them")
    save_every: Steps | None = setting(None, "steps between checkpoints; default: so that they take 2% of the time")
    tensorboard: bool = setting(False, "also write the log for TensorBoard")

    def __post_init__(self) -> None:
        check_config(self)
        given = [name for name in LENGTHS if getattr(self, name)]
        require(len(given) < 2, f"both {' and '.join(given)} are given; give one of them")
        require(not self.patience or self.eval_every != 0, "patience needs evaluations; leave out eval_every=0")
        word_or_number("micro-batch", self.micro_batch, "auto", "a number of images", COUNT)

    def total_steps(self, rows: int) -> int:
        return self.steps or max(1, math.ceil((self.epochs or 1) * rows / self.batch))

    def over(self, base: "TrainConfig") -> Self:
        """This request on top of a recipe, or of a run: only the fields that were named count."""
        request = self
        own = type(self)(**{field.name: getattr(base, field.name) for field in dataclasses.fields(base)})
        for name in LENGTHS:
            if name in self.named and getattr(self, name) is not None:
                request = with_fields(request, **{other: None for other in LENGTHS if other != name})
        return with_named(own, request)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """From the JSON of a run. Other keys are ignored: they are not part of the config."""
        kinds, values = typing.get_type_hints(cls), {}
        try:
            for field in dataclasses.fields(cls):
                if field.name in fields:
                    values[field.name] = from_json(fields[field.name], kinds[field.name])
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"this config is of another version of vitctl: {error}") from error


def from_json(value: Any, kind: Any) -> Any:
    if isinstance(value, dict):
        return kind(**{name: from_json(inner, None) for name, inner in value.items()})
    if isinstance(value, str) and Res in typing.get_args(kind):
        return Res.parse(value)
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class FreshConfig(Partial):
    """A model from scratch."""

    model: str = option(
        "vit-b/16", "Model to train. vitctl models lists them.", metavar="NAME", default="vit-b/16",
        complete="models",
    )  # fmt: skip
    positions: Positions | None = setting(None, "position embeddings; default: the model's")
    shape: ShapeConfig = subconfig(ShapeConfig)
    hidden: bool = setting(False, "a hidden layer in the head, as wide as the model (pre-logits)")
    init: Init = setting(
        "official", "first weights: as in the paper's code, or in MAE's; mimetic: attention as if pretrained, for few "
        "images (arXiv 2305.09828)"
    )  # fmt: skip
    mean: tuple[Mean, ...] = setting((), "mean of the pixels, from 0 to 1; default: 0.5")
    std: tuple[Std, ...] = setting((), "their standard deviation, in the same way")
    pad: bool = setting(False, "pad images that are no multiple of the patch size")
    eval_crop: str = setting("", "the central share of an image that evaluations take, such as 0.875, or a protocol")


@dataclass(frozen=True, kw_only=True)
class LabeledConfig(TrainConfig):
    """Training with labels."""

    norm: Norm | None = setting(None, "last norm: before the pooling (tokens) or after it (pooled)")
    patch_dropout: BelowOne = setting(
        0.0, "share of an image's patches, drawn at each step, that training leaves out (arXiv 2208.07220)"
    )
    loss: Literal["softmax", "sigmoid", "squared"] = setting(
        "softmax", "cross-entropy, or one binary loss per class; sets of classes need sigmoid, and numbers squared"
    )
    smoothing: Share = setting(0.0, "label smoothing")
    # Zeros, as in the paper, cost Adam many steps on little data.
    head_std: Amount = setting(0.0, "deviation of the first weights of the head; 0 is a head of zeros")
    freeze: str | None = setting(None, "backbone: all but the head; N: the stem and the first N blocks")
    balance: Literal["none", "sqrt", "full"] = option(
        "none", "Draw images of small classes more often: all classes equally (full), or in proportion to the root of "
        "their sizes (sqrt).", default="none",
    )  # fmt: skip
    loss_weights: Literal["none", "effective"] = setting(
        "none", "weights of the classes in the loss; effective: by the effective number of images (arXiv 1901.05555)"
    )
    logit_adjustment: Amount = setting(
        0.0, "in the loss, add this times the log of a class's share to its logit (arXiv 2007.07314); 0 is off"
    )
    best: Best = setting(
        "top1", "what chooses the best weights on val, top1 meaning mAP of sets and R² of numbers; balanced: the mean "
        "accuracy of the classes"
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze is not None:
            word_or_number("freeze", self.freeze, "backbone", "a number of blocks", Range(0, 10_000))
        corrections = self.corrections()
        require(
            len(corrections) < 2,
            f"{' and '.join(corrections)} make up for the sizes of the classes in different ways; choose one of them",
        )
        require(self.smoothing < 1 or not corrections, f"smoothing is 1; {self.correction} needs less")
        require(
            self.loss == "softmax" or self.balance != "none" or not corrections,
            f"{self.correction} is of the softmax loss; use --balance, or --set loss=softmax",
        )

    def corrections(self) -> list[str]:
        """What makes up for different sizes of the classes, as it is written on the command line."""
        values = {
            f"--balance {self.balance}": self.balance != "none",
            f"loss_weights={self.loss_weights}": self.loss_weights != "none",
            f"logit_adjustment={self.logit_adjustment:g}": self.logit_adjustment != 0,
        }
        return [text for text, is_used in values.items() if is_used]

    @property
    def correction(self) -> str:
        """The one that is used, or nothing."""
        return next(iter(self.corrections()), "")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(LabeledConfig, FreshConfig):
    command = "pretrain"
    head_bias: Annotated[float, Range(-1000, 1000)] = setting(0.0, "first bias of the head")


@dataclass(frozen=True, kw_only=True)
class SelfsupConfig(TrainConfig, FreshConfig):
    command = "selfsup"
    source: str | None = option(
        None, "Continue from these weights: a file or folder, a run, or timm:NAME. Default: a new model.", "from",
        metavar="WEIGHTS", default="",
    )  # fmt: skip
    objective: Objective = option("mean-color", "What is predicted of a hidden patch; mean-color is the paper's.")
    masking: MaskingConfig = subconfig(MaskingConfig, "ratio")
    probe: CountOrZero = option(
        10, "Labeled images per class of the probe during training; 0 turns it off.", metavar="N"
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LabeledConfig, SourceConfig):
    command = "finetune"
    lrs: tuple[Lr, ...] = option(
        (), "Peak learning rate; of several, the best on a held-out part of train is used.", "lr",
        metavar="LR[,LR...]", commas=True,
    )  # fmt: skip
    freeze: str | None = option(
        None,
        "What is frozen: backbone (all but the head), or N (the stem and the first N blocks).",
        metavar="PART",
        default="",
    )
    eval_crop: str = setting("", "as --eval-crop of evaluate; default: what the weights say")
    lora: LoraConfig = subconfig(LoraConfig, "rank")
    head_first: Length = setting(
        0, "steps at the start in which only the head learns, before the rest warms up; below 1, a share of the run"
    )
    keep_head: Literal["never", "if-same", "always"] = option(
        "never", "Keep the head of the weights, for the same classes in any order.", const="always"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        is_frozen = self.freeze is not None and self.lora.rank
        require(not is_frozen, "--lora freezes all but its adapters and the head; omit --freeze")
        require(not self.lora.rank or self.parallel == "ddp", "--lora has few parameters to shard; use --parallel ddp")

    def head_steps(self, steps: int) -> int:
        return count_steps(self.head_first, steps)

    def over(self, base: TrainConfig) -> Self:
        """A single lr is the lr; several are tried."""
        request = self
        if len(self.lrs) == 1 and "lrs" in self.named:
            request = with_fields(self, optim=with_fields(self.optim, lr=self.lrs[0]), lrs=())
        return super(FinetuneConfig, request).over(base)


CONFIGS: dict[str, type[TrainConfig]] = {
    "pretrain": PretrainConfig, "finetune": FinetuneConfig, "selfsup": SelfsupConfig
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run is kept, and whether it is a new one."""

    out: str | None = option(None, "The run directory. Default: runs/<date-time>-<command>-<model>.", metavar="FOLDER")
    resume: str | None = option(
        None, "Resume this run; auto resumes --out or the newest run, and starts a new one if there is none.",
        metavar="RUN", late=True,
    )  # fmt: skip
    overwrite: bool = option(False, "Replace an existing run.", late=True)
    dry_run: bool = option(False, "Build everything, run one step, write nothing.", late=True)
    start_time: float | None = None  # of the command, from which minutes count; otherwise the call of the trainer
