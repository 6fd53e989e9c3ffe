"""Logistic regression along a path of L2 strengths."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.validation import check_is_fitted, validate_data

from vitctl.probing.labels import encode_labels

FOLDS = 3
PATH = tuple(10.0**power for power in (-4, -3, -2, -1, 0, 1))
MOST_STEPS = 500
SMALLEST = 1e-5


class Logistic(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """scikit-learn's, on standardized features; the strength is chosen by cross-validation among the shots."""

    def __init__(self, path: tuple[float, ...] = PATH, default: float = 0.1) -> None:
        self.path, self.default = path, default

    def fit(self, X: Any, y: Any) -> "Logistic":
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        self.classes_, numbers = encode_labels(y)
        if len(self.classes_) < 2:
            raise ValueError("all examples are of one class; two are wanted at least")
        self.mean_, self.scale_ = X.mean(0), X.std(0) + SMALLEST
        scaled = self.scale(X)
        self.c_ = self.choose_strength(scaled, numbers)
        self.model_ = regression(self.c_).fit(scaled, numbers)
        return self

    def choose_strength(self, scaled: Any, numbers: Any) -> float:
        folds = min(FOLDS, int(np.bincount(numbers).min()))
        if folds < 2:  # one example of a class: none can be spared
            return self.default
        right = np.zeros(len(self.path))
        for inner, outer in StratifiedKFold(folds, shuffle=True, random_state=0).split(scaled, numbers):
            model = regression(self.path[0], warm=True)
            for place, c in enumerate(self.path):
                model.set_params(C=c).fit(scaled[inner], numbers[inner])
                right[place] += (model.predict(scaled[outer]) == numbers[outer]).sum()
        return self.path[int(right.argmax())]

    def scale(self, X: Any) -> Any:
        return (X - self.mean_) / self.scale_

    def decision_function(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return self.model_.decision_function(self.scale(X))

    def predict(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return self.classes_[self.model_.predict(self.scale(X))]


def regression(c: float, warm: bool = False) -> Any:
    return LogisticRegression(C=c, max_iter=MOST_STEPS, warm_start=warm)
