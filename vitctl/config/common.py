"""Fields that several commands share."""

from dataclasses import dataclass
from typing import Literal

from vitctl.config.checks import Mean, Std
from vitctl.config.option import option

Precision = Literal["auto", "float32", "bf16"]
FROM = "A file or folder of weights, a run, or timm:NAME. Default: $VITCTL_FROM, or else the newest run."
EVAL_CROP = "The central share of an image that an evaluation takes, such as 0.875, or a protocol, such as mae."
DATA = "A patch file, digits, or any source that patchify takes."


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    mean: tuple[Mean, ...] = option(
        (),
        "Mean of the training pixels, from 0 to 1: one number, or one per channel. Default: what the weights say.",
        metavar="N[,N,N]", commas=True, late=True,
    )  # fmt: skip
    std: tuple[Std, ...] = option(
        (), "Standard deviation of the training pixels, in the same way.", metavar="N[,N,N]", commas=True, late=True
    )
    eval_crop: str = option("", f"{EVAL_CROP} Default: what the weights say.", metavar="SHARE|NAME", late=True)


AS_STATED = PixelConfig()


@dataclass(frozen=True, kw_only=True)
class SourceConfig(PixelConfig):
    source: str | None = option(None, FROM, "from", metavar="WEIGHTS", default="")


@dataclass(frozen=True, kw_only=True)
class WeightsConfig(SourceConfig):
    allow_missing: bool = option(False, "Use the tensors that fit if some are missing or unknown.", late=True)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    data: str | None = option(None, DATA, metavar="DATA")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE", late=True)


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    precision: Precision = option("auto", "auto is bf16 where the device has it.", late=True)
