"""`vitctl bench features`: frozen features by our extractor, against a plain loop of timm's loader and model."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitctl.config.bench import BenchConfig, TrainCase
from vitctl.config.features import FeaturesConfig
from vitctl.io.patch_file import PatchFile
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import Precision, choose_precision
from vitctl.workflows.bench.measure import BenchPart, Measurement, make_figure, make_ratio, run_in_turn
from vitctl.workflows.bench.train import make_training_images, timm_loader, timm_model
from vitctl.workflows.features import extract_features, extractor_of

OURS, PEER = "vitctl features", "timm's loader and model"


def bench_features(config: BenchConfig, reporter: Reporter) -> BenchPart:
    case = TrainCase.parse(config.features)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways: list[Precision] = ["float32", "bf16"] if choose_precision("auto", device) == "bf16" else ["float32"]
    with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as name:
        folder = Path(name)
        pictures = make_training_images(replace(config, pictures=min(config.pictures, config.extracted)), case, folder)
        measurements: dict[str, tuple[str, Measurement]] = {}
        for way in ways:
            measurements[f"{case} {OURS}, {way}"] = ("img/s", ours(case, pictures.with_name("many.h5"), way))
            measurements[f"{case} {PEER}, {way}"] = ("img/s", peer(case, pictures, way, device))
        values = run_in_turn(measurements, config.times, reporter)
    figures = [make_figure(each, unit, values[each]) for each, (unit, _) in measurements.items()]
    fastest, plain = f"{case} {OURS}, {ways[-1]}", f"{case} {PEER}, float32"
    pairs = [(f"{case} {OURS}, {way}", f"{case} {PEER}, {way}") for way in ways]
    return BenchPart(figures, [make_ratio(values, *pair) for pair in dict.fromkeys([(fastest, plain), *pairs])])


def ours(case: TrainCase, path: Path, way: Precision) -> Measurement:
    """The command's own way, from a patch file to a feature file, with the model at hand."""
    wanted = FeaturesConfig(source=f"random:{case.model}", data=str(path), batch=case.batch, precision=way)
    data = PatchFile(path)
    extractor = extractor_of(wanted, data, None, SilentReporter())
    extract = extractor.extract()
    rows = sum(split.rows for split in data.splits.values())

    def measure() -> float:
        out = path.with_name("features.h5")
        _, seconds = extract_features(replace(extractor, extract=lambda: extract), data, wanted, SilentReporter(), out)
        out.unlink()
        return rows / seconds

    return measure


def peer(case: TrainCase, pictures: Path, way: Precision, device: torch.device) -> Measurement:
    model = timm_model(case, device).eval()
    loader = timm_loader(case, pictures, device, train=False)

    def measure() -> float:
        started = time.perf_counter()
        rows = sum(map(len, plain_loop(model, loader, way, device)))
        return rows / (time.perf_counter() - started)

    return measure


@torch.inference_mode()
def plain_loop(model: nn.Module, loader: Any, way: Precision, device: torch.device) -> Iterator[Any]:
    layers: Any = model
    for images, _ in loader:
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "bf16"):
            found = layers.forward_head(layers.forward_features(images.to(device)), pre_logits=True)
        yield found.float().cpu().numpy()
