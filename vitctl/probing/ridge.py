"""Regularised least squares to -1 and 1, of every strength from one decomposition.

W = (X'X + l2 I)^-1 X'Y, and as X'X = Q diag(e) Q' a new strength costs one product. With fewer examples than features
the same is written with XX', which is smaller. Y is 1 for an example's class and -1 elsewhere, so that Y is never made:
products with it are sums over classes.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class RidgeDecomposition:
    x: Floats  # [N, D]
    numbers: Ints  # [N], the classes; each of 0..K-1 occurs
    values: Floats  # [min(N, D)], what l2 is added to
    vectors: Floats  # Q

    @classmethod
    def of(cls, x: Floats, numbers: Ints) -> "RidgeDecomposition":
        values, vectors = np.linalg.eigh(x @ x.T if len(x) < x.shape[1] else x.T @ x)
        return cls(x, numbers, np.maximum(values, 0), vectors)

    @property
    def is_dual(self) -> bool:
        return bool(len(self.x) < self.x.shape[1])

    @cached_property
    def turned(self) -> Floats:
        """Q'Y, or Q'X'Y."""
        if self.is_dual:
            return times_targets(self.vectors, self.numbers)
        return self.vectors.T @ times_targets(self.x, self.numbers)

    def weights(self, l2: float) -> Floats:
        """W, [D, K]."""
        left = self.x.T @ self.vectors if self.is_dual else self.vectors
        return (left / (self.values + l2)) @ self.turned

    def leave_out(self, rows: Ints, dtype: type = np.float64) -> "LeaveOneOut":
        own = self.vectors[rows] if self.is_dual else self.x[rows] @ self.vectors
        return LeaveOneOut(own, self.turned.astype(dtype), self.values, self.numbers[rows], self.is_dual)


@dataclass(frozen=True)
class LeaveOneOut:
    """What a fit to all other examples predicts for each of some, without fitting again."""

    own: Floats  # [R, min(N, D)], their rows of Q, or of XQ
    turned: Floats
    values: Floats
    numbers: Ints  # [R]
    is_dual: bool

    def gaps(self, l2: float) -> Floats:
        """Predicted less wanted, [R, K]."""
        scaled = self.own / (self.values + l2)
        found = scaled.astype(self.turned.dtype) @ self.turned
        shares = np.einsum("ij,ij->i", scaled, self.own)[:, None]
        if self.is_dual:  # (XX' + l2 I)^-1 = scaled @ Q'
            return found / -shares.astype(found.dtype)  # type: ignore[no-any-return]
        found += 1  # 1 is wanted for an example's class, -1 elsewhere
        found[np.arange(len(found)), self.numbers] -= 2
        found /= np.maximum(1 - shares, 1e-12).astype(found.dtype)
        return found

    def score(self, l2: float) -> tuple[float, float]:
        """The share of those that are known, and the mean square of the gaps."""
        gaps = self.gaps(l2)
        square = float(np.vdot(gaps, gaps)) / gaps.size
        gaps[np.arange(len(gaps)), self.numbers] += 2  # the predictions, but for 1 everywhere
        return float((gaps.argmax(1) == self.numbers).mean()), square


def times_targets(values: Floats, numbers: Ints) -> Floats:
    """values' Y: [N, M] -> [M, K]."""
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    sums = np.add.reduceat(values[order], np.cumsum(counts) - counts, axis=0)  # [K, M]
    return 2.0 * sums.T - sums.sum(0)[:, None]  # type: ignore[no-any-return]
