"""The micro-batch: as many images as fit into memory, but not more than speed up a step."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitctl.errors import RunError, is_out_of_memory
from vitctl.machine import memory_bytes
from vitctl.training.device import Precision, autocast
from vitctl.training.objective import Batchlike, Objective
from vitctl.training.state import State

SHARE = 0.5  # of the memory, for the activations that the backward pass needs
USEFUL = 16_384  # tokens at once on a CPU: more need memory without saving time


def find_micro_batch(
    model: nn.Module,
    objective: Objective,
    examples: Batchlike,
    precision: Precision,
    device: torch.device,
    tokens: int,
) -> int:
    """The largest divisor of a rank's share of the batch that fits; an even one if there is any, so that mixup's
    pairs stay together."""
    needed = 2 if any(isinstance(module, _BatchNorm) for module in model.modules()) else 1
    few = examples.part(0, min(needed, len(examples)))
    image_bytes = measure_saved_bytes(model, objective, few, precision, device) / len(few)
    most = int(free_bytes(device) * SHARE / max(image_bytes, 1))
    if device.type == "cpu":
        most = min(most, max(1, USEFUL // tokens))
    share = len(examples)
    divisors = [count for count in range(1, share + 1) if share % count == 0 and count <= max(most, 1)]
    even = [count for count in divisors if count % 2 == 0 or count == share]
    return max(even or divisors)


def measure_saved_bytes(
    model: nn.Module, objective: Objective, few: Batchlike, precision: Precision, device: torch.device
) -> int:
    """Bytes of the activations that autograd saves for the backward pass, without the weights.

    Measured by a forward pass of a few images: autograd hands every saved tensor to the hook. Tensors that share their
    storage count once.
    """
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    saved: dict[int, int] = {}  # address of a storage -> bytes

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = [buffer.clone() for buffer in model.buffers()]  # a batch norm would change its running means
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor), autocast(precision, device):
        loss, _ = objective(model, few)
    del loss
    with torch.no_grad():
        for buffer, old in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(old)
    return sum(saved.values())


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_bytes() or 4 << 30


def retry_with_less_memory(run: Callable[[], bool], state: State, may_retry: bool, say: Callable[[str], None]) -> bool:
    """Call `run`, halving the micro-batch while memory runs out; without `may_retry`, fail and suggest a size."""
    while True:
        try:
            return run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message, half = f"out of memory with a micro-batch of {state.micro_batch}", max(1, state.micro_batch // 2)
            if not may_retry or state.micro_batch == 1:
                raise RunError(f"{message}; try --micro-batch {half}") from error
        say(f"{message}; continuing with {half}")
        state.micro_batch = half
