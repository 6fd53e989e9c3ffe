"""The order of an epoch, computed position by position, without a list of all rows."""

from typing import Any

import numpy as np

from vitctl.randomness import STEP, scramble, scramble_int, stream, to_int64

Ints = np.ndarray[Any, np.dtype[np.int64]]
ROUNDS = 8


def shuffle_positions(positions: Ints, rows: int | Ints, seed: int, epochs: Ints, purpose: str = "order") -> Ints:
    """The row at each position of its epoch: a bijection of range(rows), keyed by (seed, epoch).

    `rows` is one number, or [B]: positions of several shuffles at once. A Feistel network permutes the next power of
    two. Results outside of range(rows) are permuted until they are inside.
    """
    rows = np.broadcast_to(rows, positions.shape)
    bits = np.frexp(np.maximum(rows - 1, 1))[1].astype(np.int64)  # the bit length of rows - 1
    left, right = bits // 2, bits - bits // 2
    keys = scramble(epochs + scramble_int(stream(seed, purpose)))  # [B]
    shuffled = network(positions, keys, left, right)
    outside = np.flatnonzero(shuffled >= rows)
    while outside.size:
        shuffled[outside] = network(shuffled[outside], keys[outside], left[outside], right[outside])
        outside = outside[shuffled[outside] >= rows[outside]]
    return shuffled


def network(values: Ints, keys: Ints, left: Ints, right: Ints) -> Ints:
    """One keyed bijection of [0, 2^(left+right))."""
    high, low = values >> right, values & ((1 << right) - 1)
    for number in range(0, ROUNDS, 2):
        high = high ^ (scramble(low + keys + to_int64(number * STEP)) & ((1 << left) - 1))
        low = low ^ (scramble(high + keys + to_int64((number + 1) * STEP)) & ((1 << right) - 1))
    return (high << right) | low


def at(positions: Ints, rows: int, seed: int, shuffle: bool = True) -> tuple[Ints, Ints]:
    """(rows, epochs) at positions of the endless sequence of epochs. Each epoch contains every row once."""
    epochs = positions // rows
    inside = positions - epochs * rows
    return (shuffle_positions(inside, rows, seed, epochs) if shuffle else inside), epochs
