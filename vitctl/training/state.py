"""Everything that changes during training. All of it is saved in a checkpoint and restored from one."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from vitctl.errors import DataError
from vitctl.io.weights import Tensors, describe_differences
from vitctl.training.pace import StepPlan, read_plan
from vitctl.training.ranks import distribute, gather_tensor


@dataclass
class StepSums:
    """Sums over the steps since the last line of the log."""

    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0
    images: float = 0.0
    norm: float = 0.0

    def add(self, loss: float, correct: float, images: float, norm: float) -> None:
        self.steps += 1
        self.loss += loss
        self.correct += correct
        self.images += images
        self.norm += norm

    def to_dict(self) -> dict[str, float]:
        """With the names used in checkpoints since 0.1."""
        return dict(zip(SUMS, vars(self).values(), strict=True))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StepSums":
        return cls(*(values[name] for name in SUMS))


SUMS = ("steps", "loss", "right", "pictures", "norm")
FACTS = ("step", "best", "best_step", "micro_batch")


@dataclass
class State:
    """Tensors in a checkpoint are named model.NAME, average.NAME (the EMA) and optim.KEY.NAME.

    With FSDP every tensor is split over the ranks. A checkpoint holds whole tensors, so that a run may resume on
    another number of ranks. Methods that gather them (`tensors`, `weights`) must be called on every rank.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    plan: StepPlan
    ema: Tensors | None = None  # exponential moving average of the weights
    step: int = 0
    best: float = -1.0  # the best score on val so far
    best_step: int = 0
    stale: int = 0  # evaluations since the best one, if the run is to stop after so many
    micro_batch: int = 0  # part of the state, because it determines the order of sums and the seeds of dropout
    sums: StepSums = field(default_factory=StepSums)
    thresholds: tuple[float, ...] = ()  # of sets, by the last evaluation

    def facts(self) -> dict[str, Any]:
        """The numbers of a checkpoint. Copies, because they are written in the background during training."""
        facts = {name: getattr(self, name) for name in FACTS} | {"tally": self.sums.to_dict()}
        if self.stale:
            facts["stale"] = self.stale
        if self.plan.since:
            facts["plan"] = asdict(self.plan)
        return facts

    def tensors(self) -> Tensors:
        """Copies of all tensors, whole and on the CPU. Every rank must call it."""
        tensors = self.collect()
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optim.{key}.{name}"] = value
        return {name: copy_to_cpu(tensor) for name, tensor in tensors.items()}

    def collect(self) -> Tensors:
        """The tensors of the model and of the EMA, by their names in a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in state_tensors(self.model)}
        return tensors | {f"average.{name}": tensor for name, tensor in (self.ema or {}).items()}

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        own = self.collect()
        optim = {name: tensor for name, tensor in tensors.items() if name.startswith("optim.")}
        difference = describe_differences(own.keys() - tensors.keys(), tensors.keys() - own.keys() - optim.keys())
        if difference:
            raise DataError(f"this checkpoint is of another model: it {difference}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(distribute(tensors[name], tensor))
        self.restore_optimizer(optim)
        self.sums = StepSums.from_dict(facts["tally"])
        self.thresholds = tuple(facts.get("weights", {}).get("about", {}).get("thresholds", ()))
        for name in FACTS:
            setattr(self, name, facts[name])
        self.stale = facts.get("stale", 0)
        if "plan" in facts:  # of a timed run
            self.plan = read_plan(facts["plan"])

    def restore_optimizer(self, tensors: Tensors) -> None:
        parameters = dict(self.model.named_parameters())
        for full_name, tensor in tensors.items():
            _, key, name = full_name.split(".", 2)
            like = parameters[name]
            is_fused = any(group.get("fused") for group in self.optimizer.param_groups)
            if tensor.shape == like.shape and tensor.ndim > 0:
                tensor = distribute(tensor, like)
            elif is_fused or tensor.ndim:  # fused Adam counts its steps on the device, the others on the CPU
                tensor = tensor.to(like.device)
            self.optimizer.state[like][key] = tensor.clone()

    def weights(self) -> Tensors:
        """The weights to evaluate and save: the EMA if there is one. Every rank must call it."""
        own = dict(state_tensors(self.model)) | (self.ema or {})
        return {name: copy_to_cpu(tensor) for name, tensor in own.items()}


def state_tensors(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers. A tensor shared by several layers occurs once."""
    names = set(model.state_dict())
    yield from ((name, tensor.detach()) for name, tensor in model.named_parameters())
    yield from ((name, tensor) for name, tensor in model.named_buffers() if name in names)


def copy_to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    full = gather_tensor(tensor.detach())
    return full.clone() if full.device.type == "cpu" else full.cpu()


def init_ema(model: nn.Module) -> Tensors:
    """The EMA before the first step: the weights themselves."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def update_ema(ema: Tensors, model: nn.Module, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * weights, for all tensors in one call."""
    weights = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    torch._foreach_lerp_(list(ema.values()), weights, 1 - decay)
