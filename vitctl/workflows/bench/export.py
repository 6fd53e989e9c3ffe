"""`vitctl bench export`: torch compared with exported files, with the same model, images and cores."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vitctl.config.bench import BenchConfig, TrainCase
from vitctl.config.export import ExportConfig, Format, Numbers
from vitctl.io.patch_file import PatchFile
from vitctl.io.save import save_as
from vitctl.io.weights import HALF, About, Weights
from vitctl.models.create import collect_tensors, create_model
from vitctl.models.exports.onnx_file import OnnxModel
from vitctl.models.exports.torch_file import TorchProgram
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import choose_precision
from vitctl.workflows.bench.loops import case_spec, make_training_images
from vitctl.workflows.bench.measure import CaseTable, Measurement, time_seconds
from vitctl.workflows.export import export
from vitctl.workflows.export.formats import images_of
from vitctl.workflows.inputs.weights import load_model

EAGER, HALF_EAGER = "torch, float32", "torch, bf16"
FILES: dict[str, tuple[Format, Numbers]] = {
    "torch.export, float32": ("torch", "float32"),
    "onnxruntime, float32": ("onnx", "float32"),
    "onnxruntime, int8": ("onnx", "int8"),
}
PIECE = 8  # images at once


def bench_export(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    case = TrainCase.parse(config.export)
    skipped = [] if find_spec("onnxruntime") else ["onnxruntime is not installed: pip install onnxruntime"]
    reporter.note(f"{case}: creating images, weights and the exported files")
    path = make_training_images(replace(config, pictures=min(config.pictures, case.batch)), case, folder)
    spec = case_spec(case)  # a zero head would give the same output for every image
    tensors = collect_tensors(create_model(spec, seed=config.seed, head_std=1.0))
    weights = Weights(spec, tensors, About("vitctl", "", *HALF))
    save_as(weights, folder / "fresh.safetensors")
    models, remarks = {f"{case} {EAGER}": load_model(weights)}, []
    if choose_precision("auto", torch.device("cpu")) == "bf16":
        models[f"{case} {HALF_EAGER}"] = Half(load_model(weights))
    for label, (format, precision) in FILES.items():
        if format == "torch" or not skipped:
            models[f"{case} {label}"], summary = export_and_load(folder, path, format, precision)
            remarks.append(f"{label}: {summary}, with fresh weights")
    split = PatchFile(path).split("train")
    images = images_of(weights.about, torch.from_numpy(split.images(np.arange(case.batch) % split.rows)))
    baseline, *others = models
    cases = {name: time_export(model, images) for name, model in models.items()}
    yield CaseTable(cases, [(name, baseline) for name in others], skipped, lambda _: remarks)


def export_and_load(folder: Path, data: Path, format: Format, precision: Numbers) -> tuple[nn.Module, str]:
    """The exported file as a module, and how its outputs compare with the model's."""
    out = folder / (f"{precision}.onnx" if format == "onnx" else "model.pt2")
    source = str(folder / "fresh.safetensors")
    config = ExportConfig(
        format=format, source=source, out=str(out), precision=precision, data=str(data), agreement=0.0, pictures=32
    )
    summary = export(config, SilentReporter()).comparison.summary()
    return (OnnxModel(out) if format == "onnx" else TorchProgram(out)), summary


class Half(nn.Module):
    """Computes in bf16 autocast, as training and features do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(images)  # type: ignore[no-any-return]


def time_export(model: nn.Module, images: torch.Tensor) -> Measurement:
    @torch.inference_mode()
    def measure() -> float:
        model(images[:PIECE])
        return len(images) / time_seconds(lambda: [model(piece) for piece in torch.split(images, PIECE)])

    return measure
