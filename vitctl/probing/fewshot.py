"""Fits a probe on the shots of a seed and measures it on all test images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitctl.config.fewshot import ProbeConfig
from vitctl.probing.draws import Ints, draw_orders, take_shots
from vitctl.probing.estimators import (
    LeastSquares,
    LeastSquaresGrid,
    Logistic,
    NearestMean,
    NearestNeighbors,
    best_on,
)  # fmt: skip
from vitctl.probing.ridge import Floats


@dataclass(frozen=True)
class ProbeTask:
    """Features of labeled images."""

    train: Floats  # [M, D]
    labels: Ints  # [M]
    test: Floats  # [T, D]
    truth: Ints  # [T]
    classes: int


@dataclass(frozen=True)
class ProbeTrial:
    seed: int
    top1: float
    strength: float | None  # l2, or scikit-learn's C
    rows: Ints  # the shots
    guesses: Ints  # [T]

    @property
    def main(self) -> float:
        """What compares models."""
        return self.top1

    @property
    def scores(self) -> dict[str, float]:
        """Metrics beside top-1."""
        return {}


PROBES: dict[str, Callable[[ProbeConfig], Any]] = {
    "lsr": lambda config: LeastSquares(config.l2),
    "lsr-grid": lambda config: LeastSquaresGrid(l2=config.l2),
    "logreg": lambda config: Logistic(),
    "knn": lambda config: NearestNeighbors(config.k, config.temperature),
    "ncm": lambda config: NearestMean(),
}


def run_trial(task: ProbeTask, name: str, config: ProbeConfig, shots: int | None, seed: int) -> ProbeTrial:
    rows = take_shots(draw_orders(task.labels, task.classes, seed), shots)
    probe = PROBES[name](config).fit(task.train[rows], task.labels[rows])
    if name == "lsr-grid" and config.select == "test":
        probe = best_on(task.train[rows], task.labels[rows], task.test, task.truth)
    guesses = np.asarray(probe.predict(task.test))
    strength = getattr(probe, "l2_", getattr(probe, "c_", None))
    return ProbeTrial(seed, float((guesses == task.truth).mean()), strength, rows, guesses)


def count_constant_features(features: Floats) -> int:
    """The number of features that are constant on all shots.

    Their standard deviation is SMALLEST, so any difference of a test image is multiplied by 100,000.
    """
    return int((np.ptp(features, axis=0) == 0).sum())


def confidence_interval(values: list[float]) -> float | None:
    """Half the width of the 95% interval of a mean over seeds, by Student's t."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
