import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitctl.inspection.attention import (
    Rollout,
    attention_layers,
    attention_of,
    batch_for,
    on_patches,
    watch_attention,
)
from vitctl.models.create import create_model

OPTIONS = {
    "cls": {},
    "gap": {"head": "gap"},
    "registers": {"registers": 4},
    "gap with registers": {"head": "gap", "registers": 2},
    "relative": {"positions": "relative", "added": "every"},
    "rope": {"positions": "rope", "registers": 2, "qk_norm": True, "attn_norm": True},
}


def layers_of(model: torch.nn.Module) -> dict[int, torch.Tensor]:
    layers: dict[int, torch.Tensor] = {}
    with torch.no_grad(), watch_attention(model, lambda number, attention: layers.update({number: attention})):
        model(torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1)))
    return layers


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_caught_is_what_the_layer_computes(name: str) -> None:
    """Its weights times the values, through the projection, are the layer's own fused answer."""
    model = create_model("vit-ti/16", height=64, width=48, classes=3, depth=2, **OPTIONS[name]).eval()
    for layer in attention_layers(model):
        tokens = torch.randn(2, model.spec.tokens, 192)  # type: ignore[union-attr]
        weights = attention_of(layer, tokens)
        assert weights.shape == (2, 3, model.spec.tokens, model.spec.tokens)  # type: ignore[union-attr]
        values = layer.qkv(tokens).reshape(2, -1, 3, 3, 64).permute(2, 0, 3, 1, 4)[2]
        answer = layer.proj(layer.norm((weights @ values).transpose(1, 2).flatten(2)))
        torch.testing.assert_close(answer, layer(tokens), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_layer_is_shown_once_and_rows_sum_to_one(name: str) -> None:
    model = create_model("vit-ti/16", height=64, width=48, classes=3, depth=3, **OPTIONS[name]).eval()
    layers = layers_of(model)
    assert sorted(layers) == [0, 1, 2]
    for attention in layers.values():
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:3]))


def test_watching_changes_no_answer_and_ends() -> None:
    model = create_model("vit-mu/16", height=32, width=32, classes=3).eval()
    pixels, calls = torch.randn(1, 3, 32, 32), []
    with torch.no_grad():
        plain = model(pixels)
        with watch_attention(model, lambda number, _: calls.append(number)):
            assert torch.equal(model(pixels), plain)
        model(pixels)
    assert calls == [0]


def test_axial_layers_see_lines() -> None:
    model = create_model("axial-vit-ti/16", height=64, width=48, classes=3, depth=1).eval()
    layers = layers_of(model)
    assert [each.shape for each in layers.values()] == [(2 * 4, 3, 3, 3), (2 * 3, 3, 4, 4)]  # rows, then columns


def test_vit_l_at_384_takes_few_images_at_once() -> None:
    assert batch_for(16, 577) * 16 * 577 * 577 * 4 * 3 <= 256 * 2**20
    assert batch_for(16, 10_000) == 1


def random_attention(seed: int, layers: int = 3, tokens: int = 5) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, tokens, tokens, generator=random).softmax(-1) for _ in range(layers)]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_rows_sum_to_one(seed: int, layers: int) -> None:
    rollout = Rollout()
    for each in random_attention(seed, layers):
        rollout(each)
    assert rollout.product is not None
    torch.testing.assert_close(rollout.product.sum(-1), torch.ones(2, 5))


def test_identity_stays_identity() -> None:
    rollout = Rollout()
    for _ in range(4):
        rollout(torch.eye(6).expand(1, 3, 6, 6))
    assert torch.equal(rollout.product, torch.eye(6)[None])  # type: ignore[arg-type]


def test_by_hand() -> None:
    """The first layer's matrix is on the right of the product."""
    first = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    rollout = Rollout()
    rollout(first[None, None])
    rollout(second[None, None])
    expected = (second + torch.eye(2)) / 2 @ ((first + torch.eye(2)) / 2)
    assert torch.equal(rollout.product, expected[None])  # type: ignore[arg-type]


def test_from_the_class_token_or_from_the_mean_of_patches() -> None:
    weights = torch.arange(25.0).reshape(1, 5, 5)
    assert on_patches(weights, prefix=1, by_token=True).tolist() == [[1, 2, 3, 4]]
    assert on_patches(weights, prefix=2, by_token=False).tolist() == [[17, 18, 19]]
    assert on_patches(weights, prefix=0, by_token=False).shape == (1, 5)
