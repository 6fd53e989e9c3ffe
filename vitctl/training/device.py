"""The device: its choice, its precision, its peak speed, and whether torch.compile works on it."""

import logging
import os
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from vitctl.errors import UsageError
from vitctl.machine import native_bf16
from vitctl.training.ranks import Ranks

Precision = Literal["float32", "bf16"]  # of the forward and backward pass; weights and optimizer are always float32
SIDE = 2048  # of the timed matrices; half of it does not fully use some matrix units
REPEATS = {"cpu": 1, "cuda": 50, "mps": 5}
TRIALS = 3  # the fastest counts


def choose_device(name: str, ranks: Ranks) -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name} is unknown; write auto, cpu, cuda, cuda:1 or mps") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in counts:
        raise UsageError(f"--device {name} is not supported; write auto, cpu, cuda, cuda:1 or mps")
    if (device.index or 0) >= counts[device.type]:
        raise UsageError(f"--device {name}: not found here; vitctl doctor lists the devices")
    if device.type == "cuda":
        device = torch.device("cuda", ranks.local if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


def choose_precision(requested: Literal["auto", "float32", "bf16"], device: torch.device) -> Precision:
    """auto is bfloat16 if the device multiplies it natively."""
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if device.type == "cpu" and native_bf16() else "float32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def quick_attention(model: nn.Module, precision: Precision, device: torch.device) -> None:
    """Turns off fused attention in bfloat16 on a CPU, where its backward pass takes half of the step."""
    if device.type != "cpu" or precision != "bf16":
        return
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010 - a module's own attributes are typed as tensors


def measure_ceiling(precision: Precision, device: torch.device) -> float:
    """FLOPs per second of a product of large matrices: the limit of any training step. A multiply-add is two."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    repeats = REPEATS.get(device.type, 1)
    float((matrix @ matrix)[0, 0])  # warms up, and waits for the device
    return max(matmul_rate(matrix, repeats) for _ in range(TRIALS))


def matmul_rate(matrix: torch.Tensor, repeats: int) -> float:
    start_time = time.perf_counter()
    for _ in range(repeats):
        product = matrix @ matrix
    float(product[0, 0])
    return repeats * 2 * SIDE**3 / (time.perf_counter() - start_time)


def can_compile() -> bool:
    """torch.compile needs a C++ compiler for CPUs."""
    return shutil.which(os.environ.get("CXX") or "g++") is not None


def quiet_compiler(may_fail: bool) -> None:
    """Silence torch.compile. With `may_fail`, code that cannot be compiled runs uncompiled."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch._dynamo.config.suppress_errors = may_fail
