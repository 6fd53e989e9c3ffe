import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import PatchEmbed
from torch import nn

from tests.models.tiny import NO_TOKEN, TINY
from vitctl.config.model import ModelSpec
from vitctl.models.create import build_module, collect_tensors, create_model, load_tensors
from vitctl.models.layers import Offsets, PatchEmbedding, PositionTable, PositionTable2d, TableAttention
from vitctl.models.resize import sincos
from vitctl.patches import patchify_images

Array = np.ndarray[Any, Any]
FRONTS: list[dict[str, Any]] = [
    NO_TOKEN,
    {},
    {"class_position": False},
    {"registers": 2},
    {"registers": 2, "class_position": False},
    NO_TOKEN | {"registers": 3},
]
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


def batch_of(height: int, width: int, channels: int, count: int = 3) -> torch.Tensor:
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
    embedding, images = layer(height, width, patch, channels), batch_of(height, width, channels)
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
    images = batch_of(height, width, channels)
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
    images = batch_of(height, width, channels)
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
    result = [tokens.detach(), images.grad, embedding.proj.weight.grad, embedding.proj.bias.grad]
    assert all(each is not None for each in result)
    return result


@pytest.mark.parametrize(("height", "width", "patch", "channels"), PADDED)
def test_the_padding_is_black_below_and_on_the_right(height: int, width: int, patch: int, channels: int) -> None:
    embedding, images = layer(height, width, patch, channels, pad=True), batch_of(height, width, channels)
    whole = padded(images, patch)
    plain = layer(*whole.shape[2:], patch, channels)
    plain.load_state_dict(embedding.state_dict())
    assert torch.equal(embedding(images), plain(whole))
    assert embedding.num_patches == plain.num_patches
    assert embedding.grid_size == plain.grid_size


