"""Probes of sets of classes and of numbers: each class is fitted against the rest, and a number is a single target.

Answers to a set lie between 0 and 1. The thresholds at which a class is predicted are those of the best F1 on the
shots, each answered by a fit to the others. A class with a single shot has none to learn from: its threshold is 0.5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold

from vitctl.config.fewshot import ProbeConfig
from vitctl.probing.draws import Ints, draw_member_orders, take_shots
from vitctl.probing.estimators import BIAS, FOLDS, PATH, SMALLEST, STRENGTHS, Logistic, NearestNeighbors, regression
from vitctl.probing.metrics import (
    MAIN,
    UNKNOWN,
    average_precisions,
    best_thresholds,
    mean_absolute_error,
    mean_of,
    r_squared,
    score_sets,
)
from vitctl.probing.ridge import Floats, RidgeDecomposition

LEFT_OUT = 5000  # examples for leave-one-out, which ranks the images of a class
TINY = 1e-300


@dataclass(frozen=True)
class TargetTask:
    """Features of images whose labels are sets of classes or numbers."""

    kind: str  # sets or numbers
    train: Floats  # [M, D]
    targets: Floats  # float64 [M, K]: 1 for the classes of an image, else 0; of numbers [M, 1]
    test: Floats  # [T, D]
    truth: Floats  # float64 [T, K]

    @property
    def members(self) -> Any:
        """bool [C, M]: the groups that shots are drawn from. Images of no class are a class of their own."""
        if self.kind == "numbers":
            return np.ones((1, len(self.targets)), bool)
        return np.stack([*(self.targets.T > 0), ~self.targets.any(1)])


@dataclass(frozen=True)
class TargetTrial:
    seed: int
    scores: dict[str, float]  # metrics by their names in vitctl.probing.metrics, the main one first
    main: float  # the one that compares models
    strength: float | None
    rows: Ints  # the shots
    per_class: Floats  # average precision [K], NaN where no test image has the class; of numbers empty
    top1: None = None


@dataclass(frozen=True)
class TargetFit:
    answers: Floats  # [T, K]
    left_out: Floats  # [N, K]: of each shot, by a fit to the others
    strength: float | None = None


def run_target_trial(task: TargetTask, name: str, config: ProbeConfig, shots: int | None, seed: int) -> TargetTrial:
    rows = np.unique(take_shots(draw_member_orders(task.members, seed), shots))
    fit = TARGET_PROBES[task.kind][name](task, rows, config)
    if task.kind == "numbers":
        answers, truth = fit.answers[:, 0], task.truth[:, 0]
        scores = {"r_squared": r_squared(truth, answers), "mean_absolute_error": mean_absolute_error(truth, answers)}
        per_class = np.empty(0)
    else:
        right, flags = task.truth > 0, task.targets[rows] > 0
        thresholds = np.where(flags.sum(0) > 1, best_thresholds(fit.left_out, flags), UNKNOWN)
        scores = vars(score_sets(fit.answers, right, thresholds))
        per_class = np.full(right.shape[1], np.nan)
        per_class[right.any(0)] = average_precisions(fit.answers, right)
    return TargetTrial(seed, scores, scores[MAIN[task.kind]], fit.strength, rows, per_class)


# --- least squares ---------------------------------------------------------------------------------------------------


def fit_ridge(task: TargetTask, rows: Ints, config: ProbeConfig, search: bool = False) -> TargetFit:
    """To -1 and 1 as for single classes; numbers are standardized on the shots."""
    x, y = task.train[rows].astype(np.float64), task.targets[rows]
    shift, unit = (0.5, 0.5) if task.kind == "sets" else (y.mean(), y.std() or 1.0)
    prepare, y = fit_scaling(x), (y - shift) / unit
    decomposition, tests = RidgeDecomposition.of(prepare(x), y), prepare(task.test)
    l2 = config.l2
    if search and config.select == "test":
        truth = (task.truth - shift) / unit
        l2 = max(STRENGTHS, key=lambda each: judge_answers(task.kind, tests @ decomposition.weights(each), truth))
    elif search and can_leave_out(task, rows):
        few = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), LEFT_OUT)).round().astype(np.int64))
        others = decomposition.leave_out(few)
        l2 = max(STRENGTHS, key=lambda each: judge_answers(task.kind, others.gaps(each) + y[few], y[few]))
    answers, left_out = (
        expit(each) if task.kind == "sets" else each * unit + shift
        for each in (tests @ decomposition.weights(l2), decomposition.leave_out(np.arange(len(y))).gaps(l2) + y)
    )
    return TargetFit(answers, left_out, l2)


def fit_scaling(x: Floats) -> Callable[[Floats], Floats]:
    """Standardizes features as on these examples, and adds the bias column."""
    mean, scale = x.mean(0), x.std(0) + SMALLEST
    return lambda values: np.concatenate([(values - mean) / scale, np.full((len(values), 1), BIAS)], axis=1)


def can_leave_out(task: TargetTask, rows: Ints) -> bool:
    """Whether every class has another shot if one is left out."""
    return len(rows) > 2 if task.kind == "numbers" else int(task.targets[rows].sum(0).min()) > 1


def judge_answers(kind: str, answers: Floats, y: Floats) -> tuple[float, float]:
    """Higher is better: mAP of sets, and the smaller square if that is equal."""
    square = float(np.square(answers - y).mean())
    return mean_of(average_precisions(answers, y > 0)) if kind == "sets" else 0.0, -square


# --- logistic regression ---------------------------------------------------------------------------------------------


def fit_logistic(task: TargetTask, rows: Ints, _config: ProbeConfig) -> TargetFit:
    """One for each class, all of the strength that has the best mAP in cross-validation."""
    x, flags = task.train[rows].astype(np.float64), task.targets[rows] > 0
    mean, scale = x.mean(0), x.std(0) + SMALLEST
    x, tests = (x - mean) / scale, (task.test - mean) / scale
    left_out = np.stack([predict_folds(x, column) for column in flags.T], -1)  # [strengths, N, K]
    best = int(np.argmax([mean_of(average_precisions(each, flags)) for each in left_out]))
    c = PATH[best] if (left_out != UNKNOWN).any() else Logistic().default
    answers = [
        regression(c).fit(x, column).predict_proba(tests)[:, 1]
        if column.any() and not column.all()
        else np.full(len(tests), column[0])
        for column in flags.T
    ]
    return TargetFit(np.stack(answers, 1).astype(np.float64), left_out[best], c)


def predict_folds(x: Floats, flags: Any) -> Floats:
    """[strengths, N]: the probability of a class for each shot, by fits to the other folds."""
    folds = min(FOLDS, int(flags.sum()), int((~flags).sum()))
    values = np.full((len(PATH), len(x)), UNKNOWN)
    if folds < 2:
        return values
    for inner, outer in StratifiedKFold(folds, shuffle=True, random_state=0).split(x, flags):
        model = regression(PATH[0], warm=True)
        for index, c in enumerate(PATH):
            values[index, outer] = model.set_params(C=c).fit(x[inner], flags[inner]).predict_proba(x[outer])[:, 1]
    return values


# --- neighbors -------------------------------------------------------------------------------------------------------


def fit_neighbors(task: TargetTask, rows: Ints, config: ProbeConfig) -> TargetFit:
    """The mean of the targets of the most similar shots, weighted as the votes of single classes are."""
    x, y = task.train[rows].astype(np.float64), task.targets[rows]
    probe, answers, left_out = NearestNeighbors(config.k[0], config.temperature).fit(x, np.arange(len(x))), [], []
    for votes in probe.vote_parts(task.test):  # each shot is a class of its own: [B, N]
        answers.append(average_by_votes(votes, y))
    start = 0
    for votes in probe.set_params(k=config.k[0] + 1).vote_parts(x):  # one more, as each is its own neighbor
        votes[np.arange(len(votes)), start + np.arange(len(votes))] = 0
        left_out.append(average_by_votes(votes, y))
        start += len(votes)
    return TargetFit(np.concatenate(answers), np.concatenate(left_out))


def average_by_votes(votes: Floats, y: Floats) -> Floats:
    return votes @ y / np.maximum(votes.sum(1, keepdims=True), TINY)  # type: ignore[no-any-return]


FitTargets = Callable[[TargetTask, Ints, ProbeConfig], TargetFit]
OF_NUMBERS: dict[str, FitTargets] = {
    "lsr": fit_ridge,
    "lsr-grid": lambda task, rows, config: fit_ridge(task, rows, config, search=True),
    "knn": fit_neighbors,
}
TARGET_PROBES = {"sets": OF_NUMBERS | {"logreg": fit_logistic}, "numbers": OF_NUMBERS}
