"""How fast this device multiplies matrices: what no training step can beat."""

import time

import torch

from vitctl.training.precision import Precision

SIDE = 2048  # half of that is too small for the matrix units of some processors
REPEATS = {"cpu": 1, "cuda": 50, "mps": 5}
TRIALS = 3  # the quickest counts


def measure_ceiling(precision: Precision, device: torch.device) -> float:
    """Floating point operations a second, two for each multiply-add."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    repeats = REPEATS.get(device.type, 1)
    float((one @ one)[0, 0])  # waits for the device
    return max(matmul_rate(one, repeats) for _ in range(TRIALS))


def matmul_rate(one: torch.Tensor, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        other = one @ one
    float(other[0, 0])
    return repeats * 2 * SIDE**3 / (time.perf_counter() - started)
