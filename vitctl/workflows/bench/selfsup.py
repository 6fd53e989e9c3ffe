"""`vitctl bench selfsup`: MAE's step, which leaves hidden patches out, against a step of all tokens."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from vitctl.config.bench import BenchConfig, TrainCase
from vitctl.config.masking import MaskingConfig
from vitctl.config.train import OptimConfig, SelfsupConfig
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import HALF, About, Weights
from vitctl.models.create import collect_tensors, create_model
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import choose_precision
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.masked import make_masked_task
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop
from vitctl.workflows.bench.measure import BenchPart, Measurement, make_figure, make_ratio, run_in_turn
from vitctl.workflows.bench.train import LR, WARM_UP, case_spec, make_training_images, run_to, time_steps

ALL, LIGHT, WHOLE = "all tokens (mean-color)", "mae, one block of 128", "mae, its paper's decoder"
HIDDEN = MaskingConfig(ratio=0.75, masked=1.0, swapped=0.0)
WAYS = {
    ALL: SelfsupConfig(objective="mean-color"),
    LIGHT: SelfsupConfig(objective="mae", masking=replace(HIDDEN, decoder_dim=128, decoder_depth=1, decoder_heads=4)),
    WHOLE: SelfsupConfig(objective="mae", masking=HIDDEN),
}


def bench_selfsup(config: BenchConfig, reporter: Reporter) -> BenchPart:
    case = TrainCase.parse(config.selfsup)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as folder:
        path = make_training_images(config, case, Path(folder)).with_name("many.h5")
        fits = {f"{case} {name}": make_fit(case, way, path, device) for name, way in WAYS.items()}
        measurements: dict[str, tuple[str, Measurement]] = {
            name: ("img/s", make_step_timer(fit, case, config)) for name, fit in fits.items()
        }
        values = run_in_turn(measurements, config.times, reporter)
    figures = [make_figure(name, unit, values[name]) for name, (unit, _) in measurements.items()]
    every, *others = fits
    remarks = [
        f"{name}: {fits[every].task.flops / fits[name].task.flops:.2f} times by the count of its operations"
        for name in others
    ]
    return BenchPart(figures, [make_ratio(values, name, every) for name in others], [], remarks)


def make_fit(case: TrainCase, way: SelfsupConfig, path: Path, device: torch.device) -> Fit:
    """On patches as they lie in the file: nothing is augmented, and no image is put together."""
    file = PatchFile(path)
    settings = replace(way, batch=case.batch, steps=10**9, probe=0, optim=OptimConfig(lr=LR), compile="off")
    model = create_model(case_spec(case).replace(classes=0))
    begun = Weights(model.spec, collect_tensors(model), About("vitctl", "", *HALF))  # type: ignore[arg-type]
    place = Environment(
        file.split("train"), None, Ranks(), device, choose_precision("auto", device), SilentReporter(), Stop()
    )
    return Fit(settings, make_masked_task(settings, begun, place, None), place, None)


def make_step_timer(fit: Fit, case: TrainCase, config: BenchConfig) -> Callable[[], float]:
    steps = max(2, config.train_images // case.batch)

    def measure() -> float:
        run_to(fit, fit.state.step + WARM_UP)
        return case.batch * steps / time_steps(lambda: run_to(fit, fit.state.step + steps), fit.env.device)

    return measure
