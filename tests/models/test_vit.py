import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import DropPath, HybridEmbed
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import _resnetv2
from torch import nn

from tests.models import official_files, reference
from tests.models.tiny import TINY
from vitctl.config.model import ModelSpec
from vitctl.errors import ConfigError
from vitctl.io import official
from vitctl.io.weights import Weights
from vitctl.models.create import build_module, create_model, load_tensors

Arrays = dict[str, np.ndarray[Any, Any]]
FAINT = 1e-3  # images so dark that the epsilon of a GroupNorm shows
VITS = [
    (layout, head, hidden)
    for layout, heads in official_files.VIT_LAYOUTS.items()
    for head in heads
    for hidden in (0, 12)
]
HYBRIDS: list[dict[str, Any]] = [
    {"layers": (1, 1)},
    {"layers": (2, 1), "seed": 1},
    {"layers": (), "patch": 2},
    {"layers": (), "grid": (2, 2), "old_norms": True},
    {"layers": (1,), "patch": 3, "grid": (2, 2), "head": "gap"},
    {"layers": (1, 2, 1), "grid": (2, 2), "hidden": 12},
    {"layers": (1, 1), "channels": 4},
]


def read(arrays: Arrays, **changes: Any) -> Weights:
    weights = official.read_official(arrays, "test")
    assert weights.notes == ()
    return Weights(weights.spec.replace(**changes), weights.tensors, weights.about)


def filled(weights: Weights) -> nn.Module:
    model = build_module(weights.spec)
    load_tensors(model, weights.tensors, "test")
    return model.eval()


def sample_images(spec: ModelSpec, scale: float = 1.0, seed: int = 0) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    return scale * random.normal(size=(2, spec.height, spec.width, spec.channels)).astype(np.float32)


