"""Encoders that are taught by hidden patches, and what is put around them for as long as that takes."""

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
from vitctl.models.sincos import sincos
from vitctl.models.vit import GELUS, ViT
from vitctl.patches import take_tokens
from vitctl.randomness import stream


class MaskedPatches(nn.Module):
    """The paper's: all tokens are seen, some of them replaced, and asked for where they stand."""

    def __init__(self, spec: ModelSpec, outputs: int) -> None:
        super().__init__()
        self.encoder = ViT(spec)
        self.mask_token = nn.Parameter(torch.empty(1, 1, spec.dim))
        self.predictor = nn.Linear(spec.dim, outputs)

    def forward(self, pixels: torch.Tensor, corruption: Corruption) -> torch.Tensor:
        """Patches [B, N, P*P*C] to answers for the hidden ones, [B, M, outputs]."""
        tokens = self.corrupt(self.encoder.patch_embed(pixels), corruption)
        seen = self.encoder.run_blocks(self.encoder.embed(tokens))[:, self.encoder.num_prefix_tokens :]
        return self.predictor(self.encoder.final_norm(take_tokens(seen, corruption.hidden)))  # type: ignore[no-any-return]

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
    """MAE: the encoder sees what is left, and a light decoder says what is hidden.

    Attention does not care for order, so nothing is put back into its place: the decoder has what is left, then the
    hidden ones, each with the position of its patch.
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
        """Patches [B, N, P*P*C] to values of the hidden ones, [B, M, outputs]."""
        encoder, front = self.encoder, self.encoder.num_prefix_tokens
        begun = encoder.embed_visible(take_tokens(pixels, corruption.left), corruption.left)
        seen = self.decoder_embed(encoder.final_norm(encoder.run_blocks(begun)))  # [B, prefix + L, d]
        left = seen[:, front:] + self.positions[corruption.left].to(seen.dtype)
        hidden = (self.mask_token + self.positions[corruption.hidden]).to(seen.dtype)
        tokens = self.decoder_blocks(torch.cat([seen[:, :front], left, hidden], dim=1))
        return self.decoder_pred(self.decoder_norm(tokens[:, -hidden.shape[1] :]))  # type: ignore[no-any-return]

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.encoder.blocks, *self.decoder_blocks]

    def set_grad_checkpointing(self, on: bool) -> None:
        self.encoder.set_grad_checkpointing(on)


def scatter_tokens(tokens: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return tokens.scatter(1, places[..., None].expand_as(values), values)


def build_masked(spec: ModelSpec, objective: str, outputs: int, config: MaskingConfig) -> nn.Module:
    """Its numbers are not yet set."""
    check_masked(spec, objective, config)
    return MaskedAutoencoder(spec, outputs, config) if objective == "mae" else MaskedPatches(spec, outputs)


def begin(model: nn.Module, seed: int) -> None:
    """Draws what is put around the encoder; its own numbers are filled in by whoever has them."""
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
    """Of one image forward: a patch that an encoder does not see costs it nothing."""
    counts, patches = config.counts(spec.grid[0] * spec.grid[1]), spec.grid[0] * spec.grid[1]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = build_masked(spec, objective, outputs, config).eval().requires_grad_(False)
        places = [torch.empty(1, count, dtype=torch.long) for count in (counts.hidden, patches - counts.hidden)]
        others = torch.empty(1, counts.swapped, dtype=torch.long)
        pixels = torch.empty(1, patches, spec.patch**2 * spec.channels)
        model(pixels, Corruption(places[0], places[1], others, counts.masked))
    return int(counter.get_total_flops())


def check_masked(spec: ModelSpec, objective: str, config: MaskingConfig) -> None:
    if spec.family not in ("vit", "axial") or spec.pad:
        raise ConfigError(
            f"{spec.name}: hides no patches; masked self-supervision is for plain ViTs, whose tokens are patches"
        )
    config.counts(spec.grid[0] * spec.grid[1])
    if objective != "mae":
        return
    if spec.family == "axial" or spec.positions == "relative" or spec.added != "stem":
        raise ConfigError(
            f"{spec.name}: mae encodes only the patches that are left, which needs positions that are added at the "
            "stem; take mean-color, or other positions"
        )
    if config.decoder_dim % config.decoder_heads:
        raise ConfigError(f"masking.decoder_dim is {config.decoder_dim}; {config.decoder_heads} heads do not divide it")
    if spec.dropout:
        raise ConfigError("mae is trained without dropout; set dropout=0")
