"""Checks of single values from JSON, and of single tensors."""

import reprlib
from typing import Any

import torch

from vitctl.errors import WeightsError

Config = dict[str, Any]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def quote_value(value: Any) -> str:
    return reprlib.repr(value)


def read_int(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise WeightsError(f"config.json says {name} {quote_value(value)}; it must be a positive integer")
    return value


def read_float(config: Config, name: str, default: float) -> float:
    value = config.get(name)
    return default if value is None else read_real(name, value)


def read_real(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e6:
        raise WeightsError(f"{name} is {quote_value(value)}; it must be a number")
    return float(value)


def check_tensor(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise WeightsError(f"{name} is {list(tensor.shape)}, but other tensors imply {list(shape)}; save it again")
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        raise WeightsError(f"{name} is {tensor.dtype}, {tensor.layout}; save it as float32, float16 or bfloat16")
