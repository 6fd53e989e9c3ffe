"""Two models that answer for the same images: the interval of their difference, and a test of it."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from vitctl.probing.metrics import Flags, Floats, Ints
from vitctl.randomness import Draws

RESAMPLES = 1000
CELLS = 1 << 19  # counts of images in resamples that are held at once: few, so that they stay in the cache
FEWEST = 16  # resamples that are held at once
Z = 1.959964  # of a 95% interval
HALVINGS = 60


def tango_interval(this: int, other: int, images: int) -> tuple[float, float]:
    """Tango's 95% score interval (1998) of the difference of two shares of the same images.

    `this` and `other`: the images that only one of the two has right. It excludes 0 exactly where McNemar's chi-squared
    is significant. The score falls as the difference rises, so each end is found by halving.
    """
    ends = []
    for score in (Z, -Z):
        low, high = -1.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if tango_score(this, other, images, middle) > score else (low, middle)
        ends.append((low + high) / 2)
    return ends[0], ends[1]


def tango_score(this: int, other: int, images: int, difference: float) -> float:
    """How many standard errors the observed difference lies above this one, |difference| < 1."""
    linear = (2 * images - this + other) * difference - this - other
    rest = other * difference * (1 - difference)
    share = (math.sqrt(max(0.0, linear * linear + 8 * images * rest)) - linear) / (4 * images)  # only the other right
    variance = images * (2 * share + difference * (1 - difference))
    above = this - other - images * difference
    return above / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, above) if above else 0.0


def mcnemar_p(this: int, other: int) -> float:
    """The p-value of McNemar's exact test: the images that only one has right are split like tosses of a coin."""
    from scipy.stats import binom

    return min(1.0, 2 * float(binom.cdf(min(this, other), this + other, 0.5)))


def resample_sets(scores: Any, truth: Flags) -> Floats:
    """[RESAMPLES]: mAP of bootstrap resamples of the images; NaN where no class has a positive. Both are [M, K]."""
    orders = [order_class(scores[:, number], truth[:, number]) for number in np.flatnonzero(truth.any(0))]
    parts = []
    for counts in draw_counts(len(scores)):
        total, classes = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        for order, starts, positives, firsts in orders:
            accepted = np.add.reduceat(counts[order], starts, axis=0).cumsum(0, dtype=np.int32)
            gains = np.add.reduceat(counts[positives], firsts, axis=0)
            correct = gains.cumsum(0, dtype=np.int32)
            total += (gains * (correct / np.maximum(accepted, 1))).sum(0) / np.maximum(correct[-1], 1)
            classes += correct[-1] > 0
        parts.append(np.where(classes > 0, total / np.maximum(classes, 1), math.nan))
    return np.concatenate(parts)


def order_class(scores: Any, right: Flags) -> tuple[Any, Ints, Any, Ints]:
    """The rows from the highest score to the lowest of a positive, and where the rows of each threshold begin.

    Then the same of the positives only. The thresholds are the scores of the positives.
    """
    order = np.argsort(-scores, kind="stable").astype(np.int32)  # of all classes at once
    positives = order[right[order]]
    values = -scores[positives]
    thresholds, firsts = np.unique(values, return_index=True)
    ends = np.searchsorted(-scores[order], thresholds, side="right")
    return order[: ends[-1]], np.concatenate([[0], ends[:-1]]), positives, firsts


def resample_numbers(truth: Any, predicted: Any) -> Floats:
    """[RESAMPLES]: R² of bootstrap resamples of the images; NaN where all numbers of a resample are equal."""
    centered = np.asarray(truth, np.float64) - np.mean(truth)
    values = np.stack([(np.asarray(predicted, np.float64) - truth) ** 2, centered**2, centered, np.ones(len(centered))])
    sums = np.concatenate([values @ counts for counts in draw_counts(len(centered))], axis=1)
    rest, squares, total, images = sums
    spread = squares - total**2 / images
    known = spread > 1e-12 * squares
    return np.where(known, 1 - rest / np.where(known, spread, 1), math.nan)


def draw_counts(images: int) -> Iterator[Any]:
    """How often each resample has each image: int32 [M, some] at a time.

    They are a function of the number of images alone, so that two evaluations of the same images have the same.
    """
    step = max(FEWEST, CELLS // images)
    for start in range(0, RESAMPLES, step):
        numbers = range(start, min(start + step, RESAMPLES))
        draws = (Draws(0, number, np.arange(images)).integers("bootstrap", images)[:, 0] for number in numbers)
        yield np.stack([np.bincount(rows, minlength=images).astype(np.int32) for rows in draws], axis=1)


def percentile_interval(values: Any) -> tuple[float, float] | None:
    """The 95% interval of bootstrap resamples [RESAMPLES]; None if all are NaN."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return (float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))) if len(known) else None
