"""What is hidden, and that a model neither learns nor pays where nothing is asked."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitctl.config.masking import MaskingConfig
from vitctl.config.model import model_spec
from vitctl.errors import ConfigError
from vitctl.models.corruption import Corruption, corruption
from vitctl.models.create import collect_tensors, create_model
from vitctl.models.masked import begin, build_masked, flops
from vitctl.patches import take_tokens

PATCHES = 16
MAE = MaskingConfig(ratio=0.75, masked=1.0, swapped=0.0, decoder_dim=16, decoder_depth=1, decoder_heads=2)


def hiding(config: MaskingConfig, samples: Any = range(6), epoch: int = 0, seed: int = 0) -> Corruption:
    return corruption(config, PATCHES, seed, epoch, np.asarray(list(samples), np.int64))


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_counts_are_exact(patches: int, ratio: float, masked: float, swapped: float) -> None:
    config = MaskingConfig(ratio=ratio, masked=masked, swapped=swapped * (1 - masked))
    left = int(patches * (1 - ratio) + 1e-9)
    if not 0 < left < patches:
        with pytest.raises(ConfigError, match="both must be at least one"):
            config.counts(patches)
        return
    counts = config.counts(patches)
    masking = corruption(config, patches, 0, 0, np.arange(3))
    assert masking.hidden.shape == (3, patches - left)
    assert masking.left.shape == (3, left)
    assert masking.masked == counts.masked == round(masked * (patches - left))
    assert masking.others.shape[1] == counts.swapped <= patches - left - counts.masked
    for row in range(3):
        assert sorted([*masking.hidden[row].tolist(), *masking.left[row].tolist()]) == list(range(patches))


def test_the_papers_shares() -> None:
    counts = MaskingConfig().counts(196)
    assert (counts.hidden, counts.masked, counts.swapped) == (98, 78, 10)
    assert MAE.counts(196).hidden == 147


def test_what_is_hidden_is_of_seed_epoch_and_sample_alone() -> None:
    config = MaskingConfig()
    whole = hiding(config, range(6))
    part = hiding(config, (4, 5))  # another batch, another rank, a resumed step
    for name in ("hidden", "left", "others"):
        assert torch.equal(getattr(whole, name)[4:], getattr(part, name))
        assert torch.equal(getattr(whole.part(4, 6), name), getattr(part, name))
    assert not torch.equal(hiding(config, epoch=1).hidden, whole.hidden)
    assert not torch.equal(hiding(config, seed=1).hidden, whole.hidden)


def test_swapped_patches_get_another_one() -> None:
    masking = hiding(MaskingConfig(ratio=0.5, masked=0.0, swapped=1.0), range(500))
    assert (masking.others != masking.hidden).all()
    assert torch.bincount(masking.others.flatten(), minlength=PATCHES).min() > 100


def model_of(objective: str, config: MaskingConfig, outputs: int = 5, **options: Any) -> Any:
    spec = model_spec("vit-mu/4", height=16, width=16, channels=3, classes=0, head="gap", **options)
    model: Any = build_masked(spec, objective, outputs, config)
    model.encoder.load_state_dict(collect_tensors(create_model(spec, seed=1)), strict=False)
    begin(model, seed=2)
    return model.eval()


def test_the_decoder_begins_as_maes() -> None:
    """models_mae.py, lines 65-93: as the encoder under init=mae, with one law for both."""
    model = model_of("mae", MaskingConfig(ratio=0.75, decoder_dim=64, decoder_depth=2, decoder_heads=4))
    bounds = {name: math.sqrt(6 / sum(value.shape)) for name, value in model.named_parameters() if value.ndim == 2}
    decoder = {name: bound for name, bound in bounds.items() if not name.startswith("encoder.")}
    assert decoder["decoder_blocks.0.attn.qkv.weight"] == math.sqrt(6 / (4 * 64))
    for name, bound in decoder.items():
        largest = model.get_parameter(name).abs().max()
        assert 0.98 * bound < largest <= bound, name
    assert model.mask_token.detach().std() == pytest.approx(0.02, rel=0.3)
    assert not model.decoder_embed.bias.any()


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn(count, PATCHES, 48, generator=torch.Generator().manual_seed(3))


def test_tokens_are_replaced_where_they_are_hidden() -> None:
    model, masking = model_of("mean-color", MaskingConfig()), hiding(MaskingConfig(), range(2))
    tokens = model.encoder.patch_embed(pixels())
    changed = model.corrupt(tokens, masking)
    end = masking.masked + masking.others.shape[1]
    assert torch.equal(take_tokens(changed, masking.left), take_tokens(tokens, masking.left))
    assert (take_tokens(changed, masking.hidden[:, : masking.masked]) == model.mask_token).all()
    assert torch.equal(
        take_tokens(changed, masking.hidden[:, masking.masked : end]), take_tokens(tokens, masking.others)
    )
    assert torch.equal(take_tokens(changed, masking.hidden[:, end:]), take_tokens(tokens, masking.hidden[:, end:]))


@pytest.mark.parametrize(("objective", "config"), [("mean-color", MaskingConfig()), ("mae", MAE)])
def test_answers_do_not_depend_on_what_is_masked(objective: str, config: MaskingConfig) -> None:
    """Neither the answer nor, therefore, its gradient sees what is asked for."""
    model, masking = model_of(objective, config), hiding(config, range(2))
    other = pixels().clone()
    masked = masking.hidden[:, : masking.masked, None].expand(-1, -1, 48)
    change = torch.zeros_like(other).scatter(1, masked, 9.0)
    swapped = set(masking.others.flatten().tolist())
    if not swapped & set(masking.hidden[:, : masking.masked].flatten().tolist()):
        assert torch.equal(model(other, masking), model(other + change, masking))
    unswapped = Corruption(masking.hidden, masking.left, masking.others[:, :0], masking.masked)
    assert torch.equal(model(other, unswapped), model(other + change, unswapped))


def test_mae_equals_the_whole_encoder_with_the_hidden_tokens_left_out() -> None:
    """Its patches, each at its place, through the same blocks: as if the others did not exist."""
    model, masking = model_of("mae", MAE), hiding(MAE, range(2))
    encoder = model.encoder
    every = encoder.embed(encoder.patch_embed(pixels()))
    begun = encoder.embed_visible(take_tokens(pixels(), masking.left), masking.left)
    assert torch.allclose(begun, take_tokens(every, masking.left), atol=1e-6)
    everything = torch.arange(PATCHES).expand(2, -1)
    assert torch.allclose(encoder.embed_visible(pixels(), everything), every, atol=1e-6)


def test_mae_with_a_class_token_and_registers() -> None:
    model = model_of("mae", MAE, class_token=True, class_position=True, registers=2)
    assert model.encoder.embed_visible(pixels()[:, :4], torch.arange(4).expand(2, -1)).shape == (2, 1 + 2 + 4, 32)
    assert model(pixels(), hiding(MAE, range(2))).shape == (2, 12, 5)


def test_hidden_patches_cost_the_encoder_nothing() -> None:
    spec = model_spec("vit-b/16", height=224, width=224, classes=0, head="gap")
    light = MaskingConfig(ratio=0.75, masked=1.0, swapped=0.0, decoder_dim=64, decoder_depth=1, decoder_heads=2)
    all_tokens, quarter = flops(spec, "mean-color", 512, MaskingConfig()), flops(spec, "mae", 768, light)
    assert 0.2 < quarter / all_tokens < 0.27


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("r26+vit-s/32", {}, "masked self-supervision needs a plain ViT"),
        ("bit-r50x1", {}, "masked self-supervision needs a plain ViT"),
        ("vit-mu/16", {"positions": "relative", "added": "every"}, "only the visible patches"),
        ("vit-mu/16", {"dropout": 0.1}, "without dropout"),
    ],
)
def test_what_cannot_be_taught_so_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    spec = model_spec(name, height=64, width=64, classes=0, **options)
    with pytest.raises(ConfigError, match=words):
        build_masked(spec, "mae", 4, MAE)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_nothing_or_everything_cannot_be_hidden(ratio: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and under 1"):
        MaskingConfig(ratio=ratio)
