"""Fits a probe on the shots of a seed and measures it on all test images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitctl.config.fewshot import ProbeConfig
from vitctl.probing.draws import Ints, draw_episode, draw_orders, hold_out_validation, take_shots
from vitctl.probing.estimators import (
    DinoLogistic,
    LeastSquares,
    LeastSquaresGrid,
    Logistic,
    NearestMean,
    NearestNeighbors,
    best_on,
    best_on_validation,
)
from vitctl.probing.ridge import Floats


@dataclass(frozen=True)
class ProbeTask:
    """Features of labeled images."""

    train: Floats  # [M, D]
    labels: Ints  # [M]
    test: Floats  # [T, D]
    truth: Ints  # [T]
    classes: int
    base: Floats | None = None  # [D], the mean of other classes
    val: tuple[Floats, Ints] | None = None  # images to choose a strength on, and their labels


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


PROBES: dict[str, Callable[[ProbeConfig, Floats | None], Any]] = {
    "lsr": lambda config, _: LeastSquares(config.l2),
    "lsr-grid": lambda config, _: LeastSquaresGrid(l2=config.l2),
    "logreg": lambda _config, _base: Logistic(),
    "knn": lambda config, _: NearestNeighbors(config.k[0], config.temperature),
    "ncm": lambda _, base: NearestMean(base=base),
    "ncm-l2n": lambda _config, _base: NearestMean("l2n"),
    "ncm-un": lambda _config, _base: NearestMean("un"),
}
FEW_SHARE, ALL_SHARE = 0.01, 0.1  # of each class, held out by DINOv3 to choose a strength: with shots, without


def run_trial(task: ProbeTask, name: str, config: ProbeConfig, shots: int | None, seed: int) -> ProbeTrial:
    if config.draws == "episodes":
        return run_episode(task, name, config, shots or 1, seed)
    if name == "logreg-val":
        return run_validated(task, config, shots, seed)
    rows = take_shots(draw_orders(task.labels, task.classes, seed, config.draws), shots)
    probe = PROBES[name](config, task.base).fit(task.train[rows], task.labels[rows])
    if name == "lsr-grid" and config.select == "test":
        probe = best_on(task.train[rows], task.labels[rows], task.test, task.truth)
    return measure_probe(probe, task, rows, seed)


def measure_probe(probe: Any, task: ProbeTask, rows: Ints, seed: int) -> ProbeTrial:
    guesses = np.asarray(probe.predict(task.test))
    strength = getattr(probe, "l2_", getattr(probe, "c_", None))
    return ProbeTrial(seed, float((guesses == task.truth).mean()), strength, rows, guesses)


def run_validated(task: ProbeTask, config: ProbeConfig, shots: int | None, seed: int) -> ProbeTrial:
    """DINOv3's logistic regression: its strength is chosen on images of val, or held out. Without shots, these join."""
    x, y = task.train, task.labels
    pool, held = np.arange(len(y)), np.arange(0)
    val = task.val
    if val is None:
        pool, held = hold_out_validation(y, task.classes, FEW_SHARE if shots else ALL_SHARE)
        val = x[held], y[held]
    order = draw_orders(y[pool], task.classes, seed, config.draws)
    rows = pool if shots is None else pool[np.sort(take_shots(order, shots))]  # sums depend on the order
    c = best_on_validation(x[rows], y[rows], *val)
    if shots is not None:
        return measure_probe(DinoLogistic(c).fit(x[rows], y[rows]), task, rows, seed)
    both = np.concatenate([x[rows], val[0]]), np.concatenate([y[rows], val[1]])
    return measure_probe(DinoLogistic(c).fit(*both), task, np.concatenate([rows, held]), seed)


def run_episode(task: ProbeTask, name: str, config: ProbeConfig, shots: int, seed: int) -> ProbeTrial:
    """A task of a few classes, whose shots and test images are all drawn from the train images."""
    rows, queries = draw_episode(task.labels, config.ways, shots, config.queries, seed)
    probe = PROBES[name](config, task.base).fit(task.train[rows], task.labels[rows])
    guesses = np.asarray(probe.predict(task.train[queries]))
    return ProbeTrial(seed, float((guesses == task.labels[queries]).mean()), None, rows, guesses)


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
