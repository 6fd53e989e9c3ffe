"""The paper's few-shot probe, as big_vision computes it (evaluators/fewshot_lsr.py): ridge regression to -1 and 1."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vitctl.probing.labels import encode_labels
from vitctl.probing.ridge import Floats, Ints, RidgeDecomposition

L2 = 2.0**10  # big_vision configs/common_fewshot.py
BIAS = 100.0  # a column of it: nearly free of the penalty
SMALLEST = 1e-5  # added to every deviation
SPARED = 500  # examples that are left out in turn to choose a strength, evenly from the classes
STRENGTHS = tuple(2.0**power for power in range(-10, 20))  # the older evaluator's (scenic fewshot_utils.py)


class LeastSquares(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One strength for everything."""

    def __init__(self, l2: float = L2, bias: float = BIAS) -> None:
        self.l2, self.bias = l2, bias

    def fit(self, X: Any, y: Any) -> "LeastSquares":
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        self.classes_, numbers = encode_labels(y)
        X = X.astype(np.float64)
        self.mean_, self.scale_ = X.mean(0), X.std(0) + SMALLEST
        found = RidgeDecomposition.of(self.prepare(X), numbers)
        self.l2_ = self.strength(found, numbers)
        self.weights_ = found.weights(self.l2_)  # [D + 1, K]
        return self

    def strength(self, found: RidgeDecomposition, numbers: Any) -> float:
        return self.l2

    def prepare(self, X: Floats) -> Floats:
        scaled = (X - self.mean_) / self.scale_
        return np.concatenate([scaled, np.full((len(X), 1), self.bias)], axis=1)

    def scores(self, X: Any) -> Floats:
        """[N, K]"""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return self.prepare(X) @ self.weights_

    def decision_function(self, X: Any) -> Floats:
        scores = self.scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> Any:
        best = self.scores(X).argmax(1)
        return self.classes_[best]


def best_on(X: Floats, y: Any, tests: Floats, truth: Any, strengths: tuple[float, ...] = STRENGTHS) -> LeastSquares:
    """The strength that knows most of the very images it is judged on: an upper bound, not a measurement."""
    probe = LeastSquares().fit(X, y)
    found = RidgeDecomposition.of(probe.prepare(X), encode_labels(y)[1])
    judged = probe.prepare(tests)
    right = [float((probe.classes_[(judged @ found.weights(l2)).argmax(1)] == truth).mean()) for l2 in strengths]
    return LeastSquares(strengths[int(np.argmax(right))]).fit(X, y)


def interleave_classes(numbers: Ints, count: int) -> Ints:
    """Rows of so many examples: the first of every class, then the second of every class, and so on."""
    by_class = np.argsort(numbers, kind="stable")
    starts = np.cumsum(np.bincount(numbers)) - np.bincount(numbers)
    place = np.empty(len(numbers), np.int64)  # within its class
    place[by_class] = np.arange(len(numbers)) - starts[numbers[by_class]]
    return np.argsort(place, kind="stable")[:count]


class LeastSquaresGrid(LeastSquares):
    """The strength under which most shots are known by a fit to the others; of one a class, none can be spared."""

    def __init__(self, strengths: tuple[float, ...] = STRENGTHS, l2: float = L2, bias: float = BIAS) -> None:
        super().__init__(l2, bias)
        self.strengths = strengths

    def strength(self, found: RidgeDecomposition, numbers: Any) -> float:
        if np.bincount(numbers).min() < 2:
            return self.l2
        best, chosen = (-1.0, -np.inf), self.l2
        spared = found.leave_out(interleave_classes(numbers, SPARED), np.float32)
        for l2 in self.strengths:
            right, square = spared.score(l2)
            if (right, -square) > best:
                best, chosen = (right, -square), l2
        return chosen
