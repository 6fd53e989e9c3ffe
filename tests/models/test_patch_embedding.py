import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import PatchEmbed

from vitctl.config.model import ModelSpec
from vitctl.models.create import create_model
from vitctl.models.patch_embedding import PatchEmbedding
from vitctl.patches import patchify_images

SHAPES = [  # height, width, patch, channels
    (8, 8, 4, 3),
    (8, 12, 4, 3),
    (12, 8, 4, 1),
    (6, 9, 3, 5),
    (16, 16, 16, 3),
    (5, 7, 1, 2),
]
PADDED = [(9, 8, 4, 3), (8, 13, 4, 1), (7, 11, 3, 5), (5, 6, 4, 3)]


def layer(height: int, width: int, patch: int, channels: int, pad: bool = False) -> PatchEmbedding:
    torch.manual_seed(height * width + patch)
    return PatchEmbedding(img_size=(height, width), patch_size=patch, in_chans=channels, embed_dim=24, pad=pad)


def pictures(height: int, width: int, channels: int, count: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(height + 100 * width)
    return torch.randn(count, channels, height, width, generator=random)


def rows_of(images: torch.Tensor, patch: int) -> torch.Tensor:
    """[B, C, H, W] -> [B, N, P*P*C], one patch after the other."""
    _, _, height, width = images.shape
    patches = [
        images[:, :, y : y + patch, x : x + patch].permute(0, 2, 3, 1).flatten(1)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    return torch.stack(patches, 1)


def padded(images: torch.Tensor, patch: int) -> torch.Tensor:
    """Black below and on the right, up to whole patches."""
    batch, channels, height, width = images.shape
    whole = torch.zeros(batch, channels, -(-height // patch) * patch, -(-width // patch) * patch)
    whole[:, :, :height, :width] = images
    return whole


@pytest.mark.parametrize(("height", "width", "patch", "channels"), SHAPES)
def test_patches_and_images_give_the_same_bits(height: int, width: int, patch: int, channels: int) -> None:
    embedding, images = layer(height, width, patch, channels), pictures(height, width, channels)
    tokens = embedding(images)
    assert tokens.shape == (3, (height // patch) * (width // patch), 24)
    assert torch.equal(tokens, embedding(rows_of(images, patch)))
    assert torch.equal(tokens, embedding(patchify_images(images.permute(0, 2, 3, 1).contiguous(), patch)))
    assert tokens.std() > 0.1


@settings(deadline=None, max_examples=40)
@given(
    patch=st.integers(1, 5),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    channels=st.integers(1, 5),
    cut=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_any_image_is_its_patches(patch: int, rows: int, columns: int, channels: int, cut: tuple[int, int]) -> None:
    height, width = patch * rows - min(cut[0], patch - 1), patch * columns - min(cut[1], patch - 1)
    embedding = layer(height, width, patch, channels, pad=True)
    images = pictures(height, width, channels)
    tokens = embedding(images)
    assert tokens.shape == (3, rows * columns, 24)
    assert torch.equal(tokens, embedding(rows_of(padded(images, patch), patch)))


@pytest.mark.parametrize(("shape", "is_padded"), [(shape, pad) for pad in (False, True) for shape in SHAPES]
                         + [(shape, True) for shape in PADDED])  # fmt: skip
def test_it_is_timms_convolution_forward_and_backward(shape: tuple[int, int, int, int], is_padded: bool) -> None:
    height, width, patch, channels = shape
    ours = layer(*shape, pad=is_padded)
    theirs = PatchEmbed((height, width), patch, channels, 24, dynamic_img_pad=is_padded)
    theirs.load_state_dict(ours.state_dict())
    images = pictures(height, width, channels)
    results = [answers(embedding, images) for embedding in (ours, theirs)]
    for name, (one, other) in zip(("tokens", "images", "weight", "bias"), zip(*results, strict=True), strict=True):
        assert one.shape == other.shape, name
        assert other.abs().max() > 0.05, name
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def answers(embedding: PatchEmbed, images: torch.Tensor) -> list[torch.Tensor]:
    """Tokens, and the gradients of a loss in which every token weighs differently."""
    images = images.clone().requires_grad_()
    tokens = embedding(images)
    weights = torch.linspace(-1, 1, tokens.numel()).reshape(tokens.shape)
    (tokens * weights).sum().backward()
    found = [tokens.detach(), images.grad, embedding.proj.weight.grad, embedding.proj.bias.grad]
    assert all(each is not None for each in found)
    return found


@pytest.mark.parametrize(("height", "width", "patch", "channels"), PADDED)
def test_the_padding_is_black_below_and_on_the_right(height: int, width: int, patch: int, channels: int) -> None:
    embedding, images = layer(height, width, patch, channels, pad=True), pictures(height, width, channels)
    whole = padded(images, patch)
    plain = layer(*whole.shape[2:], patch, channels)
    plain.load_state_dict(embedding.state_dict())
    assert torch.equal(embedding(images), plain(whole))
    assert embedding.num_patches == plain.num_patches
    assert embedding.grid_size == plain.grid_size


def test_a_strided_image_is_taken_as_it_is() -> None:
    embedding, images = layer(8, 12, 4, 3), pictures(8, 12, 3)
    expected = embedding(images)
    assert torch.equal(embedding(images.contiguous(memory_format=torch.channels_last)), expected)
    assert torch.equal(embedding(torch.cat([images, images], 3)[..., :12]), expected)
    assert torch.equal(embedding(images.transpose(2, 3).contiguous().transpose(2, 3)), expected)
    assert torch.equal(embedding(images[:1]), embedding(images[:1].expand(2, -1, -1, -1))[:1])


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((2, 3, 8, 8), ("8x8", "8x12")),
        ((2, 3, 12, 8), ("12x8", "8x12")),
        ((2, 3, 16, 24), ("16x24", "8x12")),
        ((2, 1, 8, 12), ("(6, 16)", "6 patches of 48 numbers")),
        ((2, 4, 8, 12), ("(6, 64)", "6 patches of 48 numbers")),
        ((2, 5, 48), ("(5, 48)", "6 patches of 48 numbers")),
        ((2, 6, 47), ("(6, 47)", "6 patches of 48 numbers")),
        ((2, 24, 12), ("(24, 12)", "6 patches of 48 numbers")),
        ((6, 48), ("(48,)", "6 patches of 48 numbers")),
        ((3, 8, 12), ("(8, 12)", "6 patches of 48 numbers")),  # an image without its batch
    ],
)
def test_what_does_not_fit_is_told_with_both_sizes(shape: tuple[int, ...], sizes: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=re.escape(sizes[0])) as caught:
        layer(8, 12, 4, 3)(torch.zeros(shape))
    assert sizes[1] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_padded_model_takes_only_its_own_size() -> None:
    embedding = layer(9, 13, 4, 3, pad=True)
    with pytest.raises(ValueError, match="12x16 do not fit a model for 9x13"):
        embedding(torch.zeros(1, 3, 12, 16))
    assert embedding(torch.zeros(1, 12, 48)).shape == (1, 12, 24)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels": 1, "head": "gap", "class_token": False},
        {"channels": 5, "registers": 2},
        {"height": 9, "width": 14, "pad": True},
        {"positions": "2d", "head": "map"},
        {"family": "axial", "head": "gap", "class_token": False},
    ],
)
def test_a_whole_model_answers_images_and_patches_alike(options: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"height": 8, "width": 12, "patch": 4, "dim": 32, "depth": 2, "heads": 2, "mlp": 48}
    spec = ModelSpec("t", **fields | {"classes": 5} | options)
    model = create_model(spec).eval()
    torch.nn.init.normal_(model.head.weight)
    images = pictures(spec.height, spec.width, spec.channels)
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(model(rows_of(padded(images, 4), 4)), logits)
    assert logits.shape == (3, 5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
