"""`vitctl bench train`: our loop from patch files, against a loop of timm's own parts from images."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.config.augment import PRESETS
from vitctl.config.bench import BenchConfig, TrainCase
from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.config.train import OptimConfig, PretrainConfig
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import HALF, About, Weights
from vitctl.machine import cores
from vitctl.models.count import BACKWARD, count
from vitctl.models.create import collect_tensors, create_model
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import Precision, choose_precision, measure_ceiling
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop
from vitctl.training.task import make_labeled_task
from vitctl.workflows.bench.data import find_jpegs
from vitctl.workflows.bench.images import CLASSES, multiply_images, write_jpegs
from vitctl.workflows.bench.measure import BenchPart, Figure, Measurement, make_figure, make_ratio, run_in_turn
from vitctl.workflows.patchify import patchify

OURS, PEER, PRODUCT = "our loop", "timm's loop", "matrix product"
LR, DECAY = 1e-3, 0.05
WARM_UP = 2  # steps
PREFETCHED = 2  # batches, by each of torch's workers


@dataclass(frozen=True)
class LoopComparison:
    """A model trained on the same images by both loops."""

    case: TrainCase
    config: BenchConfig
    pictures: Path  # class folders, as timm reads them; beside them the patch file of the same
    device: torch.device

    @property
    def spec(self) -> ModelSpec:
        return case_spec(self.case)

    @property
    def steps(self) -> int:
        return max(2, self.config.train_images // self.case.batch)

    def rate(self, seconds: float) -> float:
        return self.case.batch * self.steps / seconds


def case_spec(case: TrainCase) -> ModelSpec:
    return model_spec(case.model, height=case.res, width=case.res, classes=CLASSES)


def bench_train(config: BenchConfig, reporter: Reporter) -> BenchPart:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = BenchPart()
    for case in map(TrainCase.parse, config.cases):
        with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as folder:
            reporter.note(f"{case}: making images and a patch file to train on")
            found += measure_loops(
                LoopComparison(case, config, make_training_images(config, case, Path(folder)), device), reporter
            )
    return found


def measure_loops(trial: LoopComparison, reporter: Reporter) -> BenchPart:
    ways: list[Precision] = ["float32", "bf16"] if choose_precision("auto", trial.device) == "bf16" else ["float32"]
    ours, peers, products = ([f"{trial.case} {what}, {way}" for way in ways] for what in (OURS, PEER, PRODUCT))
    measurements: dict[str, tuple[str, Measurement]] = {}
    for way, *names in zip(ways, ours, peers, products, strict=True):
        measurements[names[0]] = ("img/s", our_loop(trial, way, compiled=False))
        measurements[names[1]] = ("img/s", timm_loop(trial, way))
        measurements[names[2]] = ("GFLOP/s", lambda way=way: measure_ceiling(way, trial.device) / 1e9)  # type: ignore[misc]
    if trial.config.compiled:
        ours.append(f"{trial.case} {OURS}, {ways[-1]}, compiled")
        measurements[ours[-1]] = ("img/s", our_loop(trial, ways[-1], compiled=True))
    values = run_in_turn(measurements, trial.config.times, reporter)
    figures = [make_figure(name, unit, values[name]) for name, (unit, _) in measurements.items()]
    pairs = [(name, peer) for peer in peers for name in ours if name != ours[0] or peer == peers[0]]
    ratios = [make_ratio(values, *pair) for pair in pairs]
    return BenchPart(figures, ratios, [], remark_loops(trial, figures, [*ours, *peers]))


def make_training_images(config: BenchConfig, case: TrainCase, folder: Path) -> Path:
    width, height = (500, 375) if case.res >= 128 else (case.res, case.res)
    paths = (
        find_jpegs(config)
        if config.data
        else write_jpegs(folder / "small", config.pictures, width, height, 95, config.seed)
    )
    many = multiply_images(folder / "many", paths, max(1, -(-4 * case.batch // len(paths))))
    patch = model_spec(case.model).patch
    patchify(
        PatchifyConfig(source=str(many), out=str(folder / "many.h5"), res=Res(case.res), patch=patch), SilentReporter()
    )
    return many


def our_loop(trial: LoopComparison, way: Precision, compiled: bool) -> Measurement:
    file = PatchFile(trial.pictures.with_name("many.h5"))
    settings = PretrainConfig(
        batch=trial.case.batch,
        steps=10**9,
        optim=OptimConfig(lr=LR, weight_decay=DECAY),
        augment=PRESETS["inception"],
        compile="on" if compiled else "off",
    )
    fits: list[Fit] = []

    def measure() -> float:
        if not fits:
            model = create_model(trial.spec.replace(classes=max(2, len(file.class_names))))
            about = About("vitctl", "", *HALF)
            begun = Weights(model.spec, collect_tensors(model), about)  # type: ignore[arg-type]
            place = Environment(file.split("train"), None, Ranks(), trial.device, way, SilentReporter(), Stop())
            fits.append(Fit(settings, make_labeled_task(settings, begun, place), place, None))
        fit = fits[0]
        run_to(fit, fit.state.step + WARM_UP)
        return trial.rate(time_steps(lambda: run_to(fit, fit.state.step + trial.steps), trial.device))

    return measure


def run_to(fit: Fit, step: int) -> None:
    fit.train_until(replace(fit.loop_config(), steps=step))


def time_steps(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def timm_loop(trial: LoopComparison, way: Precision) -> Measurement:
    """What somebody writes who knows timm: its model, loader, optimizer, and autocast where it is asked for."""
    made: list[tuple[nn.Module, Any, Iterator[Any]]] = []

    def measure() -> float:
        if not made:
            made.append(timm_parts(trial))
        model, optimizer, batches = made[0]
        step = timm_step(model, optimizer, way, trial.device)
        for _ in itertools.islice(batches, PREFETCHED * cores()):
            pass  # fetched while something else was measured
        for batch in itertools.islice(batches, WARM_UP):
            step(*batch)
        taken = itertools.islice(batches, trial.steps)
        return trial.rate(time_steps(lambda: [step(*batch) for batch in taken], trial.device))

    return measure


def timm_parts(trial: LoopComparison) -> tuple[nn.Module, Any, Iterator[Any]]:
    from timm.optim import create_optimizer_v2

    loader = timm_loader(trial.case, trial.pictures, trial.device, train=True)
    model = timm_model(trial.case, trial.device, len(loader.dataset.classes))
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    return model.train(), create_optimizer_v2(model, "adamw", LR, DECAY), endless


def timm_model(case: TrainCase, device: torch.device, classes: int = CLASSES) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    spec = case_spec(case)
    model: nn.Module = VisionTransformer(
        spec.height, spec.patch, num_classes=classes, embed_dim=spec.dim, depth=spec.depth, num_heads=spec.heads
    )
    return model.to(device)


def timm_loader(case: TrainCase, pictures: Path, device: torch.device, train: bool) -> Any:
    from timm.data.loader import create_loader
    from torchvision.datasets import ImageFolder

    return create_loader(
        ImageFolder(str(pictures)),
        (3, case.res, case.res),
        case.batch,
        is_training=train,
        use_prefetcher=device.type == "cuda",
        num_workers=cores(),
        mean=HALF[0],
        std=HALF[1],
        persistent_workers=True,
        scale=(0.05, 1.0),
        device=device,
    )


def timm_step(model: nn.Module, optimizer: Any, way: Precision, device: torch.device) -> Callable[[Any, Any], None]:
    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "bf16"):
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def remark_loops(trial: LoopComparison, figures: list[Figure], loops: list[str]) -> list[str]:
    """What share of this device's matrix products each loop reaches."""
    medians = {each.name: each.median for each in figures}
    flops = BACKWARD * count(trial.spec).flops
    shares = {}
    for name in loops:
        way = "bf16" if "bf16" in name else "float32"
        shares[name] = medians[name] * flops / 1e9 / medians[f"{trial.case} {PRODUCT}, {way}"]
    return [f"{name}: {share:.0%} of the matrix ceiling" for name, share in shares.items()]
