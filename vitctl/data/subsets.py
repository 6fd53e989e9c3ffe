"""Parts of a split: fewer images, or some that are set apart. Drawn from the seed, evenly from the classes."""

from typing import Any

import numpy as np

from vitctl.errors import DataError
from vitctl.io.patch_file import Split
from vitctl.io.subset import Subset
from vitctl.randomness import Draws


def limit_split(split: Split, count: int | None, seed: int) -> Split:
    """So many images: one class after the other gives one until there are enough."""
    if count is None or count >= split.rows:
        return split
    order, turn = group_by_class(split, seed, "limit")
    chosen = order[np.lexsort((split_draws(split.rows, seed, "limit-ties")[order], turn))[:count]]
    return Subset(split, np.sort(chosen), split.name)


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """A part of every class is set apart: (the rest, the part)."""
    order, turn = group_by_class(split, seed, "dev")
    labels = split.labels()
    is_apart = turn < np.round(share * np.bincount(labels)[labels[order]])
    apart, rest = np.sort(order[is_apart]), np.sort(order[~is_apart])
    if not len(apart) or not len(rest):
        raise DataError(f"split {split.name}: {share:.0%} of each class cannot be set apart; it is too small")
    return Subset(split, rest, split.name), Subset(split, apart, f"{split.name}-dev")


def group_by_class(split: Split, seed: int, purpose: str) -> tuple[Any, Any]:
    """All rows, class by class, each class in a random order; and the place of each in its class."""
    labels = split.labels()
    order = np.lexsort((split_draws(split.rows, seed, purpose), labels))
    begins = np.searchsorted(labels[order], labels[order])
    return order, np.arange(len(order)) - begins


def split_draws(rows: int, seed: int, purpose: str) -> Any:
    return Draws(seed, 0, np.arange(rows, dtype=np.int64)).bits(purpose)[:, 0]
