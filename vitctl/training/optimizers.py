"""Optimizers and their parameter groups.

    adam        torch's Adam, or AdamW
    sgd         torch's, with momentum
    adafactor   big_vision's: the second moment of a matrix is kept as means of its rows and columns
    muon        Keller Jordan's, at the scale of arXiv 2502.16982, for the matrices of blocks; Adam for the rest

Three things are called weight decay, and differ by orders of magnitude: see OptimConfig.decay.
"""

import math
import re
from collections.abc import Collection, Iterable
from typing import Any, assert_never

import torch
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.config.train import OptimConfig
from vitctl.errors import UsageError
from vitctl.models.adapt_timm import timm_head_names, timm_layers
from vitctl.training.device import Precision
from vitctl.training.ranks import distribute, gather_tensor

Group = dict[str, Any]
FIRST = ("cls_token", "dist_token", "reg_token", "pos_embed", "patch_embed", "positions", "norm_pre", "stem")
BLOCK = re.compile(r"(?:encoder\.)?((?:(?:stages|layers)\.\d+\.)?blocks\.\d+)\.")  # of ours, of ResNets, of timm's
TABLES = ("cls_token", "dist_token", "reg_token", "mask_token", "pos_embed", "embed", "x", "y", "latent")  # no kernels
QUINTIC = (3.4445, -4.7750, 2.0315)  # of Newton-Schulz, as Keller Jordan's and torch's Muon have it
ITERATIONS = 5
MATCH_RMS = 0.2  # of Adam's updates (arXiv 2502.16982)
FACTORED_FROM = 32  # both axes at least so long, as in big_vision
TINY = 1e-30


def make_optimizer(
    module: nn.Module, config: OptimConfig, head: Collection[str] = (), precision: Precision = "float32"
) -> torch.optim.Optimizer:
    """`head` names the parameters that learn first, if any do. `precision` is that of Muon's products."""
    sets = groups(module, config, head)
    is_l2 = config.decay == "l2"
    if config.name == "adam":
        adam = torch.optim.Adam if is_l2 else torch.optim.AdamW
        return adam(sets, config.lr, (config.beta1, config.beta2), config.eps, **kernel_options(sets, can_shard=True))
    for group in sets:
        group["decoupled"] = 0.0 if is_l2 else group["weight_decay"]
        group["weight_decay"] -= group["decoupled"]
    if config.name == "sgd":
        return SGD(sets, config.lr, config.momentum, **kernel_options(sets, can_shard=False))
    if config.name == "muon":
        if not any(group["matrices"] for group in sets):
            raise UsageError("optim.name muon: the blocks of this model have no matrices; use adam")
        options = kernel_options(sets, can_shard=True)
        return Muon(sets, config, torch.bfloat16 if precision == "bf16" else None, options)
    if config.name == "adafactor":
        return Adafactor(sets, {"lr": config.lr, "momentum": config.beta1, "most": config.beta2})
    assert_never(config.name)


def kernel_options(sets: list[Group], can_shard: bool) -> dict[str, bool]:
    """torch's fastest implementation for this device. Fused SGD does not support sharded parameters."""
    values = [value for group in sets for value in group["params"]]
    if not can_shard and any(hasattr(value, "full_tensor") for value in values):
        return {"foreach": True}
    return {"fused": True} if all(value.device.type in ("cpu", "cuda") for value in values) else {}


def groups(module: nn.Module, config: OptimConfig, head: Collection[str] = ()) -> list[Group]:
    """Parameter groups by the scale of the lr (layer decay), the weight decay, whether they learn first, and how many
    matrices Muon takes each parameter for."""
    sets: dict[tuple[float, float, bool, int], Group] = {}
    layer = layers_of(module)
    kept: set[str] = getattr(module, "no_weight_decay", set)()  # of timm's models
    if config.layer_decay != 1 and len(set(layer.values())) == 1:
        raise UsageError("optim.layer_decay: the parameter names of this model show no blocks; leave it at 1")
    last = max(layer.values())
    for name, value in module.named_parameters():
        if not value.requires_grad:
            continue
        scale = config.layer_decay ** (last - layer[name])
        is_decayed = is_kernel(name, value) and name not in kept
        if config.decay_on != "kernels":
            is_decayed = config.decay_on == "all" or value.ndim > 1
        decay = config.weight_decay if is_decayed else 0.0
        if config.decay == "fixed":  # of the peak alone, without layer decay (big_vision)
            decay /= config.lr * scale
        is_head = name in head
        matrices = count_matrices(module, name, value) if config.name == "muon" and name not in kept else 0
        facts = {"scale": scale, "weight_decay": decay, "is_head": is_head, "matrices": matrices}
        group = sets.setdefault((scale, decay, is_head, matrices), {"params": [], "names": [], **facts})
        group["params"].append(value)
        group["names"].append(name)
    return list(sets.values())


