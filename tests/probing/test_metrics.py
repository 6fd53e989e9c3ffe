"""Metrics against scikit-learn's, and thresholds against every threshold that there is."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn

from vitctl.probing.metrics import (
    ClassCounts,
    average_precisions,
    best_thresholds,
    mean_absolute_error,
    r_squared,
    score_sets,
)

CASES = range(200)
EXACT = {"rel": 0, "abs": 1e-12}


def draw_labels(seed: int) -> tuple[Any, Any, int]:
    """Truth and predictions of one label an image: skewed, and often without some classes."""
    random = np.random.default_rng(seed)
    classes, images = int(random.integers(1, 30)), int(random.integers(1, 300))
    shares = random.dirichlet(np.full(classes, random.choice([0.1, 1, 10])))
    truth = random.choice(classes, images, p=shares)
    return truth, np.where(random.random(images) < random.random(), truth, random.integers(0, classes, images)), classes


def draw_sets(seed: int) -> tuple[Any, Any, Any]:
    """Scores, truth and thresholds of sets: skewed, with empty sets, ties, and classes without positives."""
    random = np.random.default_rng(seed)
    images, classes = int(random.integers(1, 120)), int(random.integers(1, 90))
    shares = random.choice([0, 0.02, 0.3, 0.9], classes)
    truth = random.random((images, classes)) < shares
    truth[random.random(images) < 0.2] = False
    scores = np.clip(0.3 * truth + 0.8 * random.random((images, classes)), 0, 1)
    if seed % 2:  # ties
        scores = scores.round(1)
    if seed % 3 == 0:
        scores = scores.astype(np.float32)
    return scores, truth, random.random(classes)


@pytest.mark.parametrize("seed", CASES)
def test_balanced_accuracy_and_macro_f1_are_scikit_learns(seed: int) -> None:
    truth, predicted, classes = draw_labels(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class, and of classes that occur in the predictions only
        confusion = sklearn.confusion_matrix(truth, predicted, labels=range(classes))
        accuracy = sklearn.balanced_accuracy_score(truth, predicted)
        f1 = sklearn.f1_score(truth, predicted, average="macro")
    for counts in (ClassCounts.of_labels(truth, predicted, classes), ClassCounts.of_confusion(confusion)):
        assert counts.balanced_accuracy == pytest.approx(accuracy, **EXACT)
        assert counts.macro_f1 == pytest.approx(f1, **EXACT)


@pytest.mark.parametrize("seed", CASES)
def test_scores_of_sets_are_scikit_learns(seed: int) -> None:
    scores, truth, thresholds = draw_sets(seed)
    found, predicted = score_sets(scores, truth, thresholds), scores >= thresholds
    have = truth.any(0)
    each = [sklearn.average_precision_score(truth[:, k], scores[:, k]) for k in np.flatnonzero(have)]
    assert average_precisions(scores, truth) == pytest.approx(np.array(each), **EXACT)
    expected = [
        np.mean(each) if each else math.nan,
        *(sklearn.f1_score(truth, predicted, average=kind, zero_division=np.nan) for kind in ("micro", "macro")),
        sklearn.accuracy_score(truth, predicted),
    ]
    if truth.shape[1] == 1:  # which scikit-learn takes for two classes
        expected[1] = expected[2] = sklearn.f1_score(truth[:, 0], predicted[:, 0], zero_division=np.nan)
    assert list(vars(found).values()) == pytest.approx(expected, **EXACT, nan_ok=True)


@pytest.mark.parametrize("seed", CASES)
def test_no_threshold_has_a_better_f1(seed: int) -> None:
    scores, truth, _ = draw_sets(seed)
    chosen = best_thresholds(scores, truth)
    assert ((chosen >= 0) & (chosen <= 1)).all()
    for number, threshold in enumerate(chosen):
        own, right = scores[:, number].astype(np.float64), truth[:, number]
        if not right.any():
            assert threshold == 0.5
            continue
        values = np.unique(own)
        f1 = {value: 2 * ((own >= value) & right).sum() / ((own >= value).sum() + right.sum()) for value in values}
        accepted = min(value for value in values if value >= threshold)
        assert f1[accepted] == max(f1.values())
        assert all(f1[value] < f1[accepted] for value in values if value > accepted), "of equal ones it is the highest"
        lower = max((value for value in values if value < accepted), default=0.0)
        assert threshold == pytest.approx((accepted + lower) / 2)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_threshold_between_neighboring_numbers_separates_them(kind: Any) -> None:
    low = kind(0.3)
    high = np.nextafter(low, kind(1))
    (threshold,) = best_thresholds(np.array([[high], [low]]), np.array([[True], [False]]))
    assert low < kind(threshold) <= high


@pytest.mark.parametrize("seed", CASES)
def test_errors_of_numbers_are_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.normal(random.normal(), 3, int(random.integers(2, 200)))
    predicted = truth + random.normal(0, random.random() * 5, len(truth))
    if seed % 5 == 0:
        truth[:] = truth[0]
    if seed % 10 == 0:
        predicted = truth
    assert r_squared(truth, predicted) == pytest.approx(sklearn.r2_score(truth, predicted), rel=1e-12, abs=1e-12)
    error = sklearn.mean_absolute_error(truth, predicted)
    assert mean_absolute_error(truth, predicted) == pytest.approx(error, **EXACT)


def test_nothing_to_average_is_nan() -> None:
    none = np.zeros(0, np.int64)
    counts = ClassCounts.of_labels(none, none, 3)
    empty = score_sets(np.zeros((2, 3)), np.zeros((2, 3), bool), np.full(3, 0.5))
    values = [counts.balanced_accuracy, counts.macro_f1, r_squared([1.0], [1.0]), mean_absolute_error([], [])]
    values += [empty.mean_average_precision, empty.micro_f1, empty.macro_f1]
    assert all(map(math.isnan, values))
    assert empty.exact_match == 1, "empty sets that are predicted as empty are right"


def test_parts_of_a_split_add_up() -> None:
    truth, predicted, classes = draw_labels(7)
    whole = ClassCounts.of_labels(truth, predicted, classes)
    parts = [ClassCounts.of_labels(truth[part], predicted[part], classes) for part in (slice(20), slice(20, None))]
    total = ClassCounts(*(sum(vars(part)[name] for part in parts) for name in vars(whole)))
    assert (total.balanced_accuracy, total.macro_f1) == (whole.balanced_accuracy, whole.macro_f1)
