"""The probes as scikit-learn classifiers: ridge regression, logistic regression and comparison with the shots."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from vitctl.config.fewshot import ProbeConfig
from vitctl.probing.ridge import Floats, Ints, RidgeDecomposition

BIAS = 100.0  # the value of the bias column: so large that the penalty hardly affects it
SMALLEST = 1e-5  # added to every standard deviation
MAX_LEAVE_OUT = 500  # examples for leave-one-out, evenly from the classes
STRENGTHS = tuple(2.0**power for power in range(-10, 20))  # of the older evaluator, scenic fewshot_utils.py
FOLDS = 3
PATH = tuple(10.0**power for power in (-4, -3, -2, -1, 0, 1))
DINO_STRENGTHS = tuple(
    (np.float32(10) ** np.linspace(-6, 5, 45, dtype=np.float32)).tolist()
)  # DINOv2 and DINOv3, eval/log_regression.py
MAX_ITERATIONS = 500
AT_ONCE = 1 << 24  # similarities in memory


class Probe(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Validates inputs like scikit-learn's estimators."""

    classes_: Any

    def _examples(self, X: Any, y: Any) -> tuple[Any, Any]:
        """The features, and the index of each label in `classes_`."""
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        with warnings.catch_warnings():  # with a shot or two per class, scikit-learn suspects a regression
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        return X, numbers

    def _features(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(self, X, dtype=(np.float64, np.float32), reset=False)


class LeastSquares(Probe):
    """The paper's few-shot probe as in big_vision (evaluators/fewshot_lsr.py): ridge regression to -1 and 1."""

    def __init__(self, l2: float = ProbeConfig.l2, bias: float = BIAS) -> None:
        self.l2, self.bias = l2, bias

    def fit(self, X: Any, y: Any) -> "LeastSquares":
        X, numbers = self._examples(X, y)
        X = X.astype(np.float64)
        self.mean_, self.scale_ = X.mean(0), X.std(0) + SMALLEST
        decomposition = RidgeDecomposition.of(self.prepare(X), numbers)
        self.l2_ = self.strength(decomposition, numbers)
        self.weights_ = decomposition.weights(self.l2_)  # [D + 1, K]
        return self

    def strength(self, decomposition: RidgeDecomposition, numbers: Any) -> float:
        return self.l2

    def prepare(self, X: Floats) -> Floats:
        """Standardized features and the bias column, [N, D + 1]."""
        scaled = (X - self.mean_) / self.scale_
        return np.concatenate([scaled, np.full((len(X), 1), self.bias)], axis=1)

    def scores(self, X: Any) -> Floats:
        """[N, K]"""
        return self.prepare(self._features(X)) @ self.weights_

    def decision_function(self, X: Any) -> Floats:
        scores = self.scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> Any:
        best = self.scores(X).argmax(1)
        return self.classes_[best]


def best_on(X: Floats, y: Any, tests: Floats, truth: Any, strengths: tuple[float, ...] = STRENGTHS) -> LeastSquares:
    """The strength with the best accuracy on the test images themselves: an upper bound, not a measurement."""
    probe = LeastSquares().fit(X, y)
    decomposition = RidgeDecomposition.of(probe.prepare(X), np.unique(y, return_inverse=True)[1])
    prepared = probe.prepare(tests)
    accuracies = [
        float((probe.classes_[(prepared @ decomposition.weights(l2)).argmax(1)] == truth).mean()) for l2 in strengths
    ]
    return LeastSquares(strengths[int(np.argmax(accuracies))]).fit(X, y)


def interleave_classes(numbers: Ints, count: int) -> Ints:
    """The first `count` rows in this order: the first example of every class, then the second of every class, ..."""
    by_class = np.argsort(numbers, kind="stable")
    starts = np.cumsum(np.bincount(numbers)) - np.bincount(numbers)
    rank = np.empty(len(numbers), np.int64)  # within its class
    rank[by_class] = np.arange(len(numbers)) - starts[numbers[by_class]]
    return np.argsort(rank, kind="stable")[:count]


class LeastSquaresGrid(LeastSquares):
    """Chooses the strength by leave-one-out on the shots. With one shot per class it uses the default."""

    def __init__(
        self, strengths: tuple[float, ...] = STRENGTHS, l2: float = ProbeConfig.l2, bias: float = BIAS
    ) -> None:
        super().__init__(l2, bias)
        self.strengths = strengths

    def strength(self, decomposition: RidgeDecomposition, numbers: Any) -> float:
        if np.bincount(numbers).min() < 2:
            return self.l2
        best, chosen = (-1.0, -np.inf), self.l2
        leave_one_out = decomposition.leave_out(interleave_classes(numbers, MAX_LEAVE_OUT), np.float32)
        for l2 in self.strengths:
            accuracy, square = leave_one_out.score(l2)
            if (accuracy, -square) > best:
                best, chosen = (accuracy, -square), l2
        return chosen


class Logistic(Probe):
    """scikit-learn's logistic regression on standardized features; the strength is chosen by cross-validation."""

    def __init__(self, path: tuple[float, ...] = PATH, default: float = 0.1) -> None:
        self.path, self.default = path, default

    def fit(self, X: Any, y: Any) -> "Logistic":
        X, numbers = self._examples(X, y)
        if len(self.classes_) < 2:
            raise ValueError("all examples are of one class; at least two classes are needed")
        self.mean_, self.scale_ = X.mean(0), X.std(0) + SMALLEST
        scaled = self.scale(X)
        self.c_ = self.choose_strength(scaled, numbers)
        self.model_ = regression(self.c_).fit(scaled, numbers)
        return self

    def choose_strength(self, scaled: Any, numbers: Any) -> float:
        folds = min(FOLDS, int(np.bincount(numbers).min()))
        if folds < 2:  # a class has one example only
            return self.default
        correct = np.zeros(len(self.path))
        for inner, outer in StratifiedKFold(folds, shuffle=True, random_state=0).split(scaled, numbers):
            model = regression(self.path[0], warm=True)
            for index, c in enumerate(self.path):
                model.set_params(C=c).fit(scaled[inner], numbers[inner])
                correct[index] += (model.predict(scaled[outer]) == numbers[outer]).sum()
        return self.path[int(correct.argmax())]

    def scale(self, X: Any) -> Any:
        return (X - self.mean_) / self.scale_

    def decision_function(self, X: Any) -> Any:
        X = self._features(X)
        return self.model_.decision_function(self.scale(X))

    def predict(self, X: Any) -> Any:
        X = self._features(X)
        return self.classes_[self.model_.predict(self.scale(X))]


def regression(c: float, warm: bool = False) -> Any:
    return LogisticRegression(C=c, max_iter=MAX_ITERATIONS, warm_start=warm)


class DinoLogistic(Probe):
    """DINOv2's and DINOv3's logistic regression: of features as they are, in float64."""

    def __init__(self, c: float = 1.0) -> None:
        self.c = c

    def fit(self, X: Any, y: Any) -> "DinoLogistic":
        X, numbers = self._examples(X, y)
        if len(self.classes_) < 2:
            raise ValueError("all examples are of one class; at least two classes are needed")
        self.c_ = self.c
        self.model_ = LogisticRegression(C=self.c, max_iter=1000, tol=1e-12)
        with warnings.catch_warnings():  # a large c does not get as far as tol in these iterations
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model_.fit(X.astype(np.float64), numbers)
        return self

    def decision_function(self, X: Any) -> Any:
        X = self._features(X)
        return self.model_.decision_function(X.astype(np.float64))

    def predict_proba(self, X: Any) -> Any:
        X = self._features(X)
        return self.model_.predict_proba(X.astype(np.float64))

    def predict(self, X: Any) -> Any:
        X = self._features(X)
        return self.classes_[self.model_.predict(X.astype(np.float64))]


def best_on_validation(X: Floats, y: Ints, val: Floats, truth: Ints) -> float:
    """The first of DINOv3's strengths with the best accuracy on `val`."""
    correct = [float((DinoLogistic(c).fit(X, y).predict(val) == truth).mean()) for c in DINO_STRENGTHS]
    return float(DINO_STRENGTHS[int(np.argmax(correct))])


class PrototypeClassifier(Probe):
    """Compares features with the shots. Lengths are normalized to one."""

    def fit(self, X: Any, y: Any) -> "PrototypeClassifier":
        X, self.numbers_ = self._examples(X, y)
        self.mean_ = self.center(X)
        self.store(self.scale(X))
        return self

    def center(self, shots: Floats) -> Any:
        """What is subtracted from all features first."""
        return 0.0

    def scale(self, features: Floats) -> Floats:
        return normalize_rows(features - self.mean_)

    def store(self, shots: Floats) -> None:
        self.shots_ = shots

    @abstractmethod
    def votes(self, images: Floats) -> Floats:
        """Normalized features [B, D] to votes [B, K]."""

    def predict(self, X: Any) -> Any:
        best = np.concatenate([votes.argmax(1) for votes in self.vote_parts(X)])
        return self.classes_[best]

    def values_per_image(self, width: int) -> int:
        """In memory while an image is answered."""
        return len(self.numbers_)

    def vote_parts(self, X: Any) -> Iterator[Floats]:
        """Votes [B, K] for parts of the images, in order."""
        X = self._features(X)
        step = max(1, AT_ONCE // self.values_per_image(X.shape[1]))
        for start in range(0, len(X), step):
            yield self.votes(self.scale(X[start : start + step]))


class NearestNeighbors(PrototypeClassifier):
    """DINO's (arXiv 2104.14294, appendix F): the k most similar shots vote, each with exp(cosine / temperature)."""

    def __init__(self, k: int = ProbeConfig.k[0], temperature: float = ProbeConfig.temperature) -> None:
        self.k, self.temperature = k, temperature

    def values_per_image(self, width: int) -> int:
        return max(len(self.numbers_), min(self.k, len(self.numbers_)) * width)

    def votes(self, images: Floats) -> Floats:
        similar = images @ self.shots_.T  # [B, N]
        k = min(self.k, similar.shape[1])
        nearest = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        cosines = np.einsum("bd,bkd->bk", images, self.shots_[nearest], dtype=np.float64)  # the votes are exact
        weights = np.exp((cosines - 1) / self.temperature)
        votes = np.zeros((len(images), len(self.classes_)))
        np.add.at(votes, (np.arange(len(images))[:, None], self.numbers_[nearest]), weights)
        return votes


class NearestMean(PrototypeClassifier):
    """The class whose mean is nearest (SimpleShot, arXiv 1911.04623). Here alone, features are centered.

    `norm`: "cl2n" subtracts `base`, the mean of other classes' features, or else that of the shots, and normalizes;
    "l2n" normalizes alone; "un" does neither.
    """

    def __init__(self, norm: str = "cl2n", base: Floats | None = None) -> None:
        self.norm, self.base = norm, base

    def center(self, shots: Floats) -> Any:
        if self.norm != "cl2n":
            return 0.0
        return shots.mean(0) if self.base is None else self.base

    def scale(self, features: Floats) -> Floats:
        return features if self.norm == "un" else super().scale(features)

    def store(self, shots: Floats) -> None:
        sums = np.zeros((len(self.classes_), shots.shape[1]))
        np.add.at(sums, self.numbers_, shots)
        self.means_ = sums / np.bincount(self.numbers_)[:, None]

    def votes(self, images: Floats) -> Floats:
        return images @ self.means_.T - np.square(self.means_).sum(1) / 2  # type: ignore[no-any-return]


def normalize_rows(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)  # type: ignore[no-any-return]
