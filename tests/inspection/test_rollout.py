from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitctl.inspection.rollout import CELL, Rollout, draw_heads, draw_rollout, on_patches, overlay


def attention(seed: int, layers: int = 3, tokens: int = 5) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, tokens, tokens, generator=random).softmax(-1) for _ in range(layers)]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_rows_sum_to_one(seed: int, layers: int) -> None:
    rollout = Rollout()
    for each in attention(seed, layers):
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
    wanted = (second + torch.eye(2)) / 2 @ ((first + torch.eye(2)) / 2)
    assert torch.equal(rollout.product, wanted[None])  # type: ignore[arg-type]


def test_from_the_class_token_or_from_the_mean_of_patches() -> None:
    weights = torch.arange(25.0).reshape(1, 5, 5)
    assert on_patches(weights, prefix=1, by_token=True).tolist() == [[1, 2, 3, 4]]
    assert on_patches(weights, prefix=2, by_token=False).tolist() == [[17, 18, 19]]
    assert on_patches(weights, prefix=0, by_token=False).shape == (1, 5)


def test_light_falls_where_it_looks() -> None:
    weights = np.zeros((4, 4))
    weights[0, 0] = 1
    lit = np.asarray(overlay(np.full((64, 64, 3), 200, np.uint8), weights))
    assert lit.shape == (CELL, CELL, 3)
    assert lit[:20, :20].mean() > 3 * lit[-40:, -40:].mean()


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 96, 3)])
def test_the_figures(shape: tuple[int, int, int], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, shape, np.uint8) for _ in range(3)]
    draw_rollout(pictures, random.random((3, 4, 6)), ["one", "two" * 40, "three"], tmp_path / "r.png", "title", "more")
    draw_heads(pictures, random.random((3, 12, 4, 6)), tmp_path / "h.png", "title", "more")
    for name in ("r.png", "h.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 10
