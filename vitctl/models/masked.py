"""Models of masked self-supervision: an encoder, and the decoder that only training needs."""

from functools import partial

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitctl.config.masking import MaskingConfig
from vitctl.config.model import ModelSpec
from vitctl.errors import ConfigError
from vitctl.io.checkpoint import ENCODER
from vitctl.models.corruption import Corruption
from vitctl.models.initialize import xavier
from vitctl.models.resize import sincos
from vitctl.models.vit import GELUS, ViT
from vitctl.patches import take_tokens
from vitctl.randomness import stream


class MaskedPatches(nn.Module):
    """The paper's: the encoder gets all tokens, some of them replaced, and a linear layer predicts the hidden ones."""

    def __init__(self, spec: ModelSpec, outputs: int) -> None:
        super().__init__()
        self.encoder = ViT(spec)
        self.mask_token = nn.Parameter(torch.empty(1, 1, spec.dim))
        self.predictor = nn.Linear(spec.dim, outputs)

    def forward(self, pixels: torch.Tensor, corruption: Corruption) -> torch.Tensor:
        """Patches [B, N, P*P*C] to predictions of the hidden ones, [B, M, outputs]."""
        tokens = self.corrupt(self.encoder.patch_embed(pixels), corruption)
        tokens = self.encoder.run_blocks(self.encoder.embed(tokens))[:, self.encoder.num_prefix_tokens :]
        return self.predictor(self.encoder.final_norm(take_tokens(tokens, corruption.hidden)))  # type: ignore[no-any-return]

    def corrupt(self, tokens: torch.Tensor, corruption: Corruption) -> torch.Tensor:
        begin, end = corruption.masked, corruption.masked + corruption.others.shape[1]
        masked, swapped = corruption.hidden[:, :begin], corruption.hidden[:, begin:end]
        other = take_tokens(tokens, corruption.others)
        tokens = scatter_tokens(tokens, masked, self.mask_token.to(tokens.dtype).expand(len(tokens), begin, -1))
        return scatter_tokens(tokens, swapped, other)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.encoder.blocks)

    def set_grad_checkpointing(self, on: bool) -> None:
        self.encoder.set_grad_checkpointing(on)


class MaskedAutoencoder(nn.Module):
    """MAE: the encoder gets the visible patches, and a light decoder predicts the hidden ones.

    Attention does not depend on order, so tokens are not sorted back into the grid: the decoder gets the visible
    tokens and then mask tokens, each with the position of its patch.
    """

    positions: torch.Tensor

    def __init__(self, spec: ModelSpec, outputs: int, config: MaskingConfig) -> None:
        super().__init__()
        norm = partial(LayerNorm, eps=spec.norm_eps)
        dim = config.decoder_dim
        self.encoder = ViT(spec)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.decoder_embed = nn.Linear(spec.dim, dim)
        self.register_buffer("positions", sincos(spec.grid, dim, "sincos-mae"), persistent=False)  # [N, d]
        self.decoder_blocks = nn.Sequential(
            *(
                Block(dim, config.decoder_heads, qkv_bias=True, norm_layer=norm, act_layer=GELUS[spec.gelu])
                for _ in range(config.decoder_depth)
            )
        )
        self.decoder_norm = norm(dim)
        self.decoder_pred = nn.Linear(dim, outputs)

    def forward(self, pixels: torch.Tensor, corruption: Corruption) -> torch.Tensor:
        """Patches [B, N, P*P*C] to predictions of the hidden ones, [B, M, outputs]."""
        encoder, prefix = self.encoder, self.encoder.num_prefix_tokens
        tokens = encoder.embed_visible(take_tokens(pixels, corruption.left), corruption.left)
        tokens = self.decoder_embed(encoder.final_norm(encoder.run_blocks(tokens)))  # [B, prefix + L, d]
        left = tokens[:, prefix:] + self.positions[corruption.left].to(tokens.dtype)
        hidden = (self.mask_token + self.positions[corruption.hidden]).to(tokens.dtype)
        tokens = self.decoder_blocks(torch.cat([tokens[:, :prefix], left, hidden], dim=1))
        return self.decoder_pred(self.decoder_norm(tokens[:, -hidden.shape[1] :]))  # type: ignore[no-any-return]

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.encoder.blocks, *self.decoder_blocks]

    def set_grad_checkpointing(self, on: bool) -> None:
        self.encoder.set_grad_checkpointing(on)


def scatter_tokens(tokens: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return tokens.scatter(1, places[..., None].expand_as(values), values)


def build_masked(spec: ModelSpec, objective: str, outputs: int, config: MaskingConfig) -> nn.Module:
    """A model whose parameters are not initialized."""
    check_masked(spec, objective, config)
    return MaskedAutoencoder(spec, outputs, config) if objective == "mae" else MaskedPatches(spec, outputs)


def begin(model: nn.Module, seed: int) -> None:
    """Initializes everything except the encoder, whose weights the caller loads."""
    random = torch.Generator().manual_seed(stream(seed, "decoder"))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith(ENCODER):
                continue
            if name == "mask_token":
                value.normal_(0.0, 0.02, generator=random)
            elif value.ndim == 2:
                xavier(value, random)
            elif name.endswith("bias"):
                value.zero_()


def flops(spec: ModelSpec, objective: str, outputs: int, config: MaskingConfig) -> int:
    """Operations of a forward pass of one image. A patch that the encoder does not get costs it nothing."""
    patches = spec.grid[0] * spec.grid[1]
    counts = config.counts(patches)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = build_masked(spec, objective, outputs, config).eval().requires_grad_(False)
        sizes = (counts.hidden, patches - counts.hidden, counts.swapped)
        hidden, left, others = (torch.empty(1, size, dtype=torch.long) for size in sizes)
        pixels = torch.empty(1, patches, spec.patch**2 * spec.channels)
        model(pixels, Corruption(hidden, left, others, counts.masked))
    return int(counter.get_total_flops())


def check_masked(spec: ModelSpec, objective: str, config: MaskingConfig) -> None:
    if spec.family not in ("vit", "axial") or spec.pad:
        raise ConfigError(
            f"{spec.name}: masked self-supervision needs a plain ViT without padding, whose tokens are patches"
        )
    config.counts(spec.grid[0] * spec.grid[1])
    if objective != "mae":
        return
    if spec.family == "axial" or spec.positions == "relative" or spec.is_rotary or spec.added != "stem":
        raise ConfigError(
            f"{spec.name}: mae encodes only the visible patches, so positions must be added at the stem; "
            "use --objective mean-color, or other positions"
        )
    if config.decoder_dim % config.decoder_heads:
        raise ConfigError(
            f"masking.decoder_dim is {config.decoder_dim}; it must be a multiple of the {config.decoder_heads} heads"
        )
    if spec.dropout:
        raise ConfigError("mae is trained without dropout; use --set dropout=0")
