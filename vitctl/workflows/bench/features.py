"""`vitctl bench features`: our extraction of frozen features, compared with a loop over timm's loader and model."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitctl.config.bench import BenchConfig, TrainCase
from vitctl.config.features import FeaturesConfig
from vitctl.io.patch_file import PatchFile
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import Precision
from vitctl.workflows.bench.measure import CaseTable, Measurement, time_seconds
from vitctl.workflows.bench.peer import bench_device, bench_precisions, timm_loader, timm_model
from vitctl.workflows.bench.train import make_training_images
from vitctl.workflows.features import extract_features, extractor_of

OURS, PEER = "vitctl features", "timm's loader and model"


def bench_features(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    case, device = TrainCase.parse(config.features), bench_device()
    ways = bench_precisions(device)
    path = make_training_images(replace(config, pictures=min(config.pictures, config.extracted)), case, folder)
    cases: dict[str, Measurement] = {}
    for way in ways:
        cases[f"{case} {OURS}, {way}"] = time_features(case, path, way)
        cases[f"{case} {PEER}, {way}"] = time_timm_features(case, path.with_suffix(""), way, device)
    pairs = [(f"{case} {OURS}, {way}", f"{case} {PEER}, {way}") for way in ways]
    yield CaseTable(cases, list(dict.fromkeys([(pairs[-1][0], pairs[0][1]), *pairs])))


def time_features(case: TrainCase, path: Path, way: Precision) -> Measurement:
    """As the command does it, from a patch file to a feature file, but with a model that is already loaded."""
    config = FeaturesConfig(source=f"random:{case.model}", data=str(path), batch=case.batch, precision=way)
    data = PatchFile(path)
    extractor = extractor_of(config, data, None, SilentReporter())
    extract = extractor.extract()
    rows = sum(split.rows for split in data.splits.values())

    def measure() -> float:
        out = path.with_name("features.h5")
        _, seconds = extract_features(replace(extractor, extract=lambda: extract), data, config, SilentReporter(), out)
        out.unlink()
        return rows / seconds

    return measure


def time_timm_features(case: TrainCase, folder: Path, way: Precision, device: torch.device) -> Measurement:
    model: Any = timm_model(case, device).eval()
    loader = timm_loader(folder, case.res, case.batch, device, scale=(0.05, 1.0))

    @torch.inference_mode()
    def extract() -> None:
        for images, _ in loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=way == "bf16"):
                features = model.forward_head(model.forward_features(images.to(device)), pre_logits=True)
            features.float().cpu().numpy()

    return lambda: len(loader.dataset) / time_seconds(extract)