def is_kernel(name: str, value: torch.Tensor) -> bool:
    return value.ndim > 1 and name.rpartition(".")[2] not in TABLES


def count_matrices(module: nn.Module, name: str, value: torch.Tensor) -> int:
    """How many matrices a parameter of a block holds, one below the other: queries, keys, and values, or the gates and
    the values of an MLP. 0 for what Adam updates."""
    if value.ndim != 2 or not is_kernel(name, value) or not re.search(r"(^|[._])blocks\.\d+\.", name):
        return 0
    if name.endswith("qkv.weight"):
        return 3
    layer = module.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
    return 2 if name.endswith("fc1.weight") and len(value) == 2 * layer.fc2.in_features else 1  # type: ignore[operator, union-attr]


def layers_of(module: nn.Module) -> dict[str, int]:
    """The number of the layer of each parameter: 0 for the stem, then the blocks, then the rest."""
    if getattr(getattr(module, "spec", None), "family", None) == "timm":
        return timm_layers(module)
    return number_layers(name for name, _ in module.named_parameters())


def head_of(module: nn.Module) -> set[str]:
    """The names of the parameters of the head."""
    spec: ModelSpec = module.spec  # type: ignore[assignment]
    names = {name for name, _ in module.named_parameters()}
    return timm_head_names(spec) if spec.family == "timm" else {name for name in names if name.startswith("head.")}


def number_layers(names: Iterable[str]) -> dict[str, int]:
    """0 for what comes before the blocks, then 1, 2, ... for the blocks, then the rest (as in BEiT and MAE)."""
    matches = {name: BLOCK.match(name) for name in names}
    blocks = dict.fromkeys(match[1] for match in matches.values() if match)
    numbers = {block: number for number, block in enumerate(blocks, 1)}
    return {
        name: numbers[match[1]] if match else 0 if name.removeprefix("encoder.").startswith(FIRST) else len(blocks) + 1
        for name, match in matches.items()
    }


def set_lr(optimizer: torch.optim.Optimizer, lr: float, body: float = 1.0) -> None:
    """The lr of this step, scaled for each group; `body` is the share of it for all but the head."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"] * (1.0 if group["is_head"] else body)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    return gather_tensor(torch.nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None]))


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> torch.Tensor:
    """Scale gradients down to a global norm of at most `most`, exactly as optax does; return the norm before."""
    moved = [value for value in parameters if value.grad is not None]
    norm = gradient_norm(moved)
    if math.isinf(most) or (norm.device.type == "cpu" and float(norm) <= most):  # on a GPU, comparing would wait for it
        return norm
    factor = torch.where(
        norm.isfinite(), most / norm.clamp(min=most), 1.0
    )  # not finite: reported by the loop, not spread
    torch._foreach_mul_([value.grad for value in moved if value.grad is not None], factor)
    return norm


def apply_decoupled_decay(group: Group) -> list[nn.Parameter]:
    """Apply the decoupled decay, w -= lr * wd * w, and return the parameters that have a gradient."""
    moved = [value for value in group["params"] if value.grad is not None]
    if moved and group["decoupled"]:
        torch._foreach_mul_(moved, 1 - group["lr"] * group["decoupled"])
    return moved


class SGD(torch.optim.SGD):
    """torch's, with decoupled decay. Momenta start as zeros: torch's fused version needs all of them or none."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for value in apply_decoupled_decay(group):
                if group["momentum"] and "momentum_buffer" not in self.state[value]:
                    self.state[value]["momentum_buffer"] = torch.zeros_like(value)
        super().step()