def answers(model: nn.Module, images: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Features and logits, in the precision of the model."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(next(model.parameters()).dtype)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(pixels), pre_logits=True)
        return features.flatten(1).numpy(), model(pixels).numpy()


def furthest(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> float:
    """The largest difference of features and logits."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert np.abs(other).max() > 0.05
        assert np.abs(other[0] - other[1]).max() > 0  # a model that answers alike to all proves nothing
    return max(float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True))


def check(
    weights: Weights,
    images: np.ndarray[Any, Any],
    oracle: Callable[[Arrays, np.ndarray[Any, Any]], tuple[Any, Any]],
    arrays: Arrays,
    tolerance: float = 1e-5,
) -> None:
    """The model's answers are the oracle's: in float32 to its noise (features to `tolerance`), in float64 exactly."""
    model, expected = filled(weights), oracle(arrays, images)
    ours = answers(model, images)
    assert furthest(ours, expected) < tolerance
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-5, atol=1e-5)  # kernels' noise differs from CPU to CPU
    assert furthest(answers(model.double(), images), expected) < 1e-11


@pytest.mark.parametrize(("layout", "head", "hidden"), VITS)
def test_a_vit_is_the_official_one(layout: str, head: str, hidden: int) -> None:
    for seed in (0, 1):
        arrays = official_files.make_vit(layout, head, hidden, seed=seed)
        weights = read(arrays)
        assert (weights.spec.head, weights.spec.hidden, weights.spec.family) == (head, hidden, "vit")
        check(weights, sample_images(weights.spec, seed=seed), reference.vit, arrays)


@pytest.mark.parametrize(
    "options",
    [
        {"patch": 2, "grid": (4, 4), "channels": 1},
        {"dim": 24, "heads": 6, "mlp": 100, "depth": 4, "classes": 11},
        {"heads": 1, "mlp": 7, "depth": 1, "grid": (1, 1)},
        {"patch": 7, "channels": 5, "dim": 20, "heads": 5, "grid": (2, 2)},
    ],
)
@pytest.mark.parametrize("layout", official_files.VIT_LAYOUTS)
def test_a_vit_of_any_size_is_the_official_one(layout: str, options: dict[str, Any]) -> None:
    arrays = official_files.make_vit(layout, **options)
    weights = read(arrays)
    check(weights, sample_images(weights.spec), reference.vit, arrays)


@pytest.mark.parametrize("scale", [1.0, FAINT])
@pytest.mark.parametrize("options", HYBRIDS, ids=str)
def test_a_hybrid_is_the_official_one(options: dict[str, Any], scale: float) -> None:
    arrays = official_files.make_hybrid(**options)
    weights = read(arrays)
    assert (weights.spec.family, weights.spec.layers) == ("hybrid", options["layers"])
    tolerance = 1e-5 if len(options["layers"]) < 3 else 2e-5
    check(weights, sample_images(weights.spec, scale), reference.hybrid, arrays, tolerance)


@pytest.mark.parametrize("scale", [1.0, FAINT])
@pytest.mark.parametrize("layers", [(1, 1, 1, 1), (2, 1), (1, 2, 1)])
@pytest.mark.parametrize("layout", official_files.BIT_LAYOUTS)
def test_a_bit_resnet_is_the_official_one(layout: str, layers: tuple[int, ...], scale: float) -> None:
    arrays = official_files.make_bit(layout, layers)
    weights = read(arrays, height=40, width=52)  # at any size, odd maps among them
    assert (weights.spec.family, weights.spec.layers) == ("bit", layers)
    check(weights, sample_images(weights.spec, scale), reference.bit, arrays, 2e-5)


def test_the_width_of_bit_is_the_official_one() -> None:
    arrays = official_files.make_bit("big_vision", (1, 1), factor=2)
    weights = read(arrays, height=33, width=33)
    assert weights.spec.factor == 2
    check(weights, sample_images(weights.spec), reference.bit, arrays, 2e-5)


def test_other_numerics_would_have_been_noticed() -> None:
    """The comparisons above see a wrong epsilon, GELU and pooling: each alone is further off than they allow."""
    arrays = official_files.make_vit("original")
    images = sample_images(read(arrays).spec)
    assert furthest(answers(filled(read(arrays, gelu="erf")), images), reference.vit(arrays, images)) > 5e-5
    assert furthest(answers(filled(read(arrays, norm_eps=1e-5)), images), reference.vit(arrays, images)) > 1e-5
    arrays = official_files.make_hybrid()
    for scale in (1.0, FAINT):
        images = sample_images(read(arrays).spec, scale)
        difference = furthest(answers(filled(read(arrays, numerics="timm")), images), reference.hybrid(arrays, images))
        assert difference > 1e-4
    arrays = official_files.make_bit("big_vision", (1, 1))
    weights = read(arrays, height=40, width=40, numerics="timm")
    images = sample_images(weights.spec)
    assert furthest(answers(filled(weights), images), reference.bit(arrays, images)) > 1e-4


def test_faint_images_show_the_epsilon_of_a_group_norm_and_others_hardly() -> None:
    arrays = official_files.make_hybrid()
    weights = read(arrays)
    model, differences = filled(weights).double(), {}
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.eps for norm in norms] == [1e-6] * 9
    for norm in norms:
        norm.eps = 1e-5
    for scale in (1.0, FAINT):
        images = sample_images(weights.spec, scale)
        differences[scale] = furthest(answers(model, images), reference.hybrid(arrays, images))
    assert differences[FAINT] > 1e-3
    assert differences[FAINT] > 100 * differences[1.0]


# timm's own reading of the same files


def timms_vit(spec: ModelSpec, **options: Any) -> VisionTransformer:
    fields: dict[str, Any] = {
        "img_size": (spec.height, spec.width),
        "patch_size": spec.patch,
        "in_chans": spec.channels,
        "num_classes": spec.classes,
        "embed_dim": spec.dim,
        "depth": spec.depth,
        "num_heads": spec.heads,
        "mlp_ratio": spec.mlp / spec.dim,
        "global_pool": {"cls": "token", "gap": "avg", "map": "map"}[spec.head],
        "class_token": spec.class_token,
        "no_embed_class": spec.class_token and not spec.class_position,
        "act_layer": nn.GELU,
    }
    return VisionTransformer(**fields | options)


def loaded(model: nn.Module, arrays: Arrays, place: Path) -> nn.Module:
    path = place / "weights.npz"
    np.savez(path, **arrays)
    model.load_pretrained(str(path))
    return model.eval()


@pytest.mark.parametrize(("layout", "head"), [(layout, head) for layout, head, hidden in VITS if not hidden])
def test_a_vit_is_what_timm_makes_of_the_file(layout: str, head: str, tmp_path: Path) -> None:
    """But for the GELU: timm has the one by erf, the official code the one by tanh."""
    arrays = official_files.make_vit(layout, head, mlp=32)
    weights = read(arrays)
    images = sample_images(weights.spec)
    theirs = answers(loaded(timms_vit(weights.spec, fc_norm=False), arrays, tmp_path), images)
    assert furthest(answers(filled(read(arrays, gelu="erf")), images), theirs) < 2e-6
    assert furthest(answers(filled(weights), images), theirs) > 1e-5


@pytest.mark.parametrize("layout", official_files.VIT_LAYOUTS)
def test_timm_pools_before_the_last_norm_unless_told(layout: str, tmp_path: Path) -> None:
    """The official models pool behind it. timm's default calls that norm fc_norm, and leaves the file's unread."""
    arrays = official_files.make_vit(layout, "gap", mlp=32)
    weights = read(arrays, gelu="erf")
    assert weights.spec.norm == "tokens"
    images = sample_images(weights.spec)
    default = loaded(timms_vit(weights.spec), arrays, tmp_path)
    assert isinstance(default.fc_norm, nn.LayerNorm)
    assert furthest(answers(filled(weights), images), answers(default, images)) > 1e-2
    pooled = build_module(weights.spec.replace(norm="pooled"))
    load_tensors(pooled, default.state_dict(), "test")
    assert furthest(answers(pooled.eval(), images), answers(default, images)) < 2e-6


@pytest.mark.parametrize("scale", [1.0, FAINT])
@pytest.mark.parametrize(("layers", "patch"), [((1, 1), 1), ((), 2), ((1, 2, 1), 1)])
def test_a_hybrid_is_what_timm_makes_of_the_file(
    layers: tuple[int, ...], patch: int, scale: float, tmp_path: Path
) -> None:
    arrays = official_files.make_hybrid(layers, patch=patch, grid=(2, 2), mlp=32)
    weights = read(arrays)
    images = sample_images(weights.spec, scale)
    backbone = _resnetv2(layers)
    ratio = {"feature_size": weights.spec.height // weights.spec.stride, "feature_ratio": weights.spec.stride}
    if not layers:
        backbone.num_features = 64
    elif hasattr(backbone, "feature_info"):
        del backbone.feature_info
    theirs = timms_vit(weights.spec, embed_layer=functools.partial(HybridEmbed, backbone=backbone, **ratio))
    expected = answers(loaded(theirs, arrays, tmp_path), images)
    assert furthest(answers(filled(read(arrays, gelu="erf", numerics="timm")), images), expected) < 1e-5
    assert furthest(answers(filled(weights), images), expected) > 1e-4


def test_a_bit_resnet_is_what_timm_makes_of_the_file(tmp_path: Path) -> None:
    arrays = official_files.make_bit("big_transfer", (1, 2))
    weights = read(arrays, height=40, width=52)
    images = sample_images(weights.spec)
    conv = build_module(weights.spec.replace(numerics="timm")).stem.conv
    theirs = ResNetV2((1, 2), num_classes=5, stem_type="fixed", conv_layer=functools.partial(type(conv), eps=1e-8))
    expected = answers(loaded(theirs, arrays, tmp_path), images)
    assert furthest(answers(filled(read(arrays, height=40, width=52, numerics="timm")), images), expected) < 1e-5
    assert furthest(answers(filled(weights), images), expected) > 1e-5


# what timm lacks


def shaken(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    return model.eval()


def axial(**options: Any) -> ModelSpec:
    return ModelSpec("t", "axial", head="gap", class_token=False, class_position=False, **TINY | options)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (12, 8), (8, 8), (4, 20), (20, 4)])
def test_an_axial_block_is_a_loop_over_rows_and_one_over_columns(height: int, width: int) -> None:
    spec = axial(height=height, width=width)
    model = shaken(create_model(spec))
    rows, columns = spec.grid
    tokens = torch.randn(2, rows * columns, 32, generator=torch.Generator().manual_seed(0))
    block = model.blocks[0]
    with torch.no_grad():
        grid = [[tokens[:, row * columns + column] for column in range(columns)] for row in range(rows)]
        for row in range(rows):
            line = block.row(torch.stack(grid[row], 1))
            grid[row] = [line[:, column] for column in range(columns)]
        for column in range(columns):
            line = block.column(torch.stack([grid[row][column] for row in range(rows)], 1))
            for row in range(rows):
                grid[row][column] = line[:, row]
        expected = torch.stack([cell for cells in grid for cell in cells], 1)
        output = block(tokens)
    assert (output - tokens).abs().max() > 0.1
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_an_axial_block_sees_its_row_and_its_column_and_through_them_all() -> None:
    model = shaken(create_model(axial(height=12, width=16)))
    tokens = torch.randn(1, 12, 32, requires_grad=True)
    block = model.blocks[0]
    block(tokens)[0, 5].sum().backward()
    assert (tokens.grad.abs().sum((0, 2)) > 0).all()
    tokens.grad = None
    block.row(tokens.reshape(3, 4, 32))[1, 1].sum().backward()
    assert (tokens.grad.abs().sum((0, 2)) > 0).nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_an_axial_model_is_its_blocks_one_after_the_other() -> None:
    spec = axial()
    model = shaken(create_model(spec))
    pixels = torch.from_numpy(sample_images(spec)).permute(0, 3, 1, 2)
    with torch.no_grad():
        x = model.patch_embed(pixels) + model.pos_embed
        for block in model.blocks:
            x = block(x)
        torch.testing.assert_close(model(pixels), model.head(model.norm(x).mean(1)))


def plain(**options: Any) -> ModelSpec:
    return ModelSpec("t", **TINY | options)


def test_dropout_and_drop_path_reach_timms_modules() -> None:
    model = create_model(plain(dropout=0.25, drop_path=0.5))
    assert model.pos_drop.p == 0.25
    assert model.head_drop.p == 0.0  # the paper drops nothing behind the last norm
    for block in model.blocks:
        assert [drop.p for drop in (block.attn.proj_drop, block.mlp.drop1, block.mlp.drop2)] == [0.25] * 3
        assert block.attn.attn_drop.p == 0.0
    paths = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert paths == pytest.approx([0.0, 0.25, 0.5])
    assert [getattr(block.drop_path2, "drop_prob", 0.0) for block in model.blocks] == pytest.approx(paths)


def test_without_them_nothing_is_dropped() -> None:
    model = create_model(plain())
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.0}
    assert not any(isinstance(module, DropPath) for module in model.modules())


@pytest.mark.parametrize("positions", ["1d", "2d", "sincos"])
def test_a_dropped_stem_has_zeros_and_keeps_its_mean(positions: str) -> None:
    spec = plain(dropout=0.5, positions=positions)
    model = shaken(create_model(spec)).train()
    pixels = torch.from_numpy(sample_images(spec)).permute(0, 3, 1, 2).repeat(20, 1, 1, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        dropped, whole = next(iter(model.layers(pixels))), next(iter(model.eval().layers(pixels)))
    survivors = dropped != 0
    assert survivors.float().mean().item() == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(dropped[survivors], 2 * whole[survivors])


@pytest.mark.parametrize("positions", ["1d", "2d", "sincos"])
def test_patch_dropout_leaves_out_patches_of_each_image_after_their_positions(positions: str) -> None:
    spec = plain(patch_dropout=0.4, positions=positions, registers=2)
    model = shaken(create_model(spec)).train()
    pixels = torch.from_numpy(sample_images(spec)[:1]).permute(0, 3, 1, 2).repeat(20, 1, 1, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        some, every = next(iter(model.layers(pixels))), next(iter(model.eval().layers(pixels)))
    count = spec.tokens - spec.prefix
    assert some.shape[1] == spec.prefix + int(count * 0.6)
    assert torch.equal(some[:, : spec.prefix], every[:, : spec.prefix])
    places = [[int((row == every[0]).all(1).nonzero()) for row in image] for image in some[:, spec.prefix :]]
    assert all(len(set(kept)) == len(kept) for kept in places)
    assert {place for kept in places for place in kept} == set(range(spec.prefix, spec.tokens))
    assert len({frozenset(kept) for kept in places}) > 1


@pytest.mark.parametrize(
    "options", [{"positions": "rope"}, {"positions": "relative", "added": "every"}, {"added": "every"}]
)
def test_blocks_that_add_positions_need_all_patches(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="added at the stem alone"):
        plain(patch_dropout=0.5, **options)
    with pytest.raises(ConfigError, match="added at the stem alone"):
        axial(patch_dropout=0.5)


@pytest.mark.parametrize(
    "spec",
    [plain(dropout=0.3), plain(drop_path=0.6), plain(patch_dropout=0.3), axial(dropout=0.3), axial(drop_path=0.6)],
)
def test_what_is_dropped_is_dropped_in_training_only(spec: ModelSpec) -> None:
    model = shaken(create_model(spec))
    pixels = torch.from_numpy(sample_images(spec)).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.equal(model(pixels), model(pixels))
        model.train()
        torch.manual_seed(0)
        assert not torch.equal(model(pixels), model(pixels))


def test_axial_halves_drop_as_their_block_does() -> None:
    model = create_model(axial(dropout=0.25, drop_path=0.5))
    for block, rate in zip(model.blocks, (0.0, 0.25, 0.5), strict=True):
        for half in (block.row, block.column):
            assert half.mlp.drop1.p == half.attn.proj_drop.p == 0.25
            assert getattr(half.drop_path1, "drop_prob", 0.0) == pytest.approx(rate)


LAYERED = {
    "plain": plain(),
    "registers": plain(registers=2),
    "2d": plain(positions="2d"),
    "every": plain(added="every"),
    "relative": plain(positions="relative", added="shared"),
    "gap": plain(head="gap", class_token=False, class_position=False),
    "pooled": plain(head="gap", norm="pooled"),
    "map": plain(head="map", class_token=False, class_position=False, hidden=24),
    "axial": axial(),
    "hybrid": plain(family="hybrid", height=16, width=24, patch=2),
}


@pytest.mark.parametrize("name", LAYERED)
def test_layers_are_the_tokens_before_and_behind_every_block(name: str) -> None:
    spec = LAYERED[name]
    model = shaken(create_model(spec))
    pixels = torch.from_numpy(sample_images(spec)).permute(0, 3, 1, 2)
    with torch.no_grad():
        layers = list(model.layers(pixels))
        assert [tuple(layer.shape) for layer in layers] == [(2, spec.tokens, 32)] * (spec.depth + 1)
        assert torch.equal(model.norm(layers[-1]), model.forward_features(pixels))
        assert torch.equal(model.forward_head(model.norm(layers[-1])), model(pixels))
        for block, before, behind in zip(model.blocks, layers, layers[1:], strict=False):
            assert torch.equal(block(before), behind)
            assert (before - behind).abs().max() > 0.1


def test_layers_come_one_at_a_time() -> None:
    spec = plain()
    output = create_model(spec).layers(torch.zeros(1, 3, 8, 12))
    assert isinstance(output, Iterator)
    assert next(output).shape == (1, spec.tokens, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 12, "width": 8}, r"a hybrid takes images \[B, C, 32, 48\], not \[2, 3, 12, 8\]"),
        ({"height": 48, "width": 32}, r"a hybrid takes images \[B, C, 32, 48\], not \[2, 3, 48, 32\]"),
    ],
)
def test_a_hybrid_refuses_images_of_another_size(options: dict[str, int], message: str) -> None:
    model = create_model(plain(family="hybrid", height=32, width=48, patch=2))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(2, 3, options["height"], options["width"]))
    with pytest.raises(ValueError, match=r"not \[2, 6, 192\]; use View"):
        model(torch.zeros(2, 6, 192))


@pytest.mark.parametrize("layers", [(), (1,), (1, 1)])
def test_a_padded_hybrid_sees_black_below_and_on_the_right(layers: tuple[int, ...]) -> None:
    reach = 4 * 2 ** max(0, len(layers) - 1) * 2
    odd, whole = (3 * reach - 3, 2 * reach - 1), (3 * reach, 2 * reach)
    fields = {"family": "hybrid", "layers": layers, "patch": 2}
    model = shaken(create_model(plain(**fields, height=odd[0], width=odd[1], pad=True)))
    other = build_module(model.spec.replace(height=whole[0], width=whole[1], pad=False)).eval()
    load_tensors(other, model.state_dict(), "test")
    images = torch.zeros(2, 3, *whole)
    images[:, :, : odd[0], : odd[1]] = torch.randn(2, 3, *odd)
    with torch.no_grad():
        torch.testing.assert_close(model(images[:, :, : odd[0], : odd[1]]), other(images))
