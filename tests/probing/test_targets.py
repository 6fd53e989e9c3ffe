"""Probes of sets and numbers against scikit-learn's own regressions, each shot left out by fits to the others."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as sklearn
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsRegressor

from vitctl.config.fewshot import ProbeConfig
from vitctl.probing.draws import draw_member_orders, draw_orders
from vitctl.probing.estimators import PATH, STRENGTHS
from vitctl.probing.metrics import best_thresholds
from vitctl.probing.ridge import RidgeDecomposition
from vitctl.probing.targets import TARGET_PROBES, TargetTask, fit_scaling, run_target_trial

CONFIG = ProbeConfig(k=(5,))


def make_task(kind: str, rows: int = 60, width: int = 12, classes: int = 4, seed: int = 0) -> TargetTask:
    """Features from which the targets can be told, with noise; a fifth of the sets are empty."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows + 40, width))
    hidden = x @ random.normal(size=(width, classes if kind == "sets" else 1)) + random.normal(size=(rows + 40, 1))
    y = (hidden > 1) * (random.random((rows + 40, 1)) > 0.2) if kind == "sets" else 1e6 + 5 * hidden
    y = y.astype(np.float64)
    return TargetTask(kind, x[:rows], y[:rows], x[rows:], y[rows:])


def prepare(x: Any) -> Any:
    return np.concatenate([(x - x.mean(0)) / (x.std(0) + 1e-5), np.full((len(x), 1), 100.0)], 1)


