"""Probes that fit nothing: they compare with the shots themselves."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vitctl.probing.labels import encode_labels
from vitctl.probing.ridge import Floats

AT_ONCE = 1 << 24  # similarities that are held


class PrototypeClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Features less the mean of the shots, at length one."""

    def fit(self, X: Any, y: Any) -> "PrototypeClassifier":
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        self.classes_, self.numbers_ = encode_labels(y)
        self.mean_ = X.mean(0)
        self.keep(normalize_rows(X - self.mean_))
        return self

    def keep(self, shots: Floats) -> None:
        self.shots_ = shots

    @abstractmethod
    def votes(self, pictures: Floats) -> Floats:
        """[B, K]"""

    def predict(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        step = max(1, AT_ONCE // len(self.numbers_))
        parts = (normalize_rows(X[start : start + step] - self.mean_) for start in range(0, len(X), step))
        return self.classes_[np.concatenate([self.votes(part).argmax(1) for part in parts])]


class NearestNeighbors(PrototypeClassifier):
    """DINO's (arXiv 2104.14294, appendix F): the k most similar vote, each with exp(cosine / temperature)."""

    def __init__(self, k: int = 20, temperature: float = 0.07) -> None:
        self.k, self.temperature = k, temperature

    def votes(self, pictures: Floats) -> Floats:
        similar = pictures @ self.shots_.T  # [B, N]
        k = min(self.k, similar.shape[1])
        nearest = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        weights = np.exp((np.take_along_axis(similar, nearest, 1) - 1) / self.temperature)
        votes = np.zeros((len(pictures), len(self.classes_)))
        np.add.at(votes, (np.arange(len(pictures))[:, None], self.numbers_[nearest]), weights)
        return votes


class NearestMean(PrototypeClassifier):
    """The class whose mean is nearest (SimpleShot, arXiv 1911.04623, CL2N)."""

    def keep(self, shots: Floats) -> None:
        sums = np.zeros((len(self.classes_), shots.shape[1]))
        np.add.at(sums, self.numbers_, shots)
        self.means_ = sums / np.bincount(self.numbers_)[:, None]

    def votes(self, pictures: Floats) -> Floats:
        return pictures @ self.means_.T - np.square(self.means_).sum(1) / 2  # type: ignore[no-any-return]


def normalize_rows(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)  # type: ignore[no-any-return]
