"""How many images are computed at once: as many as fit, and no more than are of use."""

from collections.abc import Callable

import torch
from torch import nn

from vitctl.errors import RunError, is_out_of_memory
from vitctl.machine import memory_bytes
from vitctl.training.objective import Batchlike, Objective
from vitctl.training.precision import Precision, autocast
from vitctl.training.state import State

SHARE = 0.5  # of the memory, for what a backward pass needs of a forward pass
USEFUL = 16_384  # tokens at once on a CPU: beyond that, memory is used and no time is won


def find_micro_batch(
    model: nn.Module,
    objective: Objective,
    examples: Batchlike,
    precision: Precision,
    device: torch.device,
    tokens: int,
) -> int:
    """The largest divisor of a rank's share that fits."""
    few = examples.part(0, min(2, len(examples)))  # a norm over batches cannot do with one
    each = measure_saved_bytes(model, objective, few, precision, device) / len(few)
    most = int(free_bytes(device) * SHARE / max(each, 1))
    if device.type == "cpu":
        most = min(most, max(1, USEFUL // tokens))
    share = len(examples)
    divisors = [count for count in range(1, share + 1) if share % count == 0 and count <= max(most, 1)]
    even = [count for count in divisors if count % 2 == 0 or count == share]
    return max(even or divisors)


def measure_saved_bytes(
    model: nn.Module, objective: Objective, few: Batchlike, precision: Precision, device: torch.device
) -> int:
    """What images leave behind for the backward pass; weights, which are there anyway, do not count."""
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = [buffer.clone() for buffer in model.buffers()]  # a norm over batches would learn from it
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(precision, device):
        loss, _ = objective(model, few)
    del loss
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    return sum(seen.values())


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_bytes() or 4 << 30


def retry_with_less_memory(run: Callable[[], bool], state: State, may_retry: bool, say: Callable[[str], None]) -> bool:
    """Runs with ever smaller micro-batches while memory runs out, or says which one to try."""
    while True:
        try:
            return run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            told, half = f"out of memory with a micro-batch of {state.micro_batch}", max(1, state.micro_batch // 2)
            if not may_retry or state.micro_batch == 1:
                raise RunError(f"{told}; try --micro-batch {half}") from error
        say(f"{told}: going on with {half}")
        state.micro_batch = half
