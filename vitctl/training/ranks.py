"""Several processes as one: who am I, what do we all say, and how a model is shared out."""

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

TIMEOUT = datetime.timedelta(minutes=30)  # the first rank may evaluate or save while others wait


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """The same numbers of all ranks added up, in double precision."""
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=connect_ranks())
        return [float(each) for each in total]

    def max(self, value: float) -> float:
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, op=dist.ReduceOp.MAX, group=connect_ranks())
        return float(total)

    def broadcast(self, text: str) -> str:
        """What the first rank says."""
        if self.world == 1:
            return text
        said = [text]
        dist.broadcast_object_list(said, src=0, group=connect_ranks())
        return said[0]

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=connect_ranks())


def ranks_here() -> Ranks:
    """As torchrun and Slurm scripts say it in the environment."""
    said = [os.environ.get(name, default) for name, default in NAMES.items()]
    if not all(value.isascii() and value.isdigit() for value in said):
        raise UsageError(f"{', '.join(NAMES)} in the environment are {', '.join(said)}; torchrun sets them to numbers")
    return Ranks(*map(int, said))


NAMES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
TALK: list[Any] = []  # the group in which numbers and words are exchanged on the CPU, beside that of the gradients


def connect_ranks() -> Any:
    return TALK[-1]


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """All ranks, connected for as long as this lasts."""
    ranks = ranks_here()
    if ranks.world == 1:
        yield ranks
        return
    try:
        if device.type == "cuda":
            dist.init_process_group("nccl", timeout=TIMEOUT)
            TALK.append(dist.new_group(backend="gloo", timeout=TIMEOUT))
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)
            TALK.append(dist.group.WORLD)
        yield ranks
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        text = " ".join(str(error).split()).rpartition("] ")[2].partition(". ")[0][:80]
        raise LostContact(
            f"rank {ranks.rank} lost contact with another rank ({text}); start all of them again with --resume, which "
            "goes on from the last checkpoint"
        ) from error
    finally:
        TALK.clear()
        if dist.is_initialized():
            dist.destroy_process_group()


def wrap(model: nn.Module, ranks: Ranks, parallel: str, device: torch.device) -> nn.Module:
    """What is called in training: the model, or it between its copies; with fsdp it is cut up in place."""
    if ranks.world == 1:
        return model
    if parallel == "fsdp":
        return shard(model, device)
    from torch.nn.parallel import DistributedDataParallel

    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for broadcast_buffers
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """Every rank keeps its part of each block, and has a whole block only while it computes it (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in getattr(model, "blocks", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def gather_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may lie in parts on the ranks; all of them must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def distribute(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, laid out as another one is."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]
