"""How fast this device multiplies matrices: what no training step can beat."""

import time

import torch

from vitctl.training.precision import Named

SIDE = 1024
REPEATS = {"cpu": 3, "cuda": 400, "mps": 20}


def ceiling(precision: Named, device: torch.device) -> float:
    """Floating point operations a second, two for each multiply-add."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    repeats = REPEATS.get(device.type, 3)
    float((one @ one)[0, 0])  # waits for the device
    started = time.perf_counter()
    for _ in range(repeats):
        other = one @ one
    float(other[0, 0])
    return repeats * 2 * SIDE**3 / (time.perf_counter() - started)
