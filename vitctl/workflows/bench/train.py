"""`vitctl bench train`: our loop from patch files, against a loop of timm's own parts from pictures."""

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
from vitctl.config.train import OptimConfig, TrainConfig
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import HALF, About, Weights
from vitctl.machine import cores
from vitctl.models.count import BACKWARD, count
from vitctl.models.create import create_model, named_tensors
from vitctl.reporting import Reporter, Silent
from vitctl.training.ceiling import ceiling
from vitctl.training.precision import Precision, chosen
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop
from vitctl.workflows.bench.data import given_jpegs
from vitctl.workflows.bench.measure import Figure, Measurement, Part, figure, in_turn, ratio
from vitctl.workflows.bench.pictures import CLASSES, multiply, write_jpegs
from vitctl.workflows.patchify import patchify
from vitctl.workflows.train.fit import Fit
from vitctl.workflows.train.place import Place
from vitctl.workflows.train.task import labelled

OURS, PEER, PRODUCT = "our loop", "timm's loop", "matrix product"
LR, DECAY = 1e-3, 0.05
WARM_UP = 2  # steps
PREFETCHED = 2  # batches, by each of torch's workers


@dataclass(frozen=True)
class Trial:
    """A model trained on the same pictures by both loops."""

    case: TrainCase
    config: BenchConfig
    pictures: Path  # class folders, as timm reads them; beside them the patch file of the same
    device: torch.device

    @property
    def spec(self) -> ModelSpec:
        return spec_of(self.case)

    @property
    def steps(self) -> int:
        return max(2, self.config.train_images // self.case.batch)

    def rate(self, seconds: float) -> float:
        return self.case.batch * self.steps / seconds


def spec_of(case: TrainCase) -> ModelSpec:
    return model_spec(case.model, height=case.res, width=case.res, classes=CLASSES)


def bench_train(config: BenchConfig, reporter: Reporter) -> Part:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = Part()
    for case in map(TrainCase.parsed, config.cases):
        with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as folder:
            reporter.note(f"{case}: making pictures and a patch file to train on")
            found += measured(Trial(case, config, made_pictures(config, case, Path(folder)), device), reporter)
    return found


def measured(trial: Trial, reporter: Reporter) -> Part:
    ways: list[Precision] = ["float32", "bf16"] if chosen("auto", trial.device) == "bf16" else ["float32"]
    ours, peers, products = ([f"{trial.case} {what}, {way}" for way in ways] for what in (OURS, PEER, PRODUCT))
    measurements: dict[str, tuple[str, Measurement]] = {}
    for way, *names in zip(ways, ours, peers, products, strict=True):
        measurements[names[0]] = ("img/s", our_loop(trial, way, compiled=False))
        measurements[names[1]] = ("img/s", timm_loop(trial, way))
        measurements[names[2]] = ("GFLOP/s", lambda way=way: ceiling(way, trial.device) / 1e9)  # type: ignore[misc]
    if trial.config.compiled:
        ours.append(f"{trial.case} {OURS}, {ways[-1]}, compiled")
        measurements[ours[-1]] = ("img/s", our_loop(trial, ways[-1], compiled=True))
    values = in_turn(measurements, trial.config.times, reporter)
    figures = [figure(name, unit, values[name]) for name, (unit, _) in measurements.items()]
    pairs = [(name, peer) for peer in peers for name in ours if name != ours[0] or peer == peers[0]]
    ratios = [ratio(values, *pair) for pair in pairs]
    return Part(figures, ratios, [], remarks(trial, figures, [*ours, *peers]))


def made_pictures(config: BenchConfig, case: TrainCase, folder: Path) -> Path:
    width, height = (500, 375) if case.res >= 128 else (case.res, case.res)
    paths = (
        given_jpegs(config)
        if config.data
        else write_jpegs(folder / "small", config.pictures, width, height, 95, config.seed)
    )
    many = multiply(folder / "many", paths, max(1, -(-4 * case.batch // len(paths))))
    patch = model_spec(case.model).patch
    patchify(PatchifyConfig(str(many), str(folder / "many.h5"), res=str(case.res), patch=patch), Silent())
    return many


def our_loop(trial: Trial, way: Precision, compiled: bool) -> Measurement:
    file = PatchFile(trial.pictures.with_name("many.h5"))
    settings = TrainConfig(
        batch=trial.case.batch,
        steps=10**9,
        optim=OptimConfig(lr=LR, weight_decay=DECAY),
        augment=PRESETS["inception"],
        compile="on" if compiled else "off",
    )
    fits: list[Fit] = []

    def measure() -> float:
        if not fits:
            model = create_model(trial.spec.changed(classes=max(2, len(file.class_names))))
            about = About("vitctl", "", *HALF)
            begun = Weights(model.spec, named_tensors(model), about)  # type: ignore[arg-type]
            place = Place(file.split("train"), None, Ranks(), trial.device, way, Silent(), Stop())
            fits.append(Fit(settings, labelled(settings, begun, place), place, None))
        fit = fits[0]
        run_to(fit, fit.state.step + WARM_UP)
        return trial.rate(timed(lambda: run_to(fit, fit.state.step + trial.steps), trial.device))

    return measure


def run_to(fit: Fit, step: int) -> None:
    fit.train_until(replace(fit.plan(), steps=step))


def timed(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def timm_loop(trial: Trial, way: Precision) -> Measurement:
    """What somebody writes who knows timm: its model, loader, optimiser, and autocast where it is asked for."""
    made: list[tuple[nn.Module, Any, Iterator[Any]]] = []

    def measure() -> float:
        if not made:
            made.append(timm_parts(trial))
        model, optimiser, batches = made[0]
        step = timm_step(model, optimiser, way, trial.device)
        for _ in itertools.islice(batches, PREFETCHED * cores()):
            pass  # fetched while something else was measured
        for batch in itertools.islice(batches, WARM_UP):
            step(*batch)
        taken = itertools.islice(batches, trial.steps)
        return trial.rate(timed(lambda: [step(*batch) for batch in taken], trial.device))

    return measure


def timm_parts(trial: Trial) -> tuple[nn.Module, Any, Iterator[Any]]:
    from timm.optim import create_optimizer_v2

    loader = timm_loader(trial.case, trial.pictures, trial.device, train=True)
    model = timm_model(trial.case, trial.device, len(loader.dataset.classes))
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    return model.train(), create_optimizer_v2(model, "adamw", LR, DECAY), endless


def timm_model(case: TrainCase, device: torch.device, classes: int = CLASSES) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    spec = spec_of(case)
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


def timm_step(model: nn.Module, optimiser: Any, way: Precision, device: torch.device) -> Callable[[Any, Any], None]:
    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "bf16"):
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()

    return step


def remarks(trial: Trial, figures: list[Figure], loops: list[str]) -> list[str]:
    """What share of this device's matrix products each loop reaches."""
    medians = {each.name: each.median for each in figures}
    flops = BACKWARD * count(trial.spec).flops
    shares = {}
    for name in loops:
        way = "bf16" if "bf16" in name else "float32"
        shares[name] = medians[name] * flops / 1e9 / medians[f"{trial.case} {PRODUCT}, {way}"]
    return [f"{name}: {share:.0%} of the matrix ceiling" for name, share in shares.items()]
