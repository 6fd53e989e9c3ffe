"""`vitctl bench fewshot`: every cell of a few-shot table, against one cell of scikit-learn's logistic regression."""

import time
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from vitctl.config.bench import BenchConfig
from vitctl.probing.draws import first, orders
from vitctl.probing.fewshot import Settings, Task, trial
from vitctl.probing.least_squares import L2, STRENGTHS
from vitctl.reporting import Reporter
from vitctl.workflows.bench.measure import Part, figure, in_turn, ratio

SEEDS, SHOTS = 3, (1, 2, 5, 10)
TESTS = 5  # pictures of each class
SETTINGS = Settings(L2, k=20, temperature=0.07, by_test=False)


def bench_fewshot(config: BenchConfig, reporter: Reporter) -> Part:
    task = made_up(config.probe_classes, max(SHOTS) + 2, config.probe_width, config.seed)
    cells = len(SHOTS) * SEEDS
    ours = f"lsr-grid, {cells} cells, {len(STRENGTHS)} strengths each"
    peer = f"LogisticRegression, {max(SHOTS)} shots, one cell"
    reporter.note(
        f"probes: {config.probe_classes} classes, {config.probe_width} features, {SEEDS} seeds, shots {SHOTS}"
    )
    measurements = {peer: ("s", lambda: logistic_regression(task)), ours: ("s", lambda: whole_table(task))}
    values = in_turn(measurements, config.rounds, reporter)
    figures = [figure(name, "s", values[name]) for name in measurements]
    return Part(figures, [ratio(values, peer, ours)])


def made_up(classes: int, pictures: int, width: int, seed: int) -> Task:
    """Clouds that overlap, as features of classes that look alike."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, width), np.float32)
    labels, truth = (np.repeat(np.arange(classes), count) for count in (pictures, TESTS))
    train, test = (
        centres[each] + 2 * random.standard_normal((len(each), width), np.float32) for each in (labels, truth)
    )
    return Task(train, labels, test, truth, classes)


def whole_table(task: Task) -> float:
    return seconds(lambda: [trial(task, "lsr-grid", SETTINGS, shots, seed) for shots in SHOTS for seed in range(SEEDS)])


def logistic_regression(task: Task) -> float:
    """As it comes: float32, 100 steps at most, one strength."""
    rows = first(orders(task.labels, task.classes, 0), max(SHOTS))
    features, labels = task.train[rows], task.labels[rows]
    scaled = (features - features.mean(0)) / features.std(0)
    return seconds(lambda: LogisticRegression().fit(scaled, labels))


def seconds(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
