"""Each probe is a scikit-learn estimator; the paper's is checked against its equations and its evaluator."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from vitctl.probing.estimators import (
    LeastSquares,
    LeastSquaresGrid,
    Logistic,
    NearestMean,
    NearestNeighbors,
    interleave_classes,
)  # fmt: skip
from vitctl.probing.ridge import RidgeDecomposition


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([LeastSquares(), LeastSquaresGrid(), Logistic(), NearestNeighbors(), NearestMean()])
def test_scikit_learn_takes_it_for_one_of_its_own(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def examples(rows: int, width: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    return random.normal(size=(rows, width)) + 2 * random.normal(size=(classes, width))[labels], labels


@pytest.mark.parametrize(("rows", "width"), [(40, 12), (12, 40), (13, 12)])
@pytest.mark.parametrize("l2", [2.0**-10, 1.0, 1024.0])
def test_weights_solve_the_normal_equations(rows: int, width: int, l2: float) -> None:
    x, labels = examples(rows, width, 4)
    probe = LeastSquares(l2).fit(x, labels)
    whole = np.concatenate([(x - x.mean(0)) / (x.std(0) + 1e-5), np.full((rows, 1), 100.0)], 1)
    expected = np.linalg.solve(whole.T @ whole + l2 * np.eye(width + 1), whole.T @ (2 * np.eye(4)[labels] - 1))
    assert np.abs(probe.weights_ - expected).max() < 1e-6


@pytest.mark.parametrize(("rows", "width"), [(24, 7), (9, 30)])
@pytest.mark.parametrize("l2", [0.5, 50.0])
def test_what_is_left_out_is_predicted_by_a_fit_to_the_others(rows: int, width: int, l2: float) -> None:
    x, labels = examples(rows, width, 3)
    y = 2.0 * np.eye(3)[labels] - 1
    predictions = RidgeDecomposition.of(x, labels).leave_out(np.arange(rows)).gaps(l2) + y
    for row in range(rows):
        others = np.arange(rows) != row
        weights = np.linalg.solve(x[others].T @ x[others] + l2 * np.eye(width), x[others].T @ y[others])
        assert predictions[row] == pytest.approx(x[row] @ weights, abs=1e-9)


def test_the_grid_takes_the_strength_that_knows_most_and_the_default_for_one_shot() -> None:
    x, labels = examples(60, 200, 5)
    x = np.concatenate([x, 30 * np.random.default_rng(1).normal(size=x.shape)], 1)  # as much noise again
    grid = LeastSquaresGrid().fit(x, labels)
    left_out = RidgeDecomposition.of(grid.prepare(x), labels).leave_out(np.arange(60))
    guesses = {l2: left_out.gaps(l2) + 2 * np.eye(5)[labels] for l2 in grid.strengths}
    accuracy = {l2: (scores.argmax(1) == labels).mean() for l2, scores in guesses.items()}
    assert left_out.score(1.0) == pytest.approx((accuracy[1.0], np.square(left_out.gaps(1.0)).mean()))
    assert accuracy[grid.l2_] == max(accuracy.values())
    assert LeastSquaresGrid().fit(x[:5], labels[:5]).l2_ == 1024.0


def test_examples_are_left_out_evenly_from_the_classes() -> None:
    numbers = np.array([0] * 7 + [1] * 2 + [2] * 5)
    assert interleave_classes(numbers, 6).tolist() == [0, 7, 9, 1, 8, 10]
    assert sorted(interleave_classes(numbers, 100)) == list(range(14))


def test_neighbors_vote_as_dino_counts() -> None:
    """knn_classifier of DINO's eval_knn.py (commit 7c446df, line 143): features are normalized and not centered,
    and each of the k nearest votes with exp(cosine / T); T is 0.07 unless set."""
    x, labels = examples(50, 8, 4)
    new, _ = examples(30, 8, 4, seed=2)
    x, new = x + 3.0, new + 3.0  # far from the origin, where centering would change the votes
    probe = NearestNeighbors(k=7)
    guesses = probe.fit(x, labels).predict(new)
    for row, guess in zip(new, guesses, strict=True):
        cosines = x @ row / np.linalg.norm(x, axis=1) / np.linalg.norm(row)
        votes = np.zeros(4)
        for place in np.argsort(-cosines)[:7]:
            votes[labels[place]] += np.exp(cosines[place] / 0.07)
        assert votes.argmax() == guess
    assert (guesses != probe.fit(x - 3.0, labels).predict(new - 3.0)).any()


def test_the_nearest_mean_is_the_nearest() -> None:
    """SimpleShot's CL2N (arXiv 1911.04623, section 3): centered by the mean of the training features, normalized."""
    x, labels = examples(50, 8, 4)
    new, _ = examples(30, 8, 4, seed=2)
    x, new = x + 3.0, new + 3.0
    unit = [each - x.mean(0) for each in (x, new)]
    shots, images = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in unit)
    means = np.stack([shots[labels == number].mean(0) for number in range(4)])
    expected = [int(np.square(means - row).sum(1).argmin()) for row in images]
    assert NearestMean().fit(x, labels).predict(new).tolist() == expected
