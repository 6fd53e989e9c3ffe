"""`vitctl bench train`: our loop from patch files, against a loop of timm's own parts from pictures."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.config.augment import PRESETS
from vitctl.config.bench import BenchConfig
from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.train import OptimConfig, TrainConfig
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import HALF, About, Weights
from vitctl.machine import cores
from vitctl.models.count import count
from vitctl.models.create import create_model, named_tensors
from vitctl.reporting import Reporter, Silent
from vitctl.training.ceiling import ceiling
from vitctl.training.precision import Named, chosen
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop
from vitctl.workflows.bench.data import given_jpegs
from vitctl.workflows.bench.measure import Figure, Measurement, Part, figure, in_turn, ratio
from vitctl.workflows.bench.pictures import multiply, write_jpegs
from vitctl.workflows.patchify import patchify
from vitctl.workflows.train.fit import Fit, Place

OURS, PEER = "our loop", "timm's loop"
LR, DECAY = 1e-3, 0.05
WARM_UP = 2  # steps
PREFETCHED = 2  # batches, by each of torch's workers
BACKWARD = 3  # a training step computes what a forward pass does three times


def bench_train(config: BenchConfig, reporter: Reporter) -> Part:
    spec = spec_of(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways: list[Named] = ["float32", "bf16"] if chosen("auto", device) == "bf16" else ["float32"]
    with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as folder:
        pictures = made_pictures(config, spec, Path(folder), reporter)
        measurements: dict[str, tuple[str, Measurement]] = {}
        for way in ways:
            measurements[f"{OURS}, {way}"] = ("img/s", our_loop(config, spec, pictures, way, device))
            measurements[f"{PEER}, {way}"] = ("img/s", timm_loop(config, spec, pictures, way, device))
            measurements[f"matrix product, {way}"] = ("GFLOP/s", lambda way=way: ceiling(way, device) / 1e9)  # type: ignore[misc]
        values = in_turn(measurements, config.rounds, reporter)
    figures = [figure(name, unit, values[name]) for name, (unit, _) in measurements.items()]
    pairs = [(f"{OURS}, {way}", f"{PEER}, {way}") for way in ways]
    if len(ways) > 1:
        pairs.append((f"{OURS}, bf16", f"{PEER}, float32"))
    return Part(figures, [ratio(values, *pair) for pair in pairs], [], remarks(config, spec, figures, ways, device))


def spec_of(config: BenchConfig) -> ModelSpec:
    return model_spec(config.train_model, height=config.res, width=config.res, classes=CLASSES)


CLASSES = 4  # of the pictures that are made up


def made_pictures(config: BenchConfig, spec: ModelSpec, folder: Path, reporter: Reporter) -> Path:
    """Class folders, as timm reads them, and beside them the patch file of the same."""
    reporter.note("making pictures and a patch file to train on")
    width, height = (500, 375) if config.res >= 128 else (config.res, config.res)
    paths = (
        given_jpegs(config)
        if config.data
        else write_jpegs(folder / "small", config.pictures, width, height, 95, config.seed)
    )
    many = multiply(folder / "many", paths, max(1, -(-4 * config.images // len(paths))))
    patchify(PatchifyConfig(str(many), str(folder / "many.h5"), res=str(config.res), patch=spec.patch), Silent())
    return many


def our_loop(config: BenchConfig, spec: ModelSpec, pictures: Path, way: Named, device: torch.device) -> Measurement:
    file = PatchFile(pictures.with_name("many.h5"))
    settings = TrainConfig(
        batch=config.images,
        steps=10**9,
        optim=OptimConfig(lr=LR, weight_decay=DECAY),
        augment=PRESETS["inception"],
        compile=config.compile,
    )
    fits: list[Fit] = []

    def measure() -> float:
        if not fits:
            model = create_model(spec.changed(classes=max(2, len(file.class_names))))
            about = About("vitctl", "", *HALF)
            begun = Weights(model.spec, named_tensors(model), about)  # type: ignore[arg-type]
            place = Place(file.split("train"), None, Ranks(), device, way, Silent(), Stop())
            fits.append(Fit(settings, begun, place, None))
        fit = fits[0]
        plan = fit.plan()
        seconds = [timed(lambda stop=stop: fit.train_until(replace(plan, steps=stop)), device)  # type: ignore[misc]
                   for stop in (fit.state.step + WARM_UP, fit.state.step + WARM_UP + config.steps)]  # fmt: skip
        return config.images * config.steps / seconds[1]

    return measure


def timed(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def timm_loop(config: BenchConfig, spec: ModelSpec, pictures: Path, way: Named, device: torch.device) -> Measurement:
    """What somebody writes who knows timm: its model, loader, optimiser, and autocast where it is asked for."""
    made: list[tuple[nn.Module, Any, Iterator[Any]]] = []

    def measure() -> float:
        if not made:
            made.append(timm_parts(config, spec, pictures, device))
        model, optimiser, batches = made[0]
        step = timm_step(model, optimiser, way, device)
        for images, labels in itertools.islice(batches, WARM_UP + PREFETCHED * cores()):
            step(images, labels)  # its workers fetched these while something else was measured
        taken = itertools.islice(batches, config.steps)
        return config.images * config.steps / timed(lambda: [step(*batch) for batch in taken], device)

    return measure


def timm_parts(
    config: BenchConfig, spec: ModelSpec, pictures: Path, device: torch.device
) -> tuple[nn.Module, Any, Iterator[Any]]:
    from timm.data.loader import create_loader
    from timm.models.vision_transformer import VisionTransformer
    from timm.optim import create_optimizer_v2
    from torchvision.datasets import ImageFolder

    model = VisionTransformer(
        spec.height, spec.patch, num_classes=CLASSES, embed_dim=spec.dim, depth=spec.depth, num_heads=spec.heads
    ).to(device)
    loader = create_loader(
        ImageFolder(str(pictures)),
        (3, spec.height, spec.width),
        config.images,
        is_training=True,
        use_prefetcher=device.type == "cuda",
        num_workers=cores(),
        mean=HALF[0],
        std=HALF[1],
        persistent_workers=True,
        scale=(0.05, 1.0),
        device=device,
    )
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    return model.train(), create_optimizer_v2(model, "adamw", LR, DECAY), endless


def timm_step(model: nn.Module, optimiser: Any, way: Named, device: torch.device) -> Callable[[Any, Any], None]:
    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "bf16"):
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()

    return step


def remarks(
    config: BenchConfig, spec: ModelSpec, figures: list[Figure], ways: list[Named], device: torch.device
) -> list[str]:
    medians = {each.name: each.median for each in figures}
    flops = BACKWARD * count(spec).flops
    lines = [f"{spec.name} at {config.res}, {config.images} pictures a step, on {device.type}"]
    for way in ways:
        shares = [medians[f"{who}, {way}"] * flops / 1e9 / medians[f"matrix product, {way}"] for who in (OURS, PEER)]
        lines.append(f"{way}: our loop runs at {shares[0]:.0%} of the matrix ceiling, timm's at {shares[1]:.0%}")
    return lines
