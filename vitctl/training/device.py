"""Which device computes."""

import torch

from vitctl.errors import UsageError
from vitctl.training.ranks import Ranks


def choose_device(wanted: str, ranks: Ranks) -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UsageError(f"--device {wanted} is unknown; write auto, cpu, cuda, cuda:1 or mps") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in there:
        raise UsageError(f"--device {wanted} is not supported; write auto, cpu, cuda, cuda:1 or mps")
    if (device.index or 0) >= there[device.type]:
        raise UsageError(f"--device {wanted}: there is none here; vitctl doctor says what there is")
    if device.type == "cuda":
        device = torch.device("cuda", ranks.local if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device
