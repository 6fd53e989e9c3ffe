"""Several processes that train one model (ranks): collective operations, DDP and FSDP.

Gradients are exchanged by NCCL between GPUs. Numbers and text (losses, "stop", paths) go over a second group on the CPU
(gloo), so that they never wait behind gradients on the device.
"""

import datetime
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from vitctl.errors import LostContact, UsageError

TIMEOUT = datetime.timedelta(minutes=30)  # other ranks wait while the first one saves or patchifies


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all ranks, in double precision."""
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=cpu_group())
        return [float(each) for each in total]

    def add_tensors(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensors of all ranks, which are on the CPU."""
        if self.world > 1:
            dist.all_reduce(tensor, group=cpu_group())
        return tensor

    def max(self, value: float) -> float:
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, op=dist.ReduceOp.MAX, group=cpu_group())
        return float(total)

    def broadcast(self, text: str) -> str:
        """The text of the first rank."""
        if self.world == 1:
            return text
        texts = [text]
        dist.broadcast_object_list(texts, src=0, group=cpu_group())
        return texts[0]

    def average_batch_norms(self, model: nn.Module) -> None:
        """The running means and variances of batch norms: each rank has seen other images."""
        if self.world == 1:
            return
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                for buffer in (module.running_mean, module.running_var):
                    assert buffer is not None
                    dist.all_reduce(buffer)
                    buffer.div_(self.world)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=cpu_group())


def ranks_here() -> Ranks:
    """From the environment variables that torchrun sets."""
    values = [os.environ.get(name, default) for name, default in NAMES.items()]
    if not all(value.isascii() and value.isdigit() for value in values):
        raise UsageError(
            f"{', '.join(NAMES)} in the environment are {', '.join(values)}; torchrun sets them to numbers"
        )
    return Ranks(*map(int, values))


NAMES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
CPU_GROUP: list[Any] = []  # the group for numbers and text, once the ranks have joined


def cpu_group() -> Any:
    return CPU_GROUP[-1]


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Connect all ranks within this context."""
    ranks = ranks_here()
    if ranks.world == 1:
        yield ranks
        return
    try:
        if device.type == "cuda":
            dist.init_process_group("nccl", timeout=TIMEOUT)
            CPU_GROUP.append(dist.new_group(backend="gloo", timeout=TIMEOUT))
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)
            CPU_GROUP.append(dist.group.WORLD)
        yield ranks
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        text = " ".join(str(error).split()).rpartition("] ")[2].partition(". ")[0][:80]
        raise LostContact(
            f"rank {ranks.rank} lost contact with another rank ({text}); start all of them again with --resume, which "
            "continues from the last checkpoint"
        ) from error
    finally:
        CPU_GROUP.clear()
        if dist.is_initialized():
            dist.destroy_process_group()


def wrap(model: nn.Module, ranks: Ranks, parallel: str, device: torch.device) -> nn.Module:
    """The module to call in training: with DDP a wrapper that averages gradients; with FSDP the model itself, which is
    sharded in place."""
    if ranks.world == 1:
        return model
    if parallel == "fsdp":
        return shard(model, device)
    from torch.nn.parallel import DistributedDataParallel

    warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1x1 convolutions; costs little
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch renames broadcast_buffers
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """FSDP2: a rank stores its shard of each block, and gathers a whole block only while computing it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in getattr(model, "blocks", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def gather_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded one. Every rank must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def distribute(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shard a full tensor like another one."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]
