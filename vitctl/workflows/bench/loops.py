"""`vitctl bench train`, `selfsup` and `features`: our loops, compared with good loops over timm's parts."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.config.augment import PRESETS
from vitctl.config.bench import BenchConfig, TrainCase
from vitctl.config.features import FeaturesConfig
from vitctl.config.masking import MaskingConfig
from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.train import OptimConfig, PretrainConfig, SelfsupConfig
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import HALF, About, Weights
from vitctl.machine import cores
from vitctl.models.count import BACKWARD, count
from vitctl.models.create import collect_tensors, create_model
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import Precision, choose_precision, measure_ceiling
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.masked import make_masked_task
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop
from vitctl.training.task import make_labeled_task
from vitctl.workflows.bench.images import CLASSES, find_or_write_jpegs, write_patch_file
from vitctl.workflows.bench.measure import CaseTable, Measurement, time_seconds
from vitctl.workflows.features import extract_features, extractor_of

OURS, PEER, PRODUCT = "our loop", "timm's loop", "matrix product"
EXTRACTOR, PEER_EXTRACTOR = "vitctl features", "timm's loader and model"
LR, DECAY = 1e-3, 0.05
WARM_UP = 2  # steps
PREFETCHED = 2  # batches by each of torch's workers
ALL, LIGHT, WHOLE = "all tokens (mean-color)", "mae, one block of 128", "mae, its paper's decoder"
HIDDEN = MaskingConfig(ratio=0.75, masked=1.0, swapped=0.0)
OBJECTIVES = {
    ALL: SelfsupConfig(objective="mean-color"),
    LIGHT: SelfsupConfig(objective="mae", masking=replace(HIDDEN, decoder_dim=128, decoder_depth=1, decoder_heads=4)),
    WHOLE: SelfsupConfig(objective="mae", masking=HIDDEN),
}


def bench_train(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    device = bench_device()
    for number, case in enumerate(map(TrainCase.parse, config.cases)):
        reporter.note(f"{case}: creating images and a patch file to train on")
        path = make_training_images(config, case, folder / str(number))
        yield compare_loops(config, case, path, device, bench_precisions(device))


def compare_loops(
    config: BenchConfig, case: TrainCase, path: Path, device: torch.device, precisions: list[Precision]
) -> CaseTable:
    settings = PretrainConfig(
        batch=case.batch, steps=10**9, optim=OptimConfig(lr=LR, weight_decay=DECAY), augment=PRESETS["inception"],
        compile="off",
    )  # fmt: skip
    cases: dict[str, Measurement] = {}
    for precision in precisions:
        fit = partial(make_fit, settings, case, path, device, precision)
        cases[f"{case} {OURS}, {precision}"] = time_fit(fit, case, config)
        cases[f"{case} {PEER}, {precision}"] = time_timm(case, config, path.with_suffix(""), precision, device)
        cases[f"{case} {PRODUCT}, {precision}"] = lambda precision=precision: measure_ceiling(precision, device) / 1e9  # type: ignore[misc]
    if config.compiled:
        fit = partial(make_fit, replace(settings, compile="on"), case, path, device, precisions[-1])
        cases[f"{case} {OURS}, {precisions[-1]}, compiled"] = time_fit(fit, case, config)
    ours, peers = ([name for name in cases if name.startswith(f"{case} {loop}")] for loop in (OURS, PEER))
    pairs = [(name, peer) for peer in peers for name in ours if name != ours[0] or peer == peers[0]]

    def remarks(medians: dict[str, float]) -> list[str]:
        gigaflops = BACKWARD * count(case_spec(case)).flops / 1e9
        lines = []
        for name in (*ours, *peers):
            ceiling = medians[f"{case} {PRODUCT}, {'bf16' if 'bf16' in name else 'float32'}"]
            lines.append(f"{name}: {medians[name] * gigaflops / ceiling:.0%} of the matrix ceiling")
        return lines

    units = {name: "GFLOP/s" for name in cases if PRODUCT in name}
    return CaseTable(cases, pairs, remarks=remarks, units=units)


def bench_selfsup(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    """MAE's step, which skips hidden patches in the encoder, compared with a step on all tokens."""
    case, device = TrainCase.parse(config.selfsup), bench_device()
    path, precision = make_training_images(config, case, folder), choose_precision("auto", device)
    fits: dict[str, Callable[[], Fit]] = {}
    for name, objective in OBJECTIVES.items():
        # without augmentation, so that patches are used as stored
        settings = replace(objective, batch=case.batch, steps=10**9, probe=0, optim=OptimConfig(lr=LR), compile="off")
        fits[f"{case} {name}"] = cache(partial(make_fit, settings, case, path, device, precision))
    baseline, *others = fits

    def remarks(_: dict[str, float]) -> list[str]:
        flops = {name: fit().task.flops for name, fit in fits.items()}
        return [f"{name}: {flops[baseline] / flops[name]:.2f} times as fast by count of operations" for name in others]

    cases = {name: time_fit(fit, case, config) for name, fit in fits.items()}
    yield CaseTable(cases, [(name, baseline) for name in others], remarks=remarks)


