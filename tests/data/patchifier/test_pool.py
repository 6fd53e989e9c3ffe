"""Which worker gets which blocks."""

from itertools import chain, groupby
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitctl.data.patchifier.pool import RUN, group_blocks

BLOCK = 16


def runs_of(groups: list[int], todo: list[int], workers: int, reads_ahead: bool = True) -> list[list[int]]:
    """`groups`: the row group in which each block begins."""
    columns = {"file": np.zeros(len(groups) * BLOCK, np.int64), "offset": np.repeat(groups, BLOCK)}
    layout: Any = SimpleNamespace(
        plan=SimpleNamespace(column=columns.__getitem__),
        rows=lambda number: range(number * BLOCK, (number + 1) * BLOCK),
    )
    build: Any = SimpleNamespace(source=SimpleNamespace(reads_ahead=reads_ahead))
    return list(group_blocks(build, layout, todo, workers))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300).map(sorted), st.integers(2, 16), st.data())
def test_every_block_once_in_its_order_and_no_worker_gets_too_much(groups: list[int], workers: int, data: Any) -> None:
    todo = sorted(data.draw(st.sets(st.integers(0, len(groups) - 1), min_size=1)))
    runs = runs_of(groups, todo, workers)
    assert list(chain(*runs)) == todo
    assert max(map(len, runs)) <= max(len(todo) // (4 * workers), 1)
    assert runs_of(groups, todo, workers, reads_ahead=False) == [[number] for number in todo]


def test_a_row_group_is_read_by_one_worker() -> None:
    groups = [number // 20 for number in range(400)]
    assert runs_of(groups, list(range(400)), 2) == [
        list(run) for _, run in groupby(range(400), lambda each: each // 20)
    ]
    assert {len(run) for run in runs_of(list(range(400)), list(range(400)), 2)} == {RUN}  # as in a tar
