import numpy as np
import pytest

from vitctl.probing.draws import draw_orders, split_by_class, take_shots
from vitctl.probing.estimators import LeastSquares


def big_visions(x: np.ndarray, y: np.ndarray, tests: np.ndarray, seed: int, shots: int) -> tuple[np.ndarray, list[int]]:
    """The evaluator, rewritten from its description: the scores of the test images, and the rows drawn."""
    random = np.random.default_rng(seed)
    rows: list[int] = []
    for number in range(int(y.max()) + 1):
        rows.extend(random.permutation(np.where(y == number)[0])[:shots].tolist())
    mean, deviation = x[rows].mean(0), x[rows].std(0) + 1e-5
    few, new = (np.hstack([(each - mean) / deviation, np.full((len(each), 1), 100.0)]) for each in (x[rows], tests))
    targets = -np.ones((len(rows), int(y.max()) + 1))
    targets[np.arange(len(rows)), y[rows]] = 1
    weights = np.linalg.solve(few.T @ few + 1024.0 * np.eye(few.shape[1]), few.T @ targets)
    return new @ weights, rows


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shots", [1, 5, 10])
def test_draws_and_scores_are_those_of_big_vision(seed: int, shots: int) -> None:
    random = np.random.default_rng(9)
    y = random.integers(0, 6, 150)
    x, tests = random.normal(size=(150, 20)) + y[:, None] * 0.1, random.normal(size=(40, 20))
    rows = take_shots(draw_orders(y, 6, seed), shots)
    scores, theirs = big_visions(x, y, tests, seed, shots)
    assert rows.tolist() == theirs
    assert np.abs(LeastSquares().fit(x[rows], y[rows]).scores(tests) - scores).max() < 1e-6


def test_fewer_shots_lie_within_more_and_none_means_all() -> None:
    y = np.arange(40) % 4
    order = draw_orders(y, 4, 3)
    assert set(take_shots(order, 2)) < set(take_shots(order, 5)) < set(take_shots(order, None)) == set(range(40))


def test_a_part_of_every_class_is_set_apart() -> None:
    y = np.array([0] * 8 + [1] * 2 + [2])
    rest, part = split_by_class(y, 0.25, 0)
    assert sorted([*rest, *part]) == list(range(11))
    assert np.bincount(y[part], minlength=3).tolist() == [2, 1, 0]