@pytest.mark.parametrize("kind", ["sets", "numbers"])
@pytest.mark.parametrize(("rows", "width"), [(40, 12), (12, 40)])
@pytest.mark.parametrize("l2", [0.5, 1024.0])
def test_least_squares_are_scikit_learns(kind: str, rows: int, width: int, l2: float) -> None:
    task = make_task(kind, rows, width)
    fit = TARGET_PROBES[kind]["lsr"](task, np.arange(rows), replace(CONFIG, l2=l2))
    shift, unit = (0.5, 0.5) if kind == "sets" else (task.targets.mean(), task.targets.std())
    y, scale = (task.targets - shift) / unit, fit_scaling(task.train)
    assert np.abs(scale(task.train) - prepare(task.train)).max() < 1e-9

    def predict(own: Any, new: Any) -> Any:
        values = Ridge(l2, fit_intercept=False).fit(scale(task.train)[own], y[own]).predict(scale(new))
        values = values.reshape(len(new), -1)
        return expit(values) if kind == "sets" else values * unit + shift

    np.testing.assert_allclose(fit.answers, predict(slice(None), task.test), rtol=1e-6)
    for row in range(rows):
        others = np.arange(rows) != row
        np.testing.assert_allclose(fit.left_out[row], predict(others, task.train[[row]])[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["sets", "numbers"])
def test_the_grid_takes_what_predicts_best_what_is_left_out(kind: str) -> None:
    task = make_task(kind, 40, 60)
    fit = TARGET_PROBES[kind]["lsr-grid"](task, np.arange(40), CONFIG)
    y = task.targets * 2 - 1 if kind == "sets" else (task.targets - task.targets.mean()) / task.targets.std()
    left_out = RidgeDecomposition.of(prepare(task.train), y).leave_out(np.arange(40))

    def judge(l2: float) -> float:
        gaps = left_out.gaps(l2)
        if kind == "numbers":
            return -float(np.square(gaps).mean())
        return float(sklearn.average_precision_score(task.targets, gaps + y, average="macro"))

    assert judge(fit.strength or 0) == pytest.approx(max(map(judge, STRENGTHS)))
    assert TARGET_PROBES[kind]["lsr-grid"](task, np.arange(2), CONFIG).strength == 1024.0
    scores = [run_target_trial(task, "lsr", replace(CONFIG, l2=l2), None, 0).main for l2 in STRENGTHS]
    assert run_target_trial(task, "lsr-grid", replace(CONFIG, select="test"), None, 0).main == pytest.approx(
        max(scores)
    )


def test_logistic_regression_is_scikit_learns_one_against_the_rest() -> None:
    task = make_task("sets")
    fit = TARGET_PROBES["sets"]["logreg"](task, np.arange(60), CONFIG)
    mean, scale = task.train.mean(0), task.train.std(0) + 1e-5
    x, tests = (task.train - mean) / scale, (task.test - mean) / scale
    one = OneVsRestClassifier(LogisticRegression(C=fit.strength, max_iter=500)).fit(x, task.targets.astype(int))
    np.testing.assert_allclose(fit.answers, one.predict_proba(tests), atol=1e-4)
    maps = []
    for c in PATH:
        values = np.zeros_like(task.targets)
        for number, column in enumerate(task.targets.T.astype(int)):
            for inner, outer in StratifiedKFold(3, shuffle=True, random_state=0).split(x, column):
                model = LogisticRegression(C=c, max_iter=500).fit(x[inner], column[inner])
                values[outer, number] = model.predict_proba(x[outer])[:, 1]
        maps.append(sklearn.average_precision_score(task.targets, values))
        if c == fit.strength:
            np.testing.assert_allclose(fit.left_out, values, atol=5e-3)  # solved to 1e-4
    assert maps[PATH.index(fit.strength or 0)] == pytest.approx(max(maps), abs=2e-3)


def test_classes_that_all_or_no_shots_have_are_constant() -> None:
    task = make_task("sets", 20)
    task.targets[:, 0], task.targets[:, 1] = 1, 0
    fit = TARGET_PROBES["sets"]["logreg"](task, np.arange(20), CONFIG)
    assert (fit.answers[:, 0] == 1).all()
    assert (fit.answers[:, 1] == 0).all()
    task.targets[:, 2:] = 0
    assert TARGET_PROBES["sets"]["logreg"](task, np.arange(20), CONFIG).strength == 0.1


@pytest.mark.parametrize("kind", ["sets", "numbers"])
def test_neighbors_answer_with_the_mean_of_their_targets(kind: str) -> None:
    task = make_task(kind)
    fit = TARGET_PROBES[kind]["knn"](task, np.arange(60), CONFIG)
    x, tests = (each / np.linalg.norm(each, axis=1)[:, None] for each in (task.train, task.test))

    def weigh(distances: Any) -> Any:
        return np.exp(-np.square(distances) / 2 / CONFIG.temperature)  # of unit vectors: exp((cosine - 1) / t)

    regressor = KNeighborsRegressor(5, weights=weigh).fit(x, task.targets)
    np.testing.assert_allclose(fit.answers, regressor.predict(tests), rtol=1e-9)
    np.testing.assert_allclose(fit.left_out, regressor.predict(None), rtol=1e-9)  # each without itself


@pytest.mark.parametrize("name", ["lsr", "lsr-grid", "logreg", "knn"])
@pytest.mark.parametrize("shots", [1, 5, None])
def test_scores_of_sets_are_scikit_learns(name: str, shots: int | None) -> None:
    task = make_task("sets", 80)
    task.truth[:, 3] = 0  # no test image has this class
    trial = run_target_trial(task, name, CONFIG, shots, 1)
    fit = TARGET_PROBES["sets"][name](task, trial.rows, CONFIG)
    right, flags = task.truth.astype(bool), task.targets[trial.rows].astype(bool)
    own = [sklearn.average_precision_score(right[:, number], fit.answers[:, number]) for number in range(3)]
    assert trial.main == trial.scores["mean_average_precision"] == pytest.approx(np.mean(own), abs=1e-12)
    assert trial.per_class == pytest.approx([*own, np.nan], nan_ok=True)
    thresholds = [
        best_thresholds(fit.left_out[:, [number]], flags[:, [number]])[0] if flags[:, number].sum() > 1 else 0.5
        for number in range(4)
    ]
    predicted = fit.answers >= np.array(thresholds)
    averages: list[Literal["micro", "macro"]] = ["micro", "macro"]
    for average in averages:
        labels = [number for number in range(4) if right[:, number].any() or predicted[:, number].any()]
        expected = sklearn.f1_score(right, predicted, labels=labels, average=average, zero_division=0)
        assert trial.scores[f"{average}_f1"] == pytest.approx(expected, abs=1e-12)
    assert trial.scores["exact_match"] == pytest.approx(sklearn.accuracy_score(right, predicted), abs=1e-12)


def test_no_test_image_chooses_a_threshold() -> None:
    """The answers and the shots stay the same if the truth of the test images is another one."""
    task = make_task("sets")
    other = replace(task, truth=1 - task.truth)
    one, two = (run_target_trial(each, "lsr-grid", CONFIG, 5, 0) for each in (task, other))
    assert (one.strength, one.rows.tolist()) == (two.strength, two.rows.tolist())
    assert one.scores["exact_match"] != two.scores["exact_match"]


def test_scores_of_numbers_are_scikit_learns() -> None:
    task = make_task("numbers")
    trial = run_target_trial(task, "lsr-grid", CONFIG, 30, 1)
    answers = TARGET_PROBES["numbers"]["lsr-grid"](task, trial.rows, CONFIG).answers[:, 0]
    assert len(trial.rows) == 30
    assert trial.main == trial.scores["r_squared"] == pytest.approx(sklearn.r2_score(task.truth[:, 0], answers))
    assert trial.main > 0.3
    assert trial.scores["mean_absolute_error"] == pytest.approx(np.abs(task.truth[:, 0] - answers).mean())


def test_every_class_has_its_shots_and_so_have_images_of_none() -> None:
    task = make_task("sets", 200)
    members = task.members
    assert members.shape == (5, 200)
    few, more = (run_target_trial(task, "lsr", CONFIG, shots, 3).rows for shots in (2, 6))
    assert set(few) < set(more)
    assert (members[:, more].sum(1) >= 6).all()
    orders = draw_member_orders(members, 3)
    assert set(more) == {int(row) for order in orders for row in order[:6]}
    labels = np.random.default_rng(0).integers(0, 4, 50)
    same = draw_member_orders([labels == number for number in range(4)], 7)
    assert all(map(np.array_equal, same, draw_orders(labels, 4, 7)))
