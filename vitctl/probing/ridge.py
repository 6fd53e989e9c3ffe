"""Regularised least squares of every strength from one decomposition.

W = (X'X + l2 I)^-1 X'Y, and as X'X = Q diag(e) Q' a new strength costs one product. With fewer examples than features
the same is written with XX', which is smaller.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Decomposed:
    x: Floats  # [N, D]
    y: Floats  # [N, K]
    values: Floats  # [min(N, D)], what l2 is added to
    vectors: Floats  # Q

    @classmethod
    def of(cls, x: Floats, y: Floats) -> "Decomposed":
        values, vectors = np.linalg.eigh(x @ x.T if len(x) < x.shape[1] else x.T @ x)
        return cls(x, y, np.maximum(values, 0), vectors)

    @property
    def is_dual(self) -> bool:
        return bool(len(self.x) < self.x.shape[1])

    @cached_property
    def turned(self) -> Floats:
        """Q'Y, or Q'X'Y."""
        return self.vectors.T @ (self.y if self.is_dual else self.x.T @ self.y)

    @cached_property
    def rotated(self) -> Floats:
        """X'Q where there are fewer examples than features; XQ otherwise."""
        return (self.x.T if self.is_dual else self.x) @ self.vectors

    def weights(self, l2: float) -> Floats:
        """W, [D, K]."""
        left = self.rotated if self.is_dual else self.vectors
        return (left / (self.values + l2)) @ self.turned

    def left_out(self, l2: float, rows: Ints) -> Floats:
        """For each of these examples what a fit to all but it predicts: [R, K], without fitting again."""
        y = self.y[rows]
        if self.is_dual:
            vectors = self.vectors[rows]
            kept = vectors / (self.values + l2)  # (XX' + l2 I)^-1 = kept @ Q'
            return y - (kept @ self.turned) / np.einsum("ij,ij->i", kept, vectors)[:, None]  # type: ignore[no-any-return]
        rotated = self.rotated[rows]
        scaled = rotated / (self.values + l2)
        leverage = np.einsum("ij,ij->i", scaled, rotated)[:, None]
        return y - (y - scaled @ self.turned) / np.maximum(1 - leverage, 1e-12)  # type: ignore[no-any-return]
