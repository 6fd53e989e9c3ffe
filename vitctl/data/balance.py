"""Classes of different sizes: an order that draws small ones more often, weights for a loss, and how skewed they are.

The order is computed position by position, as that of vitctl.data.order. An epoch has as many positions as rows.

- Each class has a quota of positions, which is the same in every epoch: its share of the rows (balance "full": one part
  of K, "sqrt": in proportion to the root of its size), rounded so that all quotas add up to the epoch. The quota is
  less than 1 from the exact share, and at least 1.
- An epoch is divided into blocks, so short that every class is due at least once in each. At the end of each block, a
  class has had less than 1 more or less than its share so far. Within a block the positions are shuffled, keyed by
  (seed, epoch, block).
- So the number of positions that a class had before a block is a formula, and each position has a number among those of
  its class, counted over all epochs. By this number a class is walked through in passes: every row once, in an order
  keyed by (seed, class, pass), then the next pass. Over whole epochs, the rows of a class are drawn equally often, or
  once more.

The pass takes the place of the epoch in the keys of augmentation: a row that is drawn several times in an epoch is
augmented differently each time.

Where a label is a set, a class has all the rows whose sets contain it, so that classes share rows. Rows of an empty set
are a class of their own, the last one. An epoch still has as many positions as rows. A class that many others dwarf
gets at least one position, from the class with the most. The keys of augmentation are numbered by pass and class.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vitctl.data.order import Ints, shuffle_positions
from vitctl.io.patch_file import Split
from vitctl.randomness import STEP, scramble

BETA = 0.9999  # of the effective number of images, as for the long-tailed sets in arXiv 1901.05555
SKEWED = 10  # times as many images in the largest class as in the smallest one


class BalancedOrder:
    """`order.at(positions)` are (rows, passes). Every class needs at least one row."""

    def __init__(
        self, labels: Ints, classes: int, balance: Literal["sqrt", "full"], seed: int, owners: Ints | None = None
    ) -> None:
        """`labels`: of each row; or, if a row may have several, of each pair with a row in `owners`."""
        self.seed, self.is_shared = seed, owners is not None
        self.counts = np.bincount(labels, minlength=classes)
        self.index = np.argsort(labels, kind="stable")  # rows, class by class
        if owners is not None:
            self.index = owners[self.index]
        self.rows = len(labels) if owners is None else int(owners.max()) + 1
        self.starts = np.cumsum(self.counts) - self.counts
        self.quotas = class_quotas(self.counts, balance, self.rows)
        self.ends = np.append(0, np.cumsum(self.quotas))  # [K + 1]
        self.block = -(-self.rows // int(self.quotas.min()))
        self.blocks = self.rows // self.block

    def at(self, positions: Ints) -> tuple[Ints, Ints]:
        """Rows, and the number of the pass in which each is drawn, at positions of the endless sequence of epochs."""
        epochs, inside = np.divmod(positions, self.rows)
        classes, turns = self.class_turns(epochs, inside)
        counts = self.counts[classes]
        passes, places = np.divmod(epochs * self.quotas[classes] + turns, counts)
        keys = scramble(passes + scramble(classes * STEP))
        rows = self.index[self.starts[classes] + shuffle_positions(places, counts, self.seed, keys, "class")]
        return rows, passes * len(self.counts) + classes if self.is_shared else passes

    def class_turns(self, epochs: Ints, inside: Ints) -> tuple[Ints, Ints]:
        """The class at each position, and how many positions of that class come before it in its epoch."""
        blocks = np.minimum(inside // self.block, self.blocks - 1)
        starts = blocks * self.block
        sizes = np.where(blocks == self.blocks - 1, self.rows - starts, self.block)
        keys = scramble(blocks + scramble(epochs * STEP))
        slots = shuffle_positions(inside - starts, sizes, self.seed, keys, "block")
        mine, lines = np.unique(blocks, return_inverse=True)  # the blocks of this batch
        before, after = self.count_before(mine), self.count_before(mine + 1)
        bounds = after - before + (mine * self.block)[:, None]  # [blocks, K + 1]: where classes end, over all blocks
        found = np.searchsorted(bounds[:, 1:].ravel(), slots + starts, side="right")
        classes = found - lines * len(self.counts)
        turns = slots + starts - bounds[lines, classes] + before[lines, classes + 1] - before[lines, classes]
        return classes, turns

    def count_before(self, blocks: Ints) -> Ints:
        """[B, K + 1]: how many positions before a block are of the first k classes."""
        starts = np.where(blocks == self.blocks, self.rows, blocks * self.block)
        drawn: Ints = starts[:, None] * self.ends // self.rows
        return drawn


def order_sets(split: Split, balance: Literal["sqrt", "full"], seed: int) -> BalancedOrder:
    """The order of a split whose labels are sets. It needs more rows than classes."""
    owners, labels, start = [], [], 0
    for packed in split.slices("label_sets"):
        sets = np.unpackbits(packed, axis=1, count=split.classes, bitorder="little")
        own, numbers = np.nonzero(np.column_stack([sets, ~sets.any(1)]))
        owners.append(own + start)
        labels.append(numbers)
        start += len(sets)
    numbers = np.concatenate(labels)
    return BalancedOrder(numbers, int(numbers.max()) + 1, balance, seed, np.concatenate(owners))


def class_quotas(counts: Ints, balance: Literal["sqrt", "full"], rows: int) -> Ints:
    """The positions of each class in an epoch [K], which has as many as `rows`."""
    shares = np.cumsum(np.sqrt(counts) if balance == "sqrt" else np.ones(len(counts)))
    ends = np.floor(rows * (shares / shares[-1]) + 1e-9).astype(np.int64)
    quotas: Ints = np.diff(ends, prepend=0)
    while not quotas.all():  # only of classes that share rows
        quotas[quotas.argmin()] += 1
        quotas[quotas.argmax()] -= 1
    return quotas


def effective_weights(counts: Ints) -> Any:
    """Class-balanced weights [K] by the effective number of images, with mean 1 over the images."""
    weights = (1 - BETA) / -np.expm1(counts * np.log(BETA))
    return weights * counts.sum() / (weights * counts).sum()


def log_priors(counts: Ints, smoothing: float) -> Any:
    """The log of each class's share of the targets [K], as smoothing leaves it."""
    return np.log((1 - smoothing) * counts / counts.sum() + smoothing / len(counts))


def describe_skew(split: str, counts: Ints, names: Sequence[str]) -> str:
    """What the largest and the smallest class of a split have, if they differ much. Empty classes do not count."""
    present = np.flatnonzero(counts)
    if not len(present) or counts.max() <= SKEWED * counts[present].min():
        return ""
    largest, smallest = int(counts.argmax()), int(present[counts[present].argmin()])
    return (
        f"{split} is skewed: {counts[largest]:,} images of {names[largest]}, the largest class, and "
        f"{counts[smallest]:,} of {names[smallest]}, the smallest"
    )
