"""Parts of a split: fewer images, or a held-out part. Sampled from the seed, evenly from the classes."""

from typing import Any

import numpy as np

from vitctl.errors import DataError
from vitctl.io.patch_file import Split
from vitctl.io.subset import Subset
from vitctl.randomness import Draws

FIXED = 0  # the seed of a draw that is the same in every run


def limit_split(split: Split, count: int | None, seed: int, draw: str = "even") -> Split:
    """At most `count` images: spread evenly over the classes, or (`fixed`) in their frequencies, whatever the seed."""
    if count is None or count >= split.rows:
        return split
    if draw == "fixed":
        chosen = np.argsort(split_draws(split.rows, FIXED, "limit-fixed"), kind="stable")[:count]
        return Subset(split, np.sort(chosen), split.name)
    order, turn = group_by_class(split, seed, "limit")
    chosen = order[np.lexsort((split_draws(split.rows, seed, "limit-ties")[order], turn))[:count]]
    return Subset(split, np.sort(chosen), split.name)


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Holds out a share of every class: (the rest, the held-out part)."""
    order, turn = group_by_class(split, seed, "dev")
    labels = split.labels()
    labels = labels - labels.min()  # an empty set is -2, an image with a number -1
    is_held_out = turn < np.round(share * np.bincount(labels)[labels[order]])
    held_out, rest = np.sort(order[is_held_out]), np.sort(order[~is_held_out])
    if not len(held_out) or not len(rest):
        raise DataError(f"split {split.name}: is too small to hold out {share:.0%} of each class")
    return Subset(split, rest, split.name), Subset(split, held_out, f"{split.name}-dev")


def group_by_class(split: Split, seed: int, purpose: str) -> tuple[Any, Any]:
    """All rows [rows], class by class, in random order within a class; and the position of each in its class [rows]."""
    labels = split.labels()
    order = np.lexsort((split_draws(split.rows, seed, purpose), labels))
    starts = np.searchsorted(labels[order], labels[order])
    return order, np.arange(len(order)) - starts


def split_draws(rows: int, seed: int, purpose: str) -> Any:
    return Draws(seed, 0, np.arange(rows, dtype=np.int64)).bits(purpose)[:, 0]
