import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitctl.data.patchifier import duplicates
from vitctl.data.patchifier.duplicates import find_copies, find_first_copies, find_relabeled


def digest(number: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(number).integers(0, 256, 16, dtype=np.uint8)


contents = st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=3)


@given(contents, st.sampled_from([3, 10_000]))
def test_agrees_with_counting_by_hand(splits: list[list[int]], bucket: int) -> None:
    names = ("train", "val", "test")
    digests = {name: np.array([digest(value) for value in values], np.uint8).reshape(-1, 16)
               for name, values in zip(names, splits, strict=False)}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BUCKET", bucket)
        found = find_copies(digests)
    assert found.duplicates == sum(len(values) - len(set(values)) for values in splits)
    leaked = [(number, row) for number, values in enumerate(splits) for row, value in enumerate(values)
              if any(value in earlier for earlier in splits[:number])]  # fmt: skip
    assert found.leaked == len(leaked)
    assert [(one, row) for one, row, _, _ in found.pairs] == [(names[number], row) for number, row in leaked]
    for one, row, other, copy in found.pairs:
        assert (digests[one][row] == digests[other][copy]).all()
        assert names.index(other) < names.index(one)


rows_of_images = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(-1, 1)), max_size=20)


@given(rows_of_images, st.sampled_from([3, 10_000]))
def test_first_copies_and_their_labels_agree_with_a_search(rows: list[tuple[int, int, int]], bucket: int) -> None:
    digests = np.array([digest(value) for value, _, _ in rows], np.uint8).reshape(-1, 16)
    split, labels = (np.array([row[place] for row in rows], np.int64) for place in (1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BUCKET", bucket)
        found = find_first_copies(digests, split)
        pairs = find_relabeled(digests, labels)
    assert found.tolist() == [next(row for row, each in enumerate(rows) if each[:2] == own[:2]) for own in rows]
    firsts = [next(row for row, each in enumerate(rows) if each[0] == own[0]) for own in rows]
    assert pairs.tolist() == [
        [row, first]
        for row, first in enumerate(firsts)
        if labels[row] >= 0 and labels[first] >= 0 and labels[row] != labels[first]
    ]