class Muon(torch.optim.Optimizer):
    """Muon for the groups that hold matrices, and torch's Adam for the others, with decoupled decay for both.

    Steps of Muon are orthogonal matrices times 0.2 * sqrt(longer side), about as large as Adam's at the same lr.
    """

    def __init__(self, sets: list[Group], config: OptimConfig, dtype: torch.dtype | None, options: Any) -> None:
        super().__init__(sets, {"lr": config.lr})
        rest = [group for group in self.param_groups if not group["matrices"]]
        self.adam = torch.optim.Adam(rest, config.lr, (config.beta1, config.beta2), config.eps, **options)
        self.momentum, self.dtype = config.muon_momentum, dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = apply_decoupled_decay(group)
            for value in moved if group["matrices"] else ():
                update = self.orthogonal_update(value, group["weight_decay"], group["matrices"])
                value.sub_(distribute(update.to(value.dtype), value), alpha=group["lr"])
        self.adam.param_groups = [group for group in self.param_groups if not group["matrices"]]
        self.adam.state = self.state  # the one that is saved
        self.adam.step()

    def orthogonal_update(self, value: nn.Parameter, l2: float, count: int) -> torch.Tensor:
        assert value.grad is not None
        gradient = value.grad.add(value, alpha=l2)
        mean = update_mean(self.state[value], "momentum_buffer", gradient, self.momentum)
        update = gather_tensor(gradient.lerp(mean, self.momentum))  # Nesterov's
        matrices = update.to(self.dtype or update.dtype).view(count, -1, update.shape[1])
        return MATCH_RMS * math.sqrt(max(matrices.shape[1:])) * orthogonalize(matrices).reshape(update.shape)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices [N, A, B] with the same singular vectors and singular values near 1, by Newton-Schulz iterations."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, third, fifth = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.mT if is_tall else x


class Adafactor(torch.optim.Optimizer):
    """Not torch's own, which scales by the size of the parameter, clips each update and has no first moment."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for value in apply_decoupled_decay(group):
                assert value.grad is not None
                gradient = value.grad.add(value, alpha=group["weight_decay"])
                value.sub_(
                    adafactor_update(self.state[value], gradient, group["momentum"], group["most"]), alpha=group["lr"]
                )


def adafactor_update(
    state: dict[str, torch.Tensor], gradient: torch.Tensor, momentum: float, most: float
) -> torch.Tensor:
    state["step"] = state.get("step", torch.zeros(())) + 1  # on the CPU, where the next line reads it
    scaled = by_second_moment(state, gradient, min(most, 1 - float(state["step"]) ** -0.8))
    return update_mean(state, "exp_avg", scaled, momentum) if momentum else scaled


def by_second_moment(state: dict[str, torch.Tensor], gradient: torch.Tensor, keep: float) -> torch.Tensor:
    square = gradient.square() + TINY
    axes = sorted(range(square.ndim), key=lambda axis: square.shape[axis])
    if len(axes) < 2 or square.shape[axes[-2]] < FACTORED_FROM:
        return gradient * update_mean(state, "exp_avg_sq", square, keep).rsqrt()
    second, longest = axes[-2:]
    rows = update_mean(state, "rows", gather_tensor(square.mean(longest, keepdim=True)), keep)
    columns = update_mean(state, "columns", gather_tensor(square.mean(second, keepdim=True)), keep)
    relative = rows / rows.mean(second, keepdim=True)  # first: rows * columns can be too small for a float
    return gradient * distribute_like(relative.rsqrt(), gradient) * distribute_like(columns.rsqrt(), gradient)


def update_mean(state: dict[str, torch.Tensor], name: str, value: torch.Tensor, keep: float) -> torch.Tensor:
    """A moving average that starts at 0. After a resume it may still be on the CPU."""
    before = state[name].to(value.device) if name in state else torch.zeros_like(value)
    state[name] = before.lerp_(value, 1 - keep)
    return state[name]


def distribute_like(tensor: torch.Tensor, sharded: torch.Tensor) -> torch.Tensor:
    """Replicate a whole tensor, so that it can be multiplied with a sharded one."""
    if not hasattr(sharded, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(tensor, sharded.device_mesh, [Replicate()] * sharded.device_mesh.ndim)
