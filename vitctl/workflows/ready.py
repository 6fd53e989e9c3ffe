"""A model that is ready to answer: from weights, or from a file that was exported."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.errors import DataError, UsageError, WeightsError
from vitctl.io.weights import About
from vitctl.models.adapt import adapted
from vitctl.models.exports.exported import Exported
from vitctl.models.exports.onnx_file import OnnxModel
from vitctl.models.exports.torch_file import TorchProgram
from vitctl.reporting import Reporter
from vitctl.training.precision import Precision, chosen, quick_attention
from vitctl.workflows.load import choose_weights, load_model, missing, tell_changes
from vitctl.workflows.load import chosen as chosen_weights
from vitctl.workflows.train.feed import Normaliser

EXPORTS: dict[str, Callable[[Path], Exported]] = {".onnx": OnnxModel, ".pt2": TorchProgram}


@dataclass(frozen=True)
class Ready:
    model: nn.Module  # normalised pictures or patches to logits; bytes [B, H, W, C] where it prepares them itself
    spec: ModelSpec
    about: About
    path: str
    digest: str
    precision: str  # of an exported file it may be another one than those of a model
    device: torch.device
    takes_bytes: bool = False

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels if self.takes_bytes else Normaliser(self.spec, self.about)(pixels)

    @property
    def autocast(self) -> Precision:
        return "bf16" if self.precision == "bf16" else "float32"


def choose_model(
    flag: str | None,
    reporter: Reporter,
    *,
    channels: int | None,
    precision: str = "auto",
    device: torch.device,
    allow_missing: bool = False,
) -> Ready:
    """What is called weights everywhere, or an .onnx or .pt2 of ours. It must have a head."""
    path = chosen_weights(flag)[0] if flag is None else flag
    if Path(path).suffix in EXPORTS:
        ready = exported(Path(path), channels)
        reporter.note(f"weights: {path}, an export of {ready.spec.name}")
        return headed(ready)
    weights = choose_weights(flag, reporter, allow_missing)
    fitting = adapted(weights, channels=channels)
    tell_changes(weights, fitting, reporter)
    model = load_model(fitting, allow_missing=allow_missing).to(device)
    way = chosen(precision, device)  # type: ignore[arg-type]
    quick_attention(model, way, device)  # computed as in training
    return headed(Ready(model, fitting.spec, fitting.about, weights.path, weights.digest(), way, device))


def exported(path: Path, channels: int | None) -> Ready:
    if not path.exists():
        raise missing(str(path))
    if not path.is_file():
        raise WeightsError(f"{path}: is a folder; an exported file was expected")
    model = EXPORTS[path.suffix](path)
    spec = model.spec
    if channels not in (None, spec.channels):
        raise DataError(f"{path}: takes pictures of {spec.channels} channels, the data has {channels}")
    device = torch.device("cpu")
    return Ready(model, spec, model.about, str(path), model.digest, model.precision, device, model.takes_bytes)


def headed(ready: Ready) -> Ready:
    if not ready.spec.classes:
        raise UsageError(f"{ready.path}: has no head, so it answers nothing; vitctl finetune gives it one")
    return ready
