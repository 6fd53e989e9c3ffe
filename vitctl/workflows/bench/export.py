"""`vitctl bench export`: the same model and images by torch and by what was exported, on the same cores."""

import tempfile
import time
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
from vitctl.workflows.bench.measure import BenchPart, Measurement, make_figure, make_ratio, run_in_turn
from vitctl.workflows.bench.train import case_spec, make_training_images
from vitctl.workflows.export import export
from vitctl.workflows.export.compare import Comparison
from vitctl.workflows.export.formats import images_of
from vitctl.workflows.inputs.weights import load_model

EAGER, HALF_EAGER = "torch, float32", "torch, bf16"
FILES: dict[str, tuple[Format, Numbers]] = {
    "torch.export, float32": ("torch", "float32"),
    "onnxruntime, float32": ("onnx", "float32"),
    "onnxruntime, int8": ("onnx", "int8"),
}
PIECE = 8  # images at once


def bench_export(config: BenchConfig, reporter: Reporter) -> BenchPart:
    case = TrainCase.parse(config.export)
    left_out = [] if find_spec("onnxruntime") else ["onnxruntime is not installed: pip install onnxruntime"]
    with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as name:
        folder = Path(name)
        reporter.note(f"{case}: making images, weights and the exported files")
        data = make_training_images(replace(config, pictures=min(config.pictures, case.batch)), case, folder)
        data, weights = data.with_name("many.h5"), fresh_weights(case, config.seed)
        save_as(weights, folder / "fresh.safetensors")
        models, found = {f"{case} {EAGER}": load_model(weights)}, {}
        if choose_precision("auto", torch.device("cpu")) == "bf16":
            models[f"{case} {HALF_EAGER}"] = Half(load_model(weights))
        for way, (format, precision) in FILES.items():
            if format == "torch" or not left_out:
                models[f"{case} {way}"], found[way] = export_and_load(folder, data, format, precision)
        images = take_images(data, weights, case.batch)
        measurements: dict[str, tuple[str, Measurement]] = {
            way: ("img/s", time_export(model, images)) for way, model in models.items()
        }
        values = run_in_turn(measurements, config.times, reporter)
    figures = [make_figure(each, unit, values[each]) for each, (unit, _) in measurements.items()]
    eager, *others = models
    remarks = [f"{way}: {each.summary()}, with fresh weights" for way, each in found.items()]
    return BenchPart(figures, [make_ratio(values, way, eager) for way in others], left_out, remarks)


def fresh_weights(case: TrainCase, seed: int) -> Weights:
    """With a head that tells images apart, so that there is something to compare."""
    spec = case_spec(case)
    return Weights(spec, collect_tensors(create_model(spec, seed=seed, head_std=1.0)), About("vitctl", "", *HALF))


def export_and_load(folder: Path, data: Path, format: Format, precision: Numbers) -> tuple[nn.Module, Comparison]:
    out = folder / (f"{precision}.onnx" if format == "onnx" else "model.pt2")
    source = str(folder / "fresh.safetensors")
    config = ExportConfig(
        format=format, source=source, out=str(out), precision=precision, data=str(data), agreement=0.0, pictures=32
    )
    comparison = export(config, SilentReporter()).comparison
    return (OnnxModel(out) if format == "onnx" else TorchProgram(out)), comparison


class Half(nn.Module):
    """Products in bfloat16, as training and features have them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(images)  # type: ignore[no-any-return]


def take_images(path: Path, weights: Weights, count: int) -> torch.Tensor:
    split = PatchFile(path).split("train")
    return images_of(weights.about, torch.from_numpy(split.images(np.arange(count) % split.rows)))


def time_export(model: nn.Module, images: torch.Tensor) -> Measurement:
    def measure() -> float:
        model(images[:PIECE])
        started = time.perf_counter()
        for piece in torch.split(images, PIECE):
            model(piece)
        return len(images) / (time.perf_counter() - started)

    return torch.inference_mode()(measure)