def make_training_images(config: BenchConfig, case: TrainCase, folder: Path) -> Path:
    width, height = (500, 375) if case.res >= 128 else (case.res, case.res)
    paths = find_or_write_jpegs(config, folder / "small", width, height)
    return write_patch_file(folder, paths, max(1, -(-4 * case.batch // len(paths))), case.res, case_spec(case).patch)


def make_fit(
    settings: PretrainConfig | SelfsupConfig, case: TrainCase, path: Path, device: torch.device, precision: Precision
) -> Fit:
    file = PatchFile(path)
    classes = max(2, len(file.class_names)) if isinstance(settings, PretrainConfig) else 0
    model = create_model(case_spec(case).replace(classes=classes))
    weights = Weights(model.spec, collect_tensors(model), About("vitctl", "", *HALF))  # type: ignore[arg-type]
    env = Environment(file.split("train"), None, Ranks(), device, precision, SilentReporter(), Stop())
    if isinstance(settings, PretrainConfig):
        return Fit(settings, make_labeled_task(settings, weights, env), env, None)
    return Fit(settings, make_masked_task(settings, weights, env, None), env, None)


def time_fit(make: Callable[[], Fit], case: TrainCase, config: BenchConfig) -> Measurement:
    """Images per second of our loop, which is built at the first call and continued at the next ones."""
    make, steps = cache(make), max(2, config.train_images // case.batch)

    def run(fit: Fit, count: int) -> None:
        fit.train_until(fit.state.step + count)

    def measure() -> float:
        fit = make()
        run(fit, WARM_UP)
        return case.batch * steps / time_seconds(lambda: run(fit, steps), fit.env.device)

    return measure


def time_timm(
    case: TrainCase, config: BenchConfig, folder: Path, precision: Precision, device: torch.device
) -> Measurement:
    """Images per second of a loop over timm's model, loader and optimizer, which is continued at the next call."""
    steps = max(2, config.train_images // case.batch)

    @cache
    def make() -> tuple[nn.Module, Any, Iterator[Any]]:
        from timm.optim import create_optimizer_v2

        loader = timm_loader(folder, case.res, case.batch, device, is_training=True, scale=(0.05, 1.0))
        model = timm_model(case, device, len(loader.dataset.classes)).train()
        endless = itertools.chain.from_iterable(itertools.repeat(loader))
        return model, create_optimizer_v2(model, "adamw", LR, DECAY), endless

    def run(count: int) -> None:
        model, optimizer, batches = make()
        for images, labels in itertools.islice(batches, count):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def measure() -> float:
        for _ in itertools.islice(make()[2], PREFETCHED * cores()):
            pass  # these were prefetched while something else was measured
        run(WARM_UP)
        return case.batch * steps / time_seconds(lambda: run(steps), device)

    return measure


def case_spec(case: TrainCase) -> ModelSpec:
    return model_spec(case.model, height=case.res, width=case.res, classes=CLASSES)


def bench_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bench_precisions(device: torch.device) -> list[Precision]:
    """float32, and bf16 if it is what --precision auto chooses."""
    return ["float32", "bf16"] if choose_precision("auto", device) == "bf16" else ["float32"]


def timm_model(case: TrainCase, device: torch.device, classes: int = CLASSES) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    spec = case_spec(case)
    model: nn.Module = VisionTransformer(
        spec.height, spec.patch, num_classes=classes, embed_dim=spec.dim, depth=spec.depth, num_heads=spec.heads
    )
    return model.to(device)


def timm_loader(
    folder: Path, res: int, batch: int, device: torch.device | None = None, is_training: bool = False, **options: Any
) -> Any:
    """timm's loader over torchvision's ImageFolder, one worker per core. Without a device it does not prefetch."""
    from timm.data.loader import create_loader
    from torchvision.datasets import ImageFolder

    device = device or torch.device("cpu")
    return create_loader(
        ImageFolder(str(folder)), (3, res, res), batch, is_training=is_training, use_prefetcher=device.type == "cuda",
        num_workers=cores(), mean=HALF[0], std=HALF[1], persistent_workers=True, device=device, **options,
    )  # fmt: skip


def bench_features(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    """Frozen features by our extractor, compared with a plain loop over timm's loader and model."""
    case, device = TrainCase.parse(config.features), bench_device()
    precisions = bench_precisions(device)
    path = make_training_images(replace(config, pictures=min(config.pictures, config.extracted)), case, folder)
    cases: dict[str, Measurement] = {}
    for precision in precisions:
        cases[f"{case} {EXTRACTOR}, {precision}"] = time_features(case, path, precision)
        cases[f"{case} {PEER_EXTRACTOR}, {precision}"] = time_timm_features(
            case, path.with_suffix(""), precision, device
        )
    pairs = [(f"{case} {EXTRACTOR}, {precision}", f"{case} {PEER_EXTRACTOR}, {precision}") for precision in precisions]
    yield CaseTable(cases, list(dict.fromkeys([(pairs[-1][0], pairs[0][1]), *pairs])))


def time_features(case: TrainCase, path: Path, precision: Precision) -> Measurement:
    """Like the command, from a patch file to a feature file, but with a model that is already loaded."""
    config = FeaturesConfig(source=f"random:{case.model}", data=str(path), batch=case.batch, precision=precision)
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


def time_timm_features(case: TrainCase, folder: Path, precision: Precision, device: torch.device) -> Measurement:
    model: Any = timm_model(case, device).eval()
    loader = timm_loader(folder, case.res, case.batch, device, scale=(0.05, 1.0))

    @torch.inference_mode()
    def extract() -> None:
        for images, _ in loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                features = model.forward_head(model.forward_features(images.to(device)), pre_logits=True)
            features.float().cpu().numpy()

    return lambda: len(loader.dataset) / time_seconds(extract)
