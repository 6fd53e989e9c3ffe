import pytest
import torch

from vitctl.inspection.attention import attention_layers, attention_of, batch_for, watch_attention
from vitctl.models.create import create_model

OPTIONS = {
    "cls": {},
    "gap": {"head": "gap"},
    "registers": {"registers": 4},
    "gap with registers": {"head": "gap", "registers": 2},
    "relative": {"positions": "relative", "added": "every"},
}


def layers_of(model: torch.nn.Module) -> dict[int, torch.Tensor]:
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad(), watch_attention(model, lambda number, attention: seen.update({number: attention})):
        model(torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1)))
    return seen


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_caught_is_what_the_layer_computes(name: str) -> None:
    """Its weights times the values, through the projection, are the layer's own fused answer."""
    model = create_model("vit-ti/16", height=64, width=48, classes=3, depth=2, **OPTIONS[name]).eval()
    for layer in attention_layers(model):
        tokens = torch.randn(2, model.spec.tokens, 192)  # type: ignore[union-attr]
        weights = attention_of(layer, tokens)
        assert weights.shape == (2, 3, model.spec.tokens, model.spec.tokens)  # type: ignore[union-attr]
        values = layer.qkv(tokens).reshape(2, -1, 3, 3, 64).permute(2, 0, 3, 1, 4)[2]
        answer = layer.proj((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(answer, layer(tokens), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_layer_is_shown_once_and_rows_sum_to_one(name: str) -> None:
    model = create_model("vit-ti/16", height=64, width=48, classes=3, depth=3, **OPTIONS[name]).eval()
    seen = layers_of(model)
    assert sorted(seen) == [0, 1, 2]
    for attention in seen.values():
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
    seen = layers_of(model)
    assert [each.shape for each in seen.values()] == [(2 * 4, 3, 3, 3), (2 * 3, 3, 4, 4)]  # rows, then columns


def test_vit_l_at_384_takes_few_images_at_once() -> None:
    assert batch_for(16, 577) * 16 * 577 * 577 * 4 * 3 <= 256 * 2**20
    assert batch_for(16, 10_000) == 1