def test_a_strided_image_is_taken_as_it_is() -> None:
    embedding, images = layer(8, 12, 4, 3), batch_of(8, 12, 3)
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
        ((2, 1, 8, 12), ("(6, 16)", "6 patches of 48 values")),
        ((2, 4, 8, 12), ("(6, 64)", "6 patches of 48 values")),
        ((2, 5, 48), ("(5, 48)", "6 patches of 48 values")),
        ((2, 6, 47), ("(6, 47)", "6 patches of 48 values")),
        ((2, 24, 12), ("(24, 12)", "6 patches of 48 values")),
        ((6, 48), ("(48,)", "6 patches of 48 values")),
        ((3, 8, 12), ("(8, 12)", "6 patches of 48 values")),  # an image without its batch
    ],
)
def test_what_does_not_fit_is_reported_with_both_sizes(shape: tuple[int, ...], sizes: tuple[str, str]) -> None:
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
    images = batch_of(spec.height, spec.width, spec.channels)
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(model(rows_of(padded(images, 4), 4)), logits)
    assert logits.shape == (3, 5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def spec_of(**options: Any) -> ModelSpec:
    return ModelSpec("t", **TINY | options)


def shaken(model: nn.Module) -> nn.Module:
    """In float64, every number a little away from where it began."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    return model.double().eval()


def images_for(spec: ModelSpec) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(2, spec.channels, spec.height, spec.width, generator=random, dtype=torch.float64)


# relative


@pytest.mark.parametrize("added", ["every", "shared"])
@pytest.mark.parametrize("front", FRONTS, ids=str)
def test_relative_attention_is_a_loop_over_queries_and_keys(front: dict[str, Any], added: str) -> None:
    spec = spec_of(positions="relative", added=added, **front)
    model = shaken(create_model(spec))
    tokens = torch.randn(2, spec.tokens, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for layer, block in enumerate(model.blocks):
        assert isinstance(block.attn, TableAttention)
        table = collect_tensors(model)[f"blocks.{layer if added == 'every' else 0}.attn.offsets.embed"]
        expected = looped_attention(block.attn, table.numpy(), tokens.numpy(), spec.prefix)
        with torch.no_grad():
            result = block.attn(tokens).numpy()
            table.mul_(-1)
            assert np.abs(block.attn(tokens).numpy() - result).max() > 1e-3
            table.mul_(-1)
        assert np.abs(result - expected).max() < 1e-12


def looped_attention(attention: nn.Module, table: Array, tokens: Array, prefix: int) -> Array:
    """A query meets a key, and where both are patches also the embedding of how far before it the key is."""
    weight, bias = (value.detach().numpy() for value in (attention.qkv.weight, attention.qkv.bias))
    (heads, distances, width), count = table.shape, tokens.shape[1]
    patches = (distances + 1) // 2
    assert patches == count - prefix
    mixed = np.zeros_like(tokens)
    for image, head in itertools.product(range(len(tokens)), range(heads)):
        rows = [slice(part * 32 + head * width, part * 32 + (head + 1) * width) for part in range(3)]
        queries, keys, values = (tokens[image] @ weight[place].T + bias[place] for place in rows)
        for i in range(count):
            logits = np.zeros(count)
            for j in range(count):
                logits[j] = queries[i] @ keys[j]
                if i >= prefix and j >= prefix:
                    logits[j] += queries[i] @ table[head, i - j + patches - 1]
            shares = np.exp(logits / math.sqrt(width))
            mixed[image, i, head * width : (head + 1) * width] = shares @ values / shares.sum()
    return mixed @ attention.proj.weight.detach().numpy().T + attention.proj.bias.detach().numpy()


def test_relative_positions_without_distances_are_plain_attention() -> None:
    spec = spec_of(positions="relative", added="every")
    model, plain = (
        shaken(create_model(spec)),
        build_module(spec.replace(positions="none", added="stem")).double().eval(),
    )
    tensors = collect_tensors(model)
    load_tensors(plain, {name: tensor for name, tensor in tensors.items() if "offsets" not in name}, "test")
    with torch.no_grad():
        assert (model(images_for(spec)) - plain(images_for(spec))).abs().max() > 1e-3
        for name, tensor in tensors.items():
            if "offsets" in name:
                tensor.zero_()
        torch.testing.assert_close(model(images_for(spec)), plain(images_for(spec)), atol=1e-12, rtol=0)


def test_relative_attention_takes_a_mask_too() -> None:
    spec = spec_of(positions="relative", added="every")
    attention = shaken(create_model(spec)).blocks[0].attn
    tokens = torch.randn(2, spec.tokens, 32, dtype=torch.float64)
    hidden = torch.zeros(spec.tokens, spec.tokens, dtype=torch.float64)
    hidden[:, 4] = -math.inf
    with torch.no_grad():
        output = attention(tokens, attn_mask=hidden)
        tokens[:, 4] += 1.0
        changed = attention(tokens, attn_mask=hidden)
        others = [token for token in range(spec.tokens) if token != 4]
        assert torch.equal(output[:, others], changed[:, others])
        assert not torch.allclose(output[:, others], attention(tokens)[:, others])


def test_every_distance_has_a_row_and_every_row_a_distance() -> None:
    offsets = Offsets(spec_of(positions="relative", added="every"))
    assert offsets.embed.shape == (2, 2 * 6 - 1, 16)
    assert sorted(set(offsets.index.flatten().tolist())) == list(range(11))
    assert offsets.index[3, 1] == 3 - 1 + 5
    assert (offsets.index.diagonal() == 5).all()


# 2d


@pytest.mark.parametrize("front", FRONTS, ids=str)
@pytest.mark.parametrize(("height", "width"), [(8, 12), (12, 8), (4, 16)])
def test_the_2d_table_is_a_loop_over_lines_and_columns(height: int, width: int, front: dict[str, Any]) -> None:
    spec = spec_of(positions="2d", height=height, width=width, **front)
    table = PositionTable2d(spec)
    rows, columns = height // 4, width // 4
    assert (table.x.shape, table.y.shape) == ((1, columns, 16), (1, rows, 16))
    result = table().detach().numpy()
    assert result.shape == (1, spec.tokens, 32)
    assert not result[0, : spec.prefix].any()
    for row, column in itertools.product(range(rows), range(columns)):
        token = result[0, spec.prefix + row * columns + column]
        assert np.array_equal(token[:16], table.x.detach()[0, column])
        assert np.array_equal(token[16:], table.y.detach()[0, row])
    assert result[0, spec.prefix :].std() > 0.01


# sincos


def wave(row: int, column: int, dim: int, last: int) -> list[float]:
    """One row of the table: of the column, then of the line, all sines and then all cosines of each."""
    frequencies = [1 / 10000 ** (k / last) if last else 1.0 for k in range(dim // 4)]
    return [
        function(place * frequency)
        for place in (column, row)
        for function in (math.sin, math.cos)
        for frequency in frequencies
    ]


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 2), (14, 14)])
@pytest.mark.parametrize("dim", [4, 8, 32, 192])
@pytest.mark.parametrize(("kind", "less"), [("sincos", 1), ("sincos-mae", 0)])
def test_waves_are_big_visions_and_maes(kind: str, less: int, dim: int, grid: tuple[int, int]) -> None:
    """big_vision divides the exponents by D/4 - 1, MAE by D/4."""
    result = sincos(grid, dim, kind).numpy()
    places = itertools.product(range(grid[0]), range(grid[1]))
    expected = np.array([wave(row, column, dim, dim // 4 - less) for row, column in places])
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() < 1e-6


def test_the_two_kinds_of_waves_are_not_the_same() -> None:
    assert (sincos((14, 14), 768, "sincos") - sincos((14, 14), 768, "sincos-mae")).abs().max() > 0.02


@pytest.mark.parametrize("kind", ["sincos", "sincos-mae"])
@pytest.mark.parametrize("front", FRONTS, ids=str)
def test_waves_of_a_model_are_fixed_and_zero_in_front(front: dict[str, Any], kind: str) -> None:
    spec = spec_of(positions=kind, **front)
    model = create_model(spec)
    assert not model.pos_embed.requires_grad
    own = spec.position_rows - 6
    assert model.pos_embed.shape == (1, spec.position_rows, 32)
    assert not model.pos_embed[:, :own].any()
    assert torch.equal(model.pos_embed[0, own:], sincos((2, 3), 32, kind))
    table = PositionTable(spec.replace(added="every"))
    assert list(table.parameters()) == []
    assert table.state_dict() == {}
    assert torch.equal(table()[0, spec.prefix :], sincos((2, 3), 32, kind))
    assert not table()[0, : spec.prefix].any()


# where they are added


def naive_table(model: nn.Module, layer: int) -> torch.Tensor:
    """What a block adds to its input, from the tensors by name."""
    spec: ModelSpec = model.spec
    tensors, place = collect_tensors(model), f"blocks.{layer if spec.added == 'every' else 0}.positions"
    table = torch.zeros(spec.tokens, spec.dim, dtype=torch.float64)
    for patch, (row, column) in enumerate(itertools.product(range(spec.grid[0]), range(spec.grid[1]))):
        if spec.positions == "2d":
            halves = tensors[f"{place}.x"][0, column], tensors[f"{place}.y"][0, row]
            table[spec.prefix + patch] = torch.cat(halves)
        elif spec.positions == "1d":
            table[spec.prefix + patch] = tensors[f"{place}.embed"][0, spec.position_rows - 6 + patch]
        else:
            less = 1 if spec.positions == "sincos" else 0
            table[spec.prefix + patch] = torch.tensor(wave(row, column, spec.dim, spec.dim // 4 - less))
    if spec.positions == "1d" and spec.class_position:
        table[: spec.prefix] = tensors[f"{place}.embed"][0, : spec.prefix]
    return table


PLACED: list[dict[str, Any]] = [
    *FRONTS,
    NO_TOKEN | {"family": "axial"},
    {"family": "hybrid", "height": 16, "width": 24, "patch": 2},
]


@pytest.mark.parametrize("added", ["every", "shared"])
@pytest.mark.parametrize("positions", ["1d", "2d", "sincos", "sincos-mae"])
@pytest.mark.parametrize("front", PLACED, ids=str)
def test_positions_of_blocks_are_added_before_each(front: dict[str, Any], positions: str, added: str) -> None:
    """Against a loop over the blocks of a model that has no positions."""
    spec = spec_of(positions=positions, added=added, **front)
    model = shaken(create_model(spec))
    plain = build_module(spec.replace(positions="none", added="stem")).double().eval()
    load_tensors(
        plain, {name: value for name, value in collect_tensors(model).items() if ".positions." not in name}, "test"
    )
    with torch.no_grad():
        patches = plain.patch_embed(images_for(spec))
        front_tokens = [each.expand(2, -1, -1) for each in (plain.cls_token, plain.reg_token) if each is not None]
        without = x = torch.cat([*front_tokens, patches], 1)
        for layer, block in enumerate(plain.blocks):
            x = block(x + naive_table(model, layer))
            without = block(without)
        assert (x - without).abs().max() > 1e-2
        torch.testing.assert_close(model.forward_features(images_for(spec)), plain.norm(x), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(plain.forward_features(images_for(spec)), plain.norm(without))


@pytest.mark.parametrize("positions", ["none", "1d", "2d", "sincos", "sincos-mae"])
@pytest.mark.parametrize("front", FRONTS, ids=str)
def test_at_the_stem_patches_have_positions_and_tokens_in_front_only_their_own(
    front: dict[str, Any], positions: str
) -> None:
    spec = spec_of(positions=positions, **front)
    model = shaken(create_model(spec))
    with torch.no_grad():
        result = next(iter(model.layers(images_for(spec))))
        patches = model.patch_embed(images_for(spec))
    tokens = [each[0] for each in (model.cls_token, model.reg_token) if each is not None]
    own = torch.cat([*tokens, torch.zeros(0, 32)]).detach()
    assert len(own) == spec.prefix
    if positions == "1d" and spec.class_position:
        assert spec.prefix == 0 or model.pos_embed[0, : spec.prefix].abs().min() > 0
        own = own + model.pos_embed[0, : spec.prefix].detach()
    assert torch.equal(result[:, : spec.prefix], own.expand(2, -1, -1))
    shift = result[:, spec.prefix :] - patches
    torch.testing.assert_close(shift[0], shift[1])
    assert (shift.abs().max() > 0.1) == (positions != "none")


KINDS = [
    ("none", "stem"),
    *itertools.product(("1d", "2d", "sincos", "sincos-mae"), ("stem", "every", "shared")),
    *itertools.product(("relative",), ("every", "shared")),
]


@pytest.mark.parametrize(("positions", "added"), KINDS)
@pytest.mark.parametrize("front", [NO_TOKEN, {}, NO_TOKEN | {"head": "map"}], ids=str)
def test_only_positions_tell_the_order_of_patches(front: dict[str, Any], positions: str, added: str) -> None:
    spec = spec_of(positions=positions, added=added, **front)
    model = shaken(create_model(spec))
    patches = torch.randn(2, 6, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = (model(patches) - model(patches[:, [5, 0, 3, 1, 4, 2]])).abs().max()
    assert change < 1e-12 if positions == "none" else change > 1e-3


@pytest.mark.parametrize("positions", ["1d", "2d", "relative", "sincos"])
@pytest.mark.parametrize("added", ["every", "shared"])
def test_positions_take_part_in_mixed_precision(positions: str, added: str) -> None:
    spec = spec_of(positions=positions, added=added)
    model = shaken(create_model(spec)).float().train()
    images = images_for(spec).float()
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        result = model(images)
    assert result.dtype == torch.bfloat16
    assert (result.float() - expected).abs().max() < 0.1 * expected.abs().max()
    result.float().square().sum().backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.requires_grad)
