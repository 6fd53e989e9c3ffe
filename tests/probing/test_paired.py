"""Paired intervals against restatements of their definitions, and how often they contain the truth."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binomtest

from tests.probing.test_metrics import draw_sets
from vitctl.probing.metrics import average_precisions, mean_of, r_squared
from vitctl.probing.paired import (
    RESAMPLES,
    draw_counts,
    mcnemar_p,
    percentile_interval,
    resample_numbers,
    resample_sets,
    tango_interval,
)


def score(this: int, other: int, images: int, difference: float) -> float:
    """Tango's score from its definition: the likelihood, for a given difference, is maximized numerically."""

    def loss(share: float) -> float:  # `share`: the probability that only the other is right
        chances = (share + difference, share, 1 - difference - 2 * share)
        counts = (this, other, images - this - other)
        return -sum(
            count * math.log(max(chance, 1e-300)) for count, chance in zip(counts, chances, strict=True) if count
        )

    low, high = max(0.0, -difference), (1 - difference) / 2
    ends = [(loss(end), end) for end in (low, high)]
    inside = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13})
    _, share = min([*ends, (inside.fun, inside.x)])
    return float((this - other) / images - difference) / math.sqrt(
        max(2 * share + difference - difference**2, 1e-300) / images
    )


def counts() -> Any:
    return st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200)).filter(any)


@given(counts())
def test_the_interval_is_tangos(counts: tuple[int, int, int]) -> None:
    this, other, same = counts
    images = this + other + same
    low, high = tango_interval(this, other, images)
    estimate, edge = (this - other) / images, 1 - 1e-9
    wanted = [
        end if abs(estimate - end) < 1e-12 else
        brentq(lambda at, z=z: score(this, other, images, at) - z, *sorted((estimate, end * edge)))
        for z, end in ((1.959964, -1), (-1.959964, 1))
    ]  # fmt: skip
    assert (low, high) == (pytest.approx(wanted[0], abs=1e-5), pytest.approx(wanted[1], abs=1e-5))
    assert -1 <= low <= estimate <= high <= 1
    assert tango_interval(other, this, images) == pytest.approx((-high, -low), abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_interval_excludes_zero_where_mcnemars_chi_squared_is_significant(this: int, other: int) -> None:
    if this + other:
        low, high = tango_interval(this, other, 700)
        assert (low > 0 or high < 0) == ((this - other) ** 2 / (this + other) > 1.959964**2)


@given(st.integers(0, 500), st.integers(0, 500))
def test_mcnemars_test_is_the_exact_binomial_one(this: int, other: int) -> None:
    wanted = binomtest(this, this + other).pvalue if this + other else 1.0
    assert mcnemar_p(this, other) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("images", [20, 50, 200])
@pytest.mark.parametrize(("only_this", "only_other"), [(0.05, 0.05), (0.2, 0.1), (0.02, 0.15), (0.3, 0.3)])
def test_the_interval_of_a_share_contains_the_truth_in_95_of_100(
    images: int, only_this: float, only_other: float
) -> None:
    """Summed over every outcome: no draws, so no luck."""
    covered = 0.0
    for this in range(images + 1):
        for other in range(images + 1 - this):
            same = images - this - other
            log = (
                math.lgamma(images + 1) - sum(math.lgamma(count + 1) for count in (this, other, same))
                + this * math.log(only_this) + other * math.log(only_other)
                + same * math.log(1 - only_this - only_other)
            )  # fmt: skip
            if log > math.log(1e-9):
                low, high = tango_interval(this, other, images)
                covered += math.exp(log) * (low <= only_this - only_other <= high)
    assert 0.94 < covered < 0.99


def test_resamples_are_bootstrap_resamples_and_the_same_for_every_model() -> None:
    drawn = np.concatenate(list(draw_counts(300)), axis=1)
    assert drawn.shape == (300, RESAMPLES)
    assert (drawn.sum(0) == 300).all()
    assert drawn.var() == pytest.approx(1 - 1 / 300, rel=0.02)  # multinomial
    assert np.corrcoef(drawn[:, :2].T)[0, 1] == pytest.approx(0, abs=0.2)
    np.testing.assert_array_equal(drawn, np.concatenate(list(draw_counts(300)), axis=1))
    assert drawn[:16, 0].tolist() == [0, 0, 2, 1, 1, 1, 0, 3, 1, 1, 2, 2, 1, 0, 1, 1]  # results on disk rely on them


@pytest.mark.parametrize("seed", range(12))
def test_mean_average_precision_of_a_resample_is_that_of_its_images(seed: int) -> None:
    scores, truth, _ = draw_sets(seed)
    values = resample_sets(scores, truth)
    drawn = np.concatenate(list(draw_counts(len(scores))), axis=1)
    for number in range(0, RESAMPLES, 97):
        rows = np.repeat(np.arange(len(scores)), drawn[:, number])
        wanted = mean_of(average_precisions(scores[rows], truth[rows]))
        assert values[number] == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_r_squared_of_a_resample_is_that_of_its_images() -> None:
    random = np.random.default_rng(0)
    truth = 1e6 + random.normal(size=50)
    predicted = truth + random.normal(size=50)
    drawn = np.concatenate(list(draw_counts(50)), axis=1)
    for number, value in enumerate(resample_numbers(truth, predicted)):
        rows = np.repeat(np.arange(50), drawn[:, number])
        assert value == pytest.approx(r_squared(truth[rows], predicted[rows]), rel=1e-6)
    assert np.isnan(resample_numbers(np.full(5, 3.0), np.arange(5.0))).all()
    assert np.isnan(resample_numbers(np.array([3.0]), np.array([3.0]))).all()


@pytest.mark.slow
def test_the_interval_of_two_models_of_sets_contains_the_truth() -> None:
    """200 samples of 150 images, from a law whose difference in mAP is known from 200,000."""

    def draw(random: Any, images: int) -> tuple[Any, Any, Any]:
        truth = random.random((images, 3)) < (0.2, 0.4, 0.6)
        noise = random.normal(size=(images, 3))
        one, other = (shift * truth + noise + 0.6 * random.normal(size=noise.shape) for shift in (1.5, 1.2))
        return truth, one, other

    truth, one, other = draw(np.random.default_rng(0), 200_000)
    wanted = mean_of(average_precisions(one, truth)) - mean_of(average_precisions(other, truth))
    covered = 0
    for seed in range(1, 201):
        truth, one, other = draw(np.random.default_rng(seed), 150)
        low, high = percentile_interval(resample_sets(one, truth) - resample_sets(other, truth)) or (0, 0)
        covered += low <= wanted <= high
    assert 180 <= covered <= 198


def test_an_interval_of_no_values_is_none() -> None:
    assert percentile_interval([math.nan] * 3) is None
    low, high = percentile_interval([*np.arange(1001.0), math.nan]) or (0, 0)
    assert (low, high) == (25, 975)
