"""`vitctl bench fewshot`: every cell of a few-shot table, against one cell of scikit-learn's logistic regression."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from vitctl.config.bench import BenchConfig
from vitctl.probing.draws import Ints, draw_orders, take_shots
from vitctl.probing.estimators import STRENGTHS
from vitctl.probing.fewshot import ProbeSettings, ProbeTask, run_trial
from vitctl.reporting import Reporter
from vitctl.workflows.bench.measure import BenchPart, Measurement, make_figure, make_ratio, run_in_turn

SEEDS, SHOTS = 3, (1, 2, 5, 10)
NOISE = 4.0  # of an image, where its class is 1
SETTINGS = ProbeSettings()


def bench_fewshot(config: BenchConfig, reporter: Reporter) -> BenchPart:
    task = make_task(config.probe_classes, config.probe_width, config.seed)
    cells = len(SHOTS) * SEEDS
    ours = f"lsr-grid, {cells} cells, {len(STRENGTHS)} strengths each"
    peer = f"LogisticRegression, {max(SHOTS)} shots, one cell"
    reporter.note(
        f"probes: {config.probe_classes} classes, {config.probe_width} features, {SEEDS} seeds, shots {SHOTS}"
    )
    right: dict[str, float] = {}
    measurements: dict[str, tuple[str, Measurement]] = {
        peer: ("s", lambda: time_seconds(lambda: right.update({peer: logistic_regression(task)}))),
        ours: ("s", lambda: time_seconds(lambda: right.update({ours: whole_table(task)}))),
    }
    values = run_in_turn(measurements, config.times, reporter)
    figures = [make_figure(name, "s", values[name]) for name in measurements]
    remarks = [f"{name}: {share:.1%} right with {max(SHOTS)} shots" for name, share in right.items()]
    return BenchPart(figures, [make_ratio(values, peer, ours)], [], remarks)


def make_task(classes: int, width: int, seed: int) -> ProbeTask:
    """Clouds that overlap, longer in some directions than in others, as those of real features are."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.standard_normal((width, width)))
    directions = turn / np.sqrt(1 + np.arange(width))[:, None]
    centers = random.standard_normal((classes, width))

    def draw_clouds(labels: Ints) -> Any:
        return ((centers[labels] + NOISE * random.standard_normal((len(labels), width))) @ directions).astype("float32")

    labels, truth = np.repeat(np.arange(classes), max(SHOTS) + 2), np.arange(classes)
    return ProbeTask(draw_clouds(labels), labels, draw_clouds(truth), truth, classes)


def whole_table(task: ProbeTask) -> float:
    """Its accuracy in the first cell with the most shots."""
    cells = [run_trial(task, "lsr-grid", SETTINGS, shots, seed) for shots in SHOTS for seed in range(SEEDS)]
    return cells[-SEEDS].top1


def logistic_regression(task: ProbeTask) -> float:
    """As it comes, on standardized features; its accuracy."""
    rows = take_shots(draw_orders(task.labels, task.classes, 0), max(SHOTS))
    mean, scale = task.train[rows].mean(0), task.train[rows].std(0)
    fitted = LogisticRegression().fit((task.train[rows] - mean) / scale, task.labels[rows])
    return float(fitted.score((task.test - mean) / scale, task.truth))


def time_seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
