"""`vitctl bench train` and `selfsup`: our training loop, compared with timm's and with the cost of masked patches."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from vitctl.config.augment import PRESETS
from vitctl.config.bench import BenchConfig, TrainCase
from vitctl.config.masking import MaskingConfig
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
from vitctl.workflows.bench.images import find_or_write_jpegs, write_patch_file
from vitctl.workflows.bench.measure import CaseTable, Measurement, time_seconds
from vitctl.workflows.bench.peer import (
    DECAY,
    LR,
    bench_device,
    bench_precisions,
    case_spec,
    timm_step,
    timm_training,
)  # fmt: skip

OURS, PEER, PRODUCT = "our loop", "timm's loop", "matrix product"
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
    config: BenchConfig, case: TrainCase, path: Path, device: torch.device, ways: list[Precision]
) -> CaseTable:
    settings = PretrainConfig(
        batch=case.batch, steps=10**9, optim=OptimConfig(lr=LR, weight_decay=DECAY), augment=PRESETS["inception"],
        compile="off",
    )  # fmt: skip
    cases: dict[str, Measurement] = {}
    for way in ways:
        fit = partial(make_fit, settings, case, path, device, way)
        cases[f"{case} {OURS}, {way}"] = time_fit(fit, case, config)
        cases[f"{case} {PEER}, {way}"] = time_timm(case, config, path.with_suffix(""), way, device)
        cases[f"{case} {PRODUCT}, {way}"] = partial(measure_gigaflops, way, device)
    if config.compiled:
        fit = partial(make_fit, replace(settings, compile="on"), case, path, device, ways[-1])
        cases[f"{case} {OURS}, {ways[-1]}, compiled"] = time_fit(fit, case, config)
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


def measure_gigaflops(way: Precision, device: torch.device) -> float:
    return measure_ceiling(way, device) / 1e9


def bench_selfsup(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    """MAE's step, which skips hidden patches in the encoder, compared with a step on all tokens."""
    case, device = TrainCase.parse(config.selfsup), bench_device()
    path, way = make_training_images(config, case, folder), choose_precision("auto", device)
    fits: dict[str, Callable[[], Fit]] = {}
    for name, objective in OBJECTIVES.items():
        # without augmentation, so that patches are used as they are in the file
        settings = replace(objective, batch=case.batch, steps=10**9, probe=0, optim=OptimConfig(lr=LR), compile="off")
        fits[f"{case} {name}"] = cache(partial(make_fit, settings, case, path, device, way))
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
    settings: PretrainConfig | SelfsupConfig, case: TrainCase, path: Path, device: torch.device, way: Precision
) -> Fit:
    file = PatchFile(path)
    classes = max(2, len(file.class_names)) if isinstance(settings, PretrainConfig) else 0
    model = create_model(case_spec(case).replace(classes=classes))
    weights = Weights(model.spec, collect_tensors(model), About("vitctl", "", *HALF))  # type: ignore[arg-type]
    env = Environment(file.split("train"), None, Ranks(), device, way, SilentReporter(), Stop())
    if isinstance(settings, PretrainConfig):
        return Fit(settings, make_labeled_task(settings, weights, env), env, None)
    return Fit(settings, make_masked_task(settings, weights, env, None), env, None)


def time_fit(make: Callable[[], Fit], case: TrainCase, config: BenchConfig) -> Measurement:
    """Images per second of our loop, which is built at the first call and goes on at the next ones."""
    make, steps = cache(make), max(2, config.train_images // case.batch)

    def run(fit: Fit, count: int) -> None:
        fit.train_until(replace(fit.loop_config(), steps=fit.state.step + count))

    def measure() -> float:
        fit = make()
        run(fit, WARM_UP)
        return case.batch * steps / time_seconds(lambda: run(fit, steps), fit.env.device)

    return measure


def time_timm(case: TrainCase, config: BenchConfig, folder: Path, way: Precision, device: torch.device) -> Measurement:
    """Images per second of a loop over timm's model, loader and optimizer, which goes on at the next call."""
    make, steps = cache(partial(timm_training, case, folder, device)), max(2, config.train_images // case.batch)

    def measure() -> float:
        model, optimizer, batches = make()
        step = timm_step(model, optimizer, way, device)
        for _ in itertools.islice(batches, PREFETCHED * cores()):
            pass  # these were prefetched while something else was measured
        for batch in itertools.islice(batches, WARM_UP):
            step(*batch)
        batches = itertools.islice(batches, steps)
        return case.batch * steps / time_seconds(lambda: [step(*batch) for batch in batches], device)

    return measure
