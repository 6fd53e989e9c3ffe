"""Ridge regression, to -1 and 1 or to given targets, for every strength from one eigendecomposition.

W = (X'X + l2 I)^-1 X'Y. With X'X = Q diag(e) Q', each new strength costs one matrix product. With fewer examples than
features XX' is used instead, because it is smaller. Of single classes, Y is 1 for the class of an example and -1
elsewhere. It is never stored: products with it are sums over classes.
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
    numbers: Any  # int64 [N], classes, of which each of 0..K-1 occurs; or Y itself, [N, K]
    values: Floats  # [min(N, D)], eigenvalues e
    vectors: Floats  # eigenvectors Q

    @classmethod
    def of(cls, x: Floats, numbers: Any) -> "RidgeDecomposition":
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
    """Leave-one-out predictions for R examples, without fitting again."""

    own: Floats  # [R, min(N, D)], the examples' rows of Q, or of XQ
    turned: Floats
    values: Floats
    numbers: Any  # [R], or Y [R, K]
    is_dual: bool

    def gaps(self, l2: float) -> Floats:
        """Residuals of leave-one-out, prediction minus target, [R, K].

        The residual of the fit to all examples is divided by 1 - h, where h is the leverage of the example. In the dual
        form it is the example's row of (XX' + l2 I)^-1 Y, divided by the diagonal element of that inverse.
        """
        scaled = self.own / (self.values + l2)
        gaps = scaled.astype(self.turned.dtype) @ self.turned
        diagonal = np.einsum("ij,ij->i", scaled, self.own)[:, None]
        if self.is_dual:  # (XX' + l2 I)^-1 = scaled @ Q'
            return gaps / -diagonal.astype(gaps.dtype)  # type: ignore[no-any-return]
        if self.numbers.ndim == 2:
            return (gaps - self.numbers) / np.maximum(1 - diagonal, 1e-12)  # type: ignore[no-any-return]
        gaps += 1  # the target is 1 for an example's class, -1 elsewhere
        gaps[np.arange(len(gaps)), self.numbers] -= 2
        gaps /= np.maximum(1 - diagonal, 1e-12).astype(gaps.dtype)
        return gaps

    def score(self, l2: float) -> tuple[float, float]:
        """Leave-one-out accuracy, and the mean square of the residuals."""
        gaps = self.gaps(l2)
        square = float(np.vdot(gaps, gaps)) / gaps.size
        gaps[np.arange(len(gaps)), self.numbers] += 2  # the predictions plus 1, which does not change the argmax
        return float((gaps.argmax(1) == self.numbers).mean()), square


def times_targets(values: Floats, numbers: Any) -> Floats:
    """values' Y: [N, M] -> [M, K]."""
    if numbers.ndim == 2:
        return values.T @ numbers  # type: ignore[no-any-return]
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    sums = np.add.reduceat(values[order], np.cumsum(counts) - counts, axis=0)  # [K, M]
    return 2.0 * sums.T - sums.sum(0)[:, None]  # type: ignore[no-any-return]
