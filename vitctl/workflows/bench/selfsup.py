"""`vitctl bench selfsup`: MAE's step, which leaves hidden patches out, against a step of all tokens."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from vitctl.config.bench import BenchConfig, TrainCase
from vitctl.config.masking import MaskingConfig
from vitctl.config.train import OptimConfig, TrainConfig
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import HALF, About, Weights
from vitctl.models.create import create_model, named_tensors
from vitctl.reporting import Reporter, Silent
from vitctl.training.precision import chosen
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop
from vitctl.workflows.bench.measure import Measurement, Part, figure, in_turn, ratio
from vitctl.workflows.bench.train import LR, WARM_UP, made_pictures, run_to, spec_of, timed
from vitctl.workflows.train.fit import Fit
from vitctl.workflows.train.masked import masked
from vitctl.workflows.train.place import Place

ALL, LIGHT, WHOLE = "all tokens (mean-color)", "mae, one block of 128", "mae, its paper's decoder"
HIDDEN = MaskingConfig(0.75, 1.0, 0.0)
WAYS = {
    ALL: TrainConfig(objective="mean-color"),
    LIGHT: TrainConfig(objective="mae", masking=replace(HIDDEN, decoder_dim=128, decoder_depth=1, decoder_heads=4)),
    WHOLE: TrainConfig(objective="mae", masking=HIDDEN),
}


def bench_selfsup(config: BenchConfig, reporter: Reporter) -> Part:
    case = TrainCase.parsed(config.selfsup)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as folder:
        path = made_pictures(config, case, Path(folder)).with_name("many.h5")
        fits = {f"{case} {name}": fit_of(case, way, path, device) for name, way in WAYS.items()}
        measurements: dict[str, tuple[str, Measurement]] = {
            name: ("img/s", steps_of(fit, case, config)) for name, fit in fits.items()
        }
        values = in_turn(measurements, config.times, reporter)
    figures = [figure(name, unit, values[name]) for name, (unit, _) in measurements.items()]
    every, *others = fits
    remarks = [
        f"{name}: {fits[every].task.flops / fits[name].task.flops:.2f} times by the count of its operations"
        for name in others
    ]
    return Part(figures, [ratio(values, name, every) for name in others], [], remarks)


def fit_of(case: TrainCase, way: TrainConfig, path: Path, device: torch.device) -> Fit:
    """On patches as they lie in the file: nothing is augmented, and no picture is put together."""
    file = PatchFile(path)
    settings = replace(way, batch=case.batch, steps=10**9, probe=0, optim=OptimConfig(lr=LR), compile="off")
    model = create_model(spec_of(case).changed(classes=0))
    begun = Weights(model.spec, named_tensors(model), About("vitctl", "", *HALF))  # type: ignore[arg-type]
    place = Place(file.split("train"), None, Ranks(), device, chosen("auto", device), Silent(), Stop())
    return Fit(settings, masked(settings, begun, place, None), place, None)


def steps_of(fit: Fit, case: TrainCase, config: BenchConfig) -> Callable[[], float]:
    steps = max(2, config.train_images // case.batch)

    def measure() -> float:
        run_to(fit, fit.state.step + WARM_UP)
        return case.batch * steps / timed(lambda: run_to(fit, fit.state.step + steps), fit.place.device)

    return measure
