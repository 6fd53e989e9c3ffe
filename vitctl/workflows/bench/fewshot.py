"""`vitctl bench fewshot`: a whole few-shot table, compared with one cell of scikit-learn's logistic regression."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from vitctl.config.bench import BenchConfig
from vitctl.config.fewshot import ProbeConfig
from vitctl.probing.draws import Ints, draw_orders, take_shots
from vitctl.probing.estimators import STRENGTHS
from vitctl.probing.fewshot import ProbeTask, run_trial
from vitctl.reporting import Reporter
from vitctl.workflows.bench.measure import CaseTable, time_seconds

SEEDS, SHOTS = 3, (1, 2, 5, 10)
NOISE = 4.0  # standard deviation within a class; between classes it is 1
SETTINGS = ProbeConfig()


def bench_fewshot(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    task = make_task(config.probe_classes, config.probe_width, config.seed)
    cells = len(SHOTS) * SEEDS
    ours = f"lsr-grid, {cells} cells, {len(STRENGTHS)} strengths each"
    peer = f"LogisticRegression, {max(SHOTS)} shots, one cell"
    reporter.note(
        f"probes: {config.probe_classes} classes, {config.probe_width} features, {SEEDS} seeds, shots {SHOTS}"
    )
    accuracies: dict[str, float] = {}
    cases = {
        peer: lambda: time_seconds(lambda: accuracies.update({peer: logistic_regression(task)})),
        ours: lambda: time_seconds(lambda: accuracies.update({ours: whole_table(task)})),
    }

    def remarks(_: dict[str, float]) -> list[str]:
        return [f"{name}: top-1 accuracy {each:.1%} with {max(SHOTS)} shots" for name, each in accuracies.items()]

    yield CaseTable(cases, [(peer, ours)], remarks=remarks, units=dict.fromkeys(cases, "s"))


def make_task(classes: int, width: int, seed: int) -> ProbeTask:
    """Overlapping clusters that are longer in some directions than in others, like real features."""
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.standard_normal((width, width)))
    directions = rotation / np.sqrt(1 + np.arange(width))[:, None]
    centers = random.standard_normal((classes, width))

    def draw_clouds(labels: Ints) -> Any:
        return ((centers[labels] + NOISE * random.standard_normal((len(labels), width))) @ directions).astype("float32")

    labels, truth = np.repeat(np.arange(classes), max(SHOTS) + 2), np.arange(classes)
    return ProbeTask(draw_clouds(labels), labels, draw_clouds(truth), truth, classes)


def whole_table(task: ProbeTask) -> float:
    """Fits all cells and returns the accuracy of the first one with the most shots."""
    cells = [run_trial(task, "lsr-grid", SETTINGS, shots, seed) for shots in SHOTS for seed in range(SEEDS)]
    return cells[-SEEDS].top1


def logistic_regression(task: ProbeTask) -> float:
    """The accuracy of scikit-learn's default on standardized features."""
    rows = take_shots(draw_orders(task.labels, task.classes, 0), max(SHOTS))
    mean, scale = task.train[rows].mean(0), task.train[rows].std(0)
    probe = LogisticRegression().fit((task.train[rows] - mean) / scale, task.labels[rows])
    return float(probe.score((task.test - mean) / scale, task.truth))
