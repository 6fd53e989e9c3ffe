"""Chooses the shots like big_vision, so that a seed gives the same images in both."""

from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]


def draw_orders(labels: Ints, classes: int, seed: int) -> list[Ints]:
    """A random order of each class's rows. The k shots are the first k, so fewer shots are a subset of more."""
    random = np.random.default_rng(seed)
    return [random.permutation(np.flatnonzero(labels == number)) for number in range(classes)]


def draw_member_orders(members: Any, seed: int) -> list[Ints]:
    """The same for classes [C, M] that share images: `members` is true for the images of each."""
    random = np.random.default_rng(seed)
    return [random.permutation(np.flatnonzero(each)) for each in members]


def take_shots(order: list[Ints], shots: int | None) -> Ints:
    """The rows of the shots, class by class; all rows for None. A class may have fewer."""
    return np.concatenate([rows[:shots] for rows in order])


def split_by_class(labels: Ints, share: float, seed: int) -> tuple[Ints, Ints]:
    """(rest, part): a share of every class goes into `part`, at least one row if the class has two."""
    rest, part = [], []
    for rows in draw_orders(labels, int(labels.max(initial=-1)) + 1, seed):
        count = min(max(1, round(share * len(rows))), len(rows) - 1) if len(rows) else 0
        part.append(rows[:count])
        rest.append(rows[count:])
    return np.sort(np.concatenate(rest)), np.sort(np.concatenate(part))
