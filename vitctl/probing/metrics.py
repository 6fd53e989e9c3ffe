"""Metrics of predictions in double precision, equal to scikit-learn's: for one label an image, for sets, for numbers.

A metric that has nothing to average is NaN: no images, or no class that occurs.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
UNKNOWN = 0.5  # the threshold of a class without positives: val says nothing of it, and the score is a probability
COLUMNS = 64  # classes that are copied at once: a column of a large table is far apart in memory
VALUES = 1 << 24  # of a table that are compared at once
WORDS = {  # what people call each metric, and how it is printed
    "top1": ("top-1", ".2%"),
    "mean_average_precision": ("mAP", ".2%"),
    "micro_f1": ("micro F1", ".2%"),
    "macro_f1": ("macro F1", ".2%"),
    "exact_match": ("exact match", ".2%"),
    "r_squared": ("R²", ".4f"),
    "mean_absolute_error": ("mean absolute error", ".4g"),
    "root_mean_square_error": ("root mean square error", ".4g"),
    "loss": ("loss", ".4f"),
}
MAIN = {"classes": "top1", "sets": "mean_average_precision", "numbers": "r_squared"}  # it compares models


def describe_metrics(values: Mapping[str, float], *names: str) -> str:
    """ "mAP 61.20%, loss 0.1234": these metrics, or all that are known."""
    known = [name for name in WORDS if name in values and (not names or name in names)]
    return ", ".join(f"{WORDS[name][0]} {values[name]:{WORDS[name][1]}}" for name in known)


@dataclass(frozen=True)
class ClassCounts:
    """What balanced accuracy and macro F1 are computed from, [K] each. Counts of parts of a split add up."""

    images: Any  # of this class
    correct: Any  # of these, predicted as this class
    answers: Any  # images of any class that were predicted as this one

    @classmethod
    def of_labels(cls, truth: Ints, predicted: Ints, classes: int) -> Self:
        count = np.bincount
        correct = truth[truth == predicted]
        return cls(*(count(values, minlength=classes) for values in (truth, correct, predicted)))

    @classmethod
    def of_confusion(cls, confusion: Any) -> Self:
        """`confusion` [K, K]: row the true class, column the predicted one."""
        return cls(confusion.sum(1), confusion.diagonal(), confusion.sum(0))

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that occur."""
        images, correct = (np.asarray(each, np.float64) for each in (self.images, self.correct))
        present = images > 0
        return mean_of(correct[present] / images[present])

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that occur in the truth or in the predictions."""
        return mean_of(f1_of_counts(self.images, self.correct, self.answers))


@dataclass(frozen=True)
class SetScores:
    """How well sets of labels are predicted."""

    mean_average_precision: float  # over the classes that have a positive
    micro_f1: float
    macro_f1: float  # over the classes that occur in the truth or in the predictions
    exact_match: float  # share of images whose whole set is right; an empty set may be


def score_sets(scores: Any, truth: Flags, thresholds: Floats) -> SetScores:
    """`scores` and `truth` [M, K]; `thresholds` [K]: a class is predicted where its score is at least its threshold."""
    counts = np.zeros((3, scores.shape[1]), np.int64)  # images, correct, predictions
    for part, predicted in predict_sets(scores, thresholds):
        right = truth[part]
        counts += np.stack([right.sum(0), (right & predicted).sum(0), predicted.sum(0)])
    wrong = len(find_wrong_sets(scores, truth, thresholds))
    return SetScores(
        mean_of(average_precisions(scores, truth)),
        mean_of(f1_of_counts(*counts.sum(1, keepdims=True))),
        mean_of(f1_of_counts(*counts)),
        (len(scores) - wrong) / len(scores) if len(scores) else math.nan,
    )


def find_wrong_sets(scores: Any, truth: Flags, thresholds: Floats) -> Ints:
    """The rows whose set is not predicted exactly."""
    wrong = [(truth[part] != predicted).any(1) for part, predicted in predict_sets(scores, thresholds)]
    return np.flatnonzero(np.concatenate(wrong)) if wrong else np.zeros(0, np.int64)


def predict_sets(scores: Any, thresholds: Floats) -> Iterator[tuple[slice, Flags]]:
    """Some rows at a time, and their predicted sets."""
    step = max(1, VALUES // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        yield slice(start, start + step), scores[start : start + step] >= thresholds


def average_precisions(scores: Any, truth: Flags) -> Floats:
    """The average precision of each class that has a positive. Images of equal score are one step of the curve."""
    curves = (curve for curve in positive_curves(scores, truth) if len(curve.values))
    return np.array([(curve.correct / curve.accepted).mean() for curve in curves], np.float64)


def best_thresholds(scores: Any, truth: Flags) -> Floats:
    """[K]: for each class the threshold of the best F1; `scores` [M, K] lie between 0 and 1.

    A threshold is in the middle between the lowest score that it accepts and the next lower one (or 0): scores of
    another device differ in their last bits. Of thresholds with equal F1 it is the highest, which predicts the fewest
    labels. For a class without positives it is 0.5.
    """
    return np.array([curve.best_threshold for curve in positive_curves(scores, truth)], np.float64)


@dataclass(frozen=True)
class PositiveCurve:
    """One class at each threshold that is the score of a positive [P], from high to low.

    Between two of them precision, recall and F1 are never better than at the upper one.
    """

    values: Any  # scores of the positives
    correct: Ints  # positives with at least this score
    accepted: Ints  # images with at least this score
    below: Any  # the next lower score of any image; 0 if there is none

    @property
    def best_threshold(self) -> float:
        if not len(self.values):
            return UNKNOWN
        best = int(np.argmax(2 * self.correct / (len(self.values) + self.accepted)))  # the first of equal ones
        value, below = self.values[best], self.below[best]
        middle = below + (value - below) / 2
        return float(middle if middle > below else value)


def positive_curves(scores: Any, truth: Flags) -> Iterator[PositiveCurve]:
    """One curve a class, of `scores` and `truth` [M, K]."""
    for start in range(0, scores.shape[1], COLUMNS):
        part = slice(start, start + COLUMNS)
        columns = np.ascontiguousarray(scores[:, part].T), np.ascontiguousarray(truth[:, part].T)
        for own, right in zip(*columns, strict=True):
            positives, everything = np.sort(own[right]), np.sort(own)
            values = positives[::-1]
            first = np.searchsorted(everything, values)  # images below this score
            yield PositiveCurve(
                values,
                len(positives) - np.searchsorted(positives, values),
                len(everything) - first,
                np.where(first > 0, everything[first - 1], 0).astype(everything.dtype),
            )


def f1_of_counts(images: Any, correct: Any, answers: Any) -> Floats:
    """The F1 of each class that occurs, in the truth or in the predictions."""
    total = np.asarray(images, np.float64) + np.asarray(answers, np.float64)
    present = total > 0
    f1: Floats = 2 * np.asarray(correct, np.float64)[present] / total[present]
    return f1


def mean_of(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def r_squared(truth: Any, predicted: Any) -> float:
    """The share of the variance of `truth` [M] that is explained. If all are equal: 1 if predicted exactly, else 0."""
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if len(truth) < 2:
        return math.nan
    rest, total = ((truth - predicted) ** 2).sum(), ((truth - truth.mean()) ** 2).sum()
    return float(1 - rest / total) if total else float(rest == 0)


def mean_absolute_error(truth: Any, predicted: Any) -> float:
    return mean_of(np.abs(np.asarray(truth, np.float64) - np.asarray(predicted, np.float64)))
