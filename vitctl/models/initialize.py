"""The first values of all parameters: of the official code, of MAE's, or of the paper on mimetic initialization.

They depend on the seed alone.
"""

import math
import re
from collections.abc import Sequence

import torch
from torch import nn

from vitctl.config.model import Init, ModelSpec
from vitctl.models.resize import waves_with_prefix
from vitctl.randomness import stream

TABLES = ("pos_embed", "embed", "x", "y", "reg_token", "cls_token", "latent")


def initialize(
    model: nn.Module,
    spec: ModelSpec,
    seed: int = 0,
    head_bias: float = 0.0,
    head_std: float = 0.0,
    init: Init = "official",
) -> None:
    """Re-initializes all parameters from `seed`, in the order of `model.named_parameters()`."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or parameter.is_meta:
                continue
            if name.startswith("head."):
                value = init_head(parameter.shape, seed, head_std) if parameter.ndim > 1 else torch.tensor(head_bias)
                parameter.copy_(value)
            else:
                init_as_mae(name, parameter, spec, random) if init == "mae" else init_parameter(name, parameter, random)
        if init == "mimetic":
            init_as_mimetic(model, spec, torch.Generator().manual_seed(stream(seed, "mimetic")))


def init_head(shape: Sequence[int], seed: int, std: float) -> torch.Tensor:
    """The initial weights of a head, from a random stream of their own: a head does not change the other draws."""
    if not std:
        return torch.zeros(*shape)
    return torch.empty(*shape).normal_(0.0, std, generator=torch.Generator().manual_seed(stream(seed, "head")))


def init_parameter(name: str, value: torch.Tensor, random: torch.Generator) -> None:
    """Initializes one parameter by its name. Scales of norms keep timm's values: one, or zero at the end of a
    ResNet's residual branches."""
    leaf = name.rpartition(".")[2]
    if re.search(r"attn\.qkv\.weight|attn_pool\.kv\.weight", name):
        for part in torch.split(value, value.shape[1]):  # one by one: the fused matrix would have a smaller bound
            xavier(part, random)
    elif leaf in ("pos_embed", "embed", "x", "y", "reg_token"):
        value.normal_(0.0, 0.02, generator=random)
    elif leaf == "cls_token":
        value.zero_()
    elif leaf == "latent":
        xavier(value[0], random)
    elif value.ndim == 4:
        lecun(value, random)
    elif value.ndim == 2:
        xavier(value, random)
    elif re.search(r"mlp\.fc[12]\.bias$", name):
        value.normal_(0.0, 1e-6, generator=random)
    elif leaf == "bias":
        value.zero_()


def init_as_mae(name: str, value: torch.Tensor, spec: ModelSpec, random: torch.Generator) -> None:
    """As in MAE's models_mae.py: xavier for every matrix, of which a fused qkv is one, and the kernel of the patches is
    one too; tokens and tables N(0, 0.02); biases zero, but for that of the patches, which keeps torch's."""
    leaf = name.rpartition(".")[2]
    if leaf in TABLES:
        value.normal_(0.0, 0.02, generator=random)
    elif name == "patch_embed.proj.bias":
        bound = 1 / math.sqrt(spec.patch**2 * spec.channels)
        value.uniform_(-bound, bound, generator=random)
    elif value.ndim in (2, 4):
        xavier(value.view(len(value), -1), random)
    elif leaf == "bias":
        value.zero_()


def init_as_mimetic(model: nn.Module, spec: ModelSpec, random: torch.Generator) -> None:
    """The attention of arXiv 2305.09828, on top of the official values of all else.

    In every head W_q W_k^T is 0.7 Z + 0.7 I, cut to the rank of a head; of all heads together, W_v W_proj is
    0.4 Z - 0.4 I. Z is drawn from N(0, 1 / D). Learned positions at the stem begin as waves.
    """
    dim, width = spec.dim, spec.dim // spec.heads
    for name, module in model.named_modules():
        if not name.endswith("attn") or module.qkv.weight.is_meta:
            continue
        qkv: torch.Tensor = module.qkv.weight.view(3, dim, dim)
        left, right = factor_near_identity((spec.heads, dim, dim), 0.7, 0.7, random)
        qkv[0] = left[:, :, :width].mT.reshape(dim, dim)  # a linear layer holds the transpose
        qkv[1] = right[:, :width].reshape(dim, dim)
        left, right = factor_near_identity((dim, dim), 0.4, -0.4, random)
        qkv[2] = left.mT
        module.proj.weight.copy_(right.mT)
    table = getattr(model, "pos_embed", None)
    if table is not None and not table.is_meta and dim % 4 == 0:
        table.copy_(waves_with_prefix(spec))


def factor_near_identity(
    shape: Sequence[int], noise: float, identity: float, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two factors of `noise` * Z + `identity` * I, with the larger singular values first."""
    dim = shape[-1]
    drawn = torch.empty(*shape).normal_(0.0, noise / math.sqrt(dim), generator=random)
    left, values, right = torch.linalg.svd(drawn + identity * torch.eye(dim))
    root = values.sqrt()
    return left * root[..., None, :], root[..., None] * right


def xavier(value: torch.Tensor, random: torch.Generator) -> None:
    bound = math.sqrt(6.0 / (value.shape[0] + value.shape[1]))
    value.uniform_(-bound, bound, generator=random)


def lecun(value: torch.Tensor, random: torch.Generator) -> None:
    """A normal truncated at two standard deviations, with variance 1 / fan-in, drawn by inversion of its CDF."""
    fan_in = value[0].numel()
    low, high = (0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in (-2.0, 2.0))
    uniform = torch.empty_like(value).uniform_(low, high, generator=random)
    value.copy_(torch.special.ndtri(uniform) * math.sqrt(1.0 / fan_in) / 0.87962566103423978)
