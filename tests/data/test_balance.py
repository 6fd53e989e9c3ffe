"""The order of --balance: exact shares, rows used evenly, and no memory of what came before."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitctl.data.balance import (
    BETA,
    BalancedOrder,
    class_quotas,
    describe_skew,
    effective_weights,
    log_priors,
)

Balance = Literal["sqrt", "full"]
BALANCES = st.sampled_from(["sqrt", "full"])
COUNTS = st.lists(st.integers(1, 60) | st.integers(1, 3), min_size=1, max_size=12)


def labels_of(counts: list[int], seed: int = 0) -> Any:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def order_of(counts: list[int], balance: Balance, seed: int = 0) -> tuple[Any, BalancedOrder]:
    labels = labels_of(counts)
    return labels, BalancedOrder(labels, len(counts), balance, seed)


def exact_shares(counts: list[int], balance: Balance) -> Any:
    weights = np.sqrt(counts) if balance == "sqrt" else np.ones(len(counts))
    return weights / weights.sum()


@settings(max_examples=200)
@given(COUNTS, BALANCES, st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_the_shares_of_an_epoch_are_exact_to_one_position(
    counts: list[int], balance: Balance, seed: int, epoch: int
) -> None:
    labels, order = order_of(counts, balance, seed)
    rows, _ = order.at(np.arange(epoch * len(labels), (epoch + 1) * len(labels)))
    drawn = np.bincount(labels[rows], minlength=len(counts))
    assert (np.abs(drawn - len(labels) * exact_shares(counts, balance)) <= 1).all()
    assert drawn.min() >= 1


@settings(max_examples=200)
@given(COUNTS, BALANCES, st.integers(1, 30))
def test_every_row_of_a_class_is_used_equally_often_or_once_more(
    counts: list[int], balance: Balance, epochs: int
) -> None:
    labels, order = order_of(counts, balance)
    rows, _ = order.at(np.arange(epochs * len(labels)))
    used = np.bincount(rows, minlength=len(labels))
    for number in range(len(counts)):
        assert np.ptp(used[labels == number]) <= 1


@settings(max_examples=100)
@given(COUNTS, BALANCES)
def test_a_pass_holds_every_row_of_its_class_once(counts: list[int], balance: Balance) -> None:
    labels, order = order_of(counts, balance)
    rows, passes = order.at(np.arange(7 * len(labels)))
    assert len(set(zip(rows.tolist(), passes.tolist(), strict=True))) == len(rows), "a key of augmentation occurs twice"
    for number, count in enumerate(counts):
        own = passes[labels[rows] == number]
        used = np.bincount(own)
        assert (used[:-1] == count).all()
        assert 0 < used[-1] <= count


@settings(max_examples=100)
@given(COUNTS, BALANCES, st.data())
def test_a_position_does_not_depend_on_those_before_it(counts: list[int], balance: Balance, data: Any) -> None:
    """So neither the batch size, nor the number of ranks, nor the step of a resume makes a difference."""
    labels, order = order_of(counts, balance)
    whole = order.at(np.arange(4 * len(labels)))
    some = np.array(data.draw(st.lists(st.integers(0, 4 * len(labels) - 1), min_size=1, max_size=20)))
    for mine, theirs in zip(BalancedOrder(labels, len(counts), balance, 0).at(some), whole, strict=True):
        assert np.array_equal(mine, theirs[some])


@pytest.mark.parametrize("balance", ["sqrt", "full"])
def test_classes_are_spread_evenly_over_an_epoch(balance: Balance) -> None:
    counts = [1000, 300, 100, 30, 10]
    labels, order = order_of(counts, balance)
    drawn = labels[order.at(np.arange(len(labels)))[0]]
    shares, block = exact_shares(counts, balance), order.block
    for number, share in enumerate(shares):
        before = np.append(0, np.cumsum(drawn == number))
        ends = np.arange(0, order.blocks) * block
        assert (np.abs(before[ends] - ends * share) < 2).all()
        assert (np.abs(before - np.arange(len(before)) * share) < 2 + block * share).all()
    assert block <= 2 / shares.min()


def test_each_class_once_in_each_block_if_all_are_equal() -> None:
    labels, order = order_of([50, 50, 50, 50], "full")
    drawn = labels[order.at(np.arange(400))[0]].reshape(-1, 4)
    assert (np.sort(drawn, 1) == np.arange(4)).all()
    assert len({tuple(line) for line in drawn.tolist()}) > 12


def test_seeds_epochs_classes_and_passes_have_orders_of_their_own() -> None:
    counts = [40, 40]
    orders = []
    for seed in range(3):
        labels, order = order_of(counts, "full", seed)
        rows, passes = order.at(np.arange(10 * len(labels)))
        for number in (0, 1):
            places = np.argsort(np.argsort(order.index))  # of a row in its class
            orders += [
                tuple((places[rows[(labels[rows] == number) & (passes == turn)]] % 40).tolist()) for turn in range(10)
            ]
    assert len(set(orders)) == len(orders)


def test_every_row_is_as_likely_at_every_place_of_a_pass() -> None:
    labels, order = order_of([10, 2], "full")
    rows, passes = order.at(np.arange(60_000))
    own = labels[rows] == 0
    first = rows[own][np.append(True, np.diff(passes[own]) > 0)]
    used = np.bincount(first, minlength=12)[labels == 0]
    expected = used.sum() / 10
    assert ((used - expected) ** 2 / expected).sum() < 9 + 5 * np.sqrt(18)


def test_a_batch_of_many_classes_costs_what_a_batch_costs() -> None:
    counts = np.random.default_rng(0).zipf(1.5, 5000).clip(1, 1000)
    labels = np.repeat(np.arange(5000), counts)
    for balance in ("sqrt", "full"):
        order = BalancedOrder(labels, 5000, balance, 0)  # type: ignore[arg-type]
        rows, passes = order.at(np.arange(10**12, 10**12 + 4096))
        assert len(set(zip(rows.tolist(), passes.tolist(), strict=True))) == 4096
        assert (order.quotas >= 1).all()
        assert order.quotas.sum() == len(labels)


def test_quotas_of_the_roots() -> None:
    assert class_quotas(np.array([100, 25, 1]), "sqrt", 126).tolist() == [78, 40, 8]  # 126 times 10, 5, 1 of 16
    assert class_quotas(np.array([100, 25, 1]), "full", 126).tolist() == [42, 42, 42]


def draw_members(seed: int) -> Any:
    """bool [M, C]: of each image its classes, some common and some rare; the last column is the empty sets."""
    random = np.random.default_rng(seed)
    rows, classes = int(random.integers(2, 80)), int(random.integers(1, 12))
    classes = min(classes, rows - 1)
    sets = random.random((rows, classes)) < random.choice([0.03, 0.3, 0.9], classes)
    sets[random.integers(0, rows, classes), np.arange(classes)] = True  # no class is empty
    return np.column_stack([sets, ~sets.any(1)])


def order_members(members: Any, balance: Balance) -> BalancedOrder:
    owners, labels = np.nonzero(members)
    return BalancedOrder(labels, int(labels.max()) + 1, balance, 0, owners)


@settings(max_examples=200)
@given(st.integers(0, 10**6), BALANCES, st.integers(1, 8))
def test_classes_of_sets_have_their_shares_and_use_their_rows_evenly(seed: int, balance: Balance, epochs: int) -> None:
    members = draw_members(seed)
    order, counts = order_members(members, balance), members.sum(0)
    counts = counts[counts > 0] if not counts[-1] else counts
    rows, keys = order.at(np.arange(epochs * len(members)))
    passes, classes = np.divmod(keys, len(order.counts))
    assert members[rows, classes].all(), "an image is drawn for a class that it has"
    assert len(set(zip(rows.tolist(), keys.tolist(), strict=True))) == len(rows), "a key of augmentation occurs twice"
    drawn = np.bincount(classes, minlength=len(counts))
    assert drawn.tolist() == (epochs * order.quotas).tolist()
    assert order.quotas.sum() == len(members)
    exact = len(members) * exact_shares(counts.tolist(), balance)
    assert order.quotas.min() >= 1
    if exact.min() >= 1:
        assert (np.abs(order.quotas - exact) <= 1).all()
    for number in range(len(counts)):
        used = np.bincount(rows[classes == number], minlength=len(members))[members[:, number]]
        assert np.ptp(used) <= 1, "every row of a class equally often, or once more"
        assert passes[classes == number].max() == (drawn[number] - 1) // counts[number]


@settings(max_examples=100)
@given(st.integers(0, 10**6), BALANCES, st.data())
def test_a_position_of_sets_does_not_depend_on_those_before_it(seed: int, balance: Balance, data: Any) -> None:
    members = draw_members(seed)
    whole = order_members(members, balance).at(np.arange(4 * len(members)))
    some = np.array(data.draw(st.lists(st.integers(0, 4 * len(members) - 1), min_size=1, max_size=20)))
    for mine, theirs in zip(order_members(members, balance).at(some), whole, strict=True):
        assert np.array_equal(mine, theirs[some])


@given(COUNTS)
def test_weights_of_the_loss_are_those_of_the_paper_with_mean_one_over_the_images(counts: list[int]) -> None:
    weights = effective_weights(np.array(counts))
    paper = np.array([(1 - BETA) / (1 - BETA**count) for count in counts])
    np.testing.assert_allclose(weights / weights[0], paper / paper[0], rtol=1e-9)
    assert (weights * counts).sum() / sum(counts) == pytest.approx(1)
    assert np.exp(log_priors(np.array(counts), 0.0)) == pytest.approx(np.array(counts) / sum(counts))


def test_skewed_means_more_than_ten_times() -> None:
    assert describe_skew("train", np.array([100, 10, 0]), "abc") == ""
    line = describe_skew("train", np.array([1000, 0, 10, 20]), "abcd")
    assert line == "train is skewed: 1,000 images of a, the largest class, and 10 of c, the smallest"
    assert describe_skew("val", np.zeros(3, np.int64), "abc") == ""
