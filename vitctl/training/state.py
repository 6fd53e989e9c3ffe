"""Everything that changes while a model is trained. All of it goes into a checkpoint, and comes back from one."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vitctl.errors import DataError
from vitctl.io.weights import Tensors, differences
from vitctl.training.ranks import placed, whole


@dataclass
class StepSums:
    """Sums since the last line of the log."""

    steps: int = 0
    loss: float = 0.0
    right: float = 0.0
    pictures: float = 0.0
    norm: float = 0.0

    def add(self, loss: float, right: float, pictures: float, norm: float) -> None:
        self.steps += 1
        self.loss += loss
        self.right += right
        self.pictures += pictures
        self.norm += norm


@dataclass
class State:
    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: Tensors | None = None  # of the weights over the steps, where one is kept
    step: int = 0
    best: float = -1.0  # the best score on val so far: accuracy, or what stands for it
    best_step: int = 0
    micro_batch: int = 0  # decides the order of sums, and where dropout's draws begin
    tally: StepSums = field(default_factory=StepSums)

    def facts(self) -> dict[str, Any]:
        names = ("step", "best", "best_step", "micro_batch")
        return {name: getattr(self, name) for name in names} | {
            "tally": dict(vars(self.tally))
        }  # written while the sums go on

    def tensors(self) -> Tensors:
        """Copies of all, whole and on the CPU. Every rank must call it."""
        found = {f"model.{name}": tensor for name, tensor in stored(self.model)}
        found |= {f"average.{name}": tensor for name, tensor in (self.average or {}).items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optim.{key}.{name}"] = value
        return {name: copied(tensor) for name, tensor in found.items()}

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        model = {f"model.{name}": tensor for name, tensor in stored(self.model)}
        average = {f"average.{name}": tensor for name, tensor in (self.average or {}).items()}
        given = {name for name in tensors if not name.startswith("optim.")}
        found = differences(set(model | average) - given, given - set(model | average))
        if found:
            raise DataError(f"this checkpoint is of another model: it {found}")
        with torch.no_grad():
            for name, tensor in (model | average).items():
                tensor.copy_(placed(tensors[name], tensor))
        self.restore_optimiser({name: tensor for name, tensor in tensors.items() if name.startswith("optim.")})
        self.tally = StepSums(**facts["tally"])
        for name in ("step", "best", "best_step", "micro_batch"):
            setattr(self, name, facts[name])

    def restore_optimiser(self, tensors: Tensors) -> None:
        parameters = dict(self.model.named_parameters())
        for whole_name, tensor in tensors.items():
            _, key, name = whole_name.split(".", 2)
            like = parameters[name]
            is_fused = any(group.get("fused") for group in self.optimiser.param_groups)  # counts where it computes
            if tensor.shape == like.shape and tensor.ndim > 0:
                tensor = placed(tensor, like)
            elif is_fused or tensor.ndim:
                tensor = tensor.to(like.device)
            self.optimiser.state[like][key] = tensor.clone()

    def weights(self) -> Tensors:
        """What is evaluated and kept: the average where there is one. Every rank must call it."""
        own = dict(stored(self.model)) | (self.average or {})
        return {name: copied(tensor) for name, tensor in own.items()}


def stored(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    """Parameters, and buffers that belong into a file; what several layers share stands once."""
    kept = set(model.state_dict())
    yield from ((name, tensor.detach()) for name, tensor in model.named_parameters())
    yield from ((name, tensor) for name, tensor in model.named_buffers() if name in kept)


def copied(tensor: torch.Tensor) -> torch.Tensor:
    full = whole(tensor.detach())
    return full.clone() if full.device.type == "cpu" else full.cpu()


def averaged(model: nn.Module) -> Tensors:
    """The average before the first step: the weights themselves."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def follow(average: Tensors, model: nn.Module, keep: float) -> None:
    """average = keep * average + (1 - keep) * weights."""
    own = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    torch._foreach_lerp_(list(average.values()), own, 1 - keep)
