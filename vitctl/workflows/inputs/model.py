"""A model that is ready for inference: from weights, or from an exported file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vitctl.config.common import AS_STATED, PixelConfig
from vitctl.config.eval_crop import parse_eval_crop
from vitctl.config.model import ModelSpec
from vitctl.errors import DataError, UsageError
from vitctl.io.files import check_regular_file
from vitctl.io.weights import About, Weights, override_normalization
from vitctl.models.adapt import adapt_weights
from vitctl.models.exports.exported import ExportedModel
from vitctl.models.exports.onnx_file import OnnxModel
from vitctl.models.exports.torch_file import TorchProgram
from vitctl.models.input import Normalizer
from vitctl.reporting import Reporter
from vitctl.training.device import Precision, choose_precision, quick_attention
from vitctl.workflows.inputs.weights import (
    choose_weights,
    choose_weights_flag,
    load_model,
    make_missing_error,
    tell_changes,
)

EXPORTS: dict[str, Callable[[Path], ExportedModel]] = {".onnx": OnnxModel, ".pt2": TorchProgram}


@dataclass(frozen=True)
class Ready:
    model: nn.Module  # normalized images or patches to logits; bytes [B, H, W, C] where it prepares them itself
    spec: ModelSpec
    about: About
    path: str
    digest: str
    precision: str  # of an exported file it may be another one than those of a model
    device: torch.device
    takes_bytes: bool = False

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels if self.takes_bytes else Normalizer(self.spec, self.about)(pixels)

    @property
    def autocast(self) -> Precision:
        return "bf16" if self.precision == "bf16" else "float32"


def choose_model(
    flag: str | None,
    reporter: Reporter,
    *,
    precision: str = "auto",
    device: torch.device,
    allow_missing: bool = False,
    pixels: PixelConfig = AS_STATED,
) -> Ready:
    """From any reference to weights, or from an exported .onnx or .pt2. It must have a head."""
    source = choose_source(flag, reporter, allow_missing, pixels)
    return ready_from(source, reporter, None, precision=precision, device=device, allow_missing=allow_missing)


def choose_source(
    flag: str | None,
    reporter: Reporter,
    allow_missing: bool = False,
    pixels: PixelConfig = AS_STATED,
) -> Weights | Ready:
    """Weights, or an exported model. Its spec says which images it takes."""
    path = choose_weights_flag(flag)[0] if flag is None else flag
    if Path(path).suffix not in EXPORTS:
        return choose_weights(flag, reporter, allow_missing, pixels)
    ready = open_export(Path(path), reporter, pixels)
    reporter.note(f"weights: {path}, an export of {ready.spec.name}")
    return ready


def ready_from(
    source: Weights | Ready,
    reporter: Reporter,
    channels: int | None,
    *,
    precision: str,
    device: torch.device,
    allow_missing: bool,
) -> Ready:
    """The model, adapted to images with this many channels."""
    if isinstance(source, Ready):
        if channels not in (None, source.spec.channels):
            raise DataError(f"{source.path}: takes images of {source.spec.channels} channels, the data has {channels}")
        return check_has_head(source)
    fitting = adapt_weights(source, channels=channels)
    tell_changes(source, fitting, reporter)
    model = load_model(fitting, allow_missing=allow_missing).to(device)
    way = choose_precision(precision, device)  # type: ignore[arg-type]
    quick_attention(model, way, device)  # computed as in training
    return check_has_head(Ready(model, fitting.spec, fitting.about, source.path, source.digest(), way, device))


def open_export(path: Path, reporter: Reporter, pixels: PixelConfig) -> Ready:
    if not path.exists():
        raise make_missing_error(str(path))
    check_regular_file(path)
    model = EXPORTS[path.suffix](path)
    if model.warning:
        reporter.warn(model.warning)
    if model.takes_bytes and (pixels.mean or pixels.std or pixels.eval_crop):
        raise UsageError(
            f"{path}: prepares its images itself; --mean, --std and --eval-crop are for the weights that it is "
            "exported from"
        )
    device, about = (
        torch.device("cpu"),
        override_normalization(model.about, model.spec.channels, pixels.mean, pixels.std),
    )
    about = about.with_eval_crop(parse_eval_crop(pixels.eval_crop, about.eval_crop))
    return Ready(model, model.spec, about, str(path), model.digest, model.precision, device, model.takes_bytes)


def check_has_head(ready: Ready) -> Ready:
    if not ready.spec.classes:
        raise UsageError(f"{ready.path}: has no head, so it cannot classify; vitctl finetune gives it one")
    return ready
