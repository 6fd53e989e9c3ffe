"""`vitctl bench fewshot`: every cell of a few-shot table, against one cell of scikit-learn's logistic regression."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from vitctl.config.bench import BenchConfig
from vitctl.probing.draws import Ints, first, orders
from vitctl.probing.fewshot import Settings, Task, trial
from vitctl.probing.least_squares import STRENGTHS
from vitctl.reporting import Reporter
from vitctl.workflows.bench.measure import Measurement, Part, figure, in_turn, ratio

SEEDS, SHOTS = 3, (1, 2, 5, 10)
NOISE = 4.0  # of a picture, where its class is 1
SETTINGS = Settings()


def bench_fewshot(config: BenchConfig, reporter: Reporter) -> Part:
    task = made_up(config.probe_classes, config.probe_width, config.seed)
    cells = len(SHOTS) * SEEDS
    ours = f"lsr-grid, {cells} cells, {len(STRENGTHS)} strengths each"
    peer = f"LogisticRegression, {max(SHOTS)} shots, one cell"
    reporter.note(
        f"probes: {config.probe_classes} classes, {config.probe_width} features, {SEEDS} seeds, shots {SHOTS}"
    )
    right: dict[str, float] = {}
    measurements: dict[str, tuple[str, Measurement]] = {
        peer: ("s", lambda: seconds(lambda: right.update({peer: logistic_regression(task)}))),
        ours: ("s", lambda: seconds(lambda: right.update({ours: whole_table(task)}))),
    }
    values = in_turn(measurements, config.times, reporter)
    figures = [figure(name, "s", values[name]) for name in measurements]
    remarks = [f"{name}: {share:.1%} right with {max(SHOTS)} shots" for name, share in right.items()]
    return Part(figures, [ratio(values, peer, ours)], [], remarks)


def made_up(classes: int, width: int, seed: int) -> Task:
    """Clouds that overlap, longer in some directions than in others, as those of real features are."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.standard_normal((width, width)))
    directions = turn / np.sqrt(1 + np.arange(width))[:, None]
    centres = random.standard_normal((classes, width))

    def drawn(labels: Ints) -> Any:
        return ((centres[labels] + NOISE * random.standard_normal((len(labels), width))) @ directions).astype("float32")

    labels, truth = np.repeat(np.arange(classes), max(SHOTS) + 2), np.arange(classes)
    return Task(drawn(labels), labels, drawn(truth), truth, classes)


def whole_table(task: Task) -> float:
    """Its accuracy in the first cell with the most shots."""
    cells = [trial(task, "lsr-grid", SETTINGS, shots, seed) for shots in SHOTS for seed in range(SEEDS)]
    return cells[-SEEDS].top1


def logistic_regression(task: Task) -> float:
    """As it comes, on standardised features; its accuracy."""
    rows = first(orders(task.labels, task.classes, 0), max(SHOTS))
    mean, scale = task.train[rows].mean(0), task.train[rows].std(0)
    fitted = LogisticRegression().fit((task.train[rows] - mean) / scale, task.labels[rows])
    return float(fitted.score((task.test - mean) / scale, task.truth))


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
