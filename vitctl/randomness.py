"""Random numbers as a function of (seed, epoch, sample, purpose), without the state of a generator.

A run draws the same numbers when it is killed and resumed, and on any number of ranks or workers. The code computes on
integers, so NumPy arrays and torch tensors on any device get the same bits.
"""

import math
import zlib
from typing import Any

MASK64 = (1 << 64) - 1


def to_int64(value: int) -> int:
    """A 64-bit pattern as int64: torch has no unsigned 64-bit arithmetic."""
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value


STEP = to_int64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: consecutive counters land far apart
MIX_A = to_int64(0xBF58476D1CE4E5B9)  # the finalizer of SplitMix64 (Steele, Lea & Flood 2014)
MIX_B = to_int64(0x94D049BB133111EB)


def scramble(keys: Any) -> Any:
    """A bijection of int64 [...] that maps neighboring keys to unrelated ones."""
    keys = (keys ^ ((keys >> 30) & 0x3FFFFFFFF)) * MIX_A
    keys = (keys ^ ((keys >> 27) & 0x1FFFFFFFFF)) * MIX_B
    return keys ^ ((keys >> 31) & 0x1FFFFFFFF)


def scramble_int(value: int) -> int:
    """`scramble` for one Python integer."""
    value &= MASK64
    value = (value ^ (value >> 30)) * (MIX_A & MASK64) & MASK64
    value = (value ^ (value >> 27)) * (MIX_B & MASK64) & MASK64
    return to_int64(value ^ (value >> 31))


def stream(seed: int, purpose: str) -> int:
    """The key of all numbers that one seed draws for one purpose."""
    return scramble_int(scramble_int(seed * STEP + 1) ^ zlib.crc32(purpose.encode()) * STEP)


class Draws:
    """Random numbers for each sample of a batch: `Draws(0, 3, samples).uniform("crop", 2)` is float32 [B, 2] in [0, 1).

    `epoch` is one number or int64 [B]: a batch may begin in one epoch and end in the next.
    """

    def __init__(self, seed: int, epoch: Any, samples: Any) -> None:
        self.seed, self.samples = seed, samples  # int64 [B], NumPy or torch
        self.epochs = samples * 0 + epoch  # [B]

    def bits(self, purpose: str, count: int = 1) -> Any:
        """int64 [B, count] of uniform bits."""
        keys = scramble(self.samples * STEP + scramble(self.epochs * STEP + stream(self.seed, purpose)))  # [B]
        return scramble(keys[:, None] + (range_like(self.samples, count) * STEP)[None, :])

    def uniform(self, purpose: str, count: int = 1) -> Any:
        """float32 [B, count]: multiples of 2^-24 in [0, 1)."""
        top = (self.bits(purpose, count) >> 40) & 0xFFFFFF
        return as_float32(top) * (2.0**-24)

    def integers(self, purpose: str, high: int, count: int = 1) -> Any:
        """int64 [B, count] in [0, high), with a bias below high / 2^31."""
        return (((self.bits(purpose, count) >> 33) & 0x7FFFFFFF) * high) >> 31

    def normal(self, purpose: str, count: int = 1) -> Any:
        """float32 [B, count], standard normal (Box-Muller)."""
        pairs = self.uniform(purpose, 2 * count)
        radius = (-2.0 * _log(1.0 - pairs[:, 0::2])) ** 0.5
        return radius * _cos(pairs[:, 1::2] * (2 * math.pi))


def range_like(samples: Any, count: int) -> Any:
    if hasattr(samples, "new_tensor"):
        import torch

        return torch.arange(1, count + 1, device=samples.device)
    import numpy as np

    return np.arange(1, count + 1, dtype=np.int64)


def as_float32(values: Any) -> Any:
    return values.float() if hasattr(values, "new_tensor") else values.astype("float32")


def _log(values: Any) -> Any:
    if hasattr(values, "new_tensor"):
        return values.log()
    import numpy as np

    return np.log(values)


def _cos(values: Any) -> Any:
    if hasattr(values, "new_tensor"):
        return values.cos()
    import numpy as np

    return np.cos(values)
