import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitctl.data.order import at, shuffle_positions


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 10_000))
def test_an_epoch_holds_every_row_once(rows: int, seed: int, epoch: int) -> None:
    found = shuffle_positions(np.arange(rows), rows, seed, np.full(rows, epoch))
    assert np.array_equal(np.sort(found), np.arange(rows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(shuffle_positions(np.arange(500), 500, seed, np.full(500, epoch)))
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_a_position_does_not_depend_on_its_neighbors() -> None:
    whole, epochs = at(np.arange(5000), 777, 3)
    some = np.array([4999, 3, 776, 777, 2000])
    assert np.array_equal(at(some, 777, 3)[0], whole[some])
    assert np.array_equal(epochs, np.arange(5000) // 777)


@pytest.mark.parametrize("rows", [10, 64, 1000])
def test_every_row_is_as_likely_at_every_position(rows: int) -> None:
    epochs = 4000
    counts = np.zeros((2, rows))
    for place, position in enumerate((0, rows // 2)):
        found = shuffle_positions(np.full(epochs, position), rows, 0, np.arange(epochs))
        counts[place] = np.bincount(found, minlength=rows)
    expected = epochs / rows
    chi = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert (chi < rows - 1 + 5 * np.sqrt(2 * rows)).all(), chi


def test_neighbors_in_the_file_are_not_neighbors_in_the_order() -> None:
    found = shuffle_positions(np.arange(20_000), 20_000, 1, np.zeros(20_000, np.int64))
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(np.arange(20_000), found)[0, 1]) < 0.03


def test_a_trillion_rows_cost_what_a_batch_costs() -> None:
    found, _ = at(np.arange(4096), 10**12, 0)
    assert len(set(found.tolist())) == 4096
    assert found.max() > 0.99 * 10**12
    assert abs(found.mean() / 10**12 - 0.5) < 0.05
