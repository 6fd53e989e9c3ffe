import itertools
import re
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.layers import resample_abs_pos_embed
from torch import nn

from tests.models import tiny
from tests.models.tiny import NO_TOKEN
from vitctl.config.model import ModelSpec, model_spec
from vitctl.errors import ConfigError
from vitctl.io.weights import About, Weights
from vitctl.models.adapt import round_trip_error
from vitctl.models.create import build_module, collect_tensors, create_model, load_tensors
from vitctl.models.resize import (
    METHODS,
    Grid,
    patch_positions,
    resize_offsets,
    resize_table,
    resize_weights,
    sincos,
)

TINY: dict[str, Any] = tiny.TINY | {"height": 12, "width": 20, "depth": 2}
KINDS = [
    ("none", "stem"),
    *itertools.product(("1d", "2d", "sincos", "sincos-mae"), ("stem", "every", "shared")),
    *itertools.product(("relative",), ("every", "shared")),
]
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {},
    "registers": {"registers": 3},
    "registers apart": {"registers": 3, "class_position": False},
    "pooled": NO_TOKEN,
    "axial": NO_TOKEN | {"family": "axial"},
    "hybrid": {"family": "hybrid", "patch": 1},
}
METHOD = st.sampled_from(sorted(METHODS))
GRID = st.tuples(st.integers(1, 9), st.integers(1, 9))


def weights_of(**options: Any) -> Weights:
    spec = ModelSpec("t", **TINY | options)
    model, random = create_model(spec, seed=3), torch.Generator().manual_seed(4)
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=random) if tensor.dtype == torch.float32 else tensor
        for name, tensor in collect_tensors(model).items()
        if name != "pos_embed" or spec.positions == "1d"
    }
    fixed = {name: tensor for name, tensor in collect_tensors(model).items() if name not in tensors}
    return Weights(spec, tensors | fixed, About("test", "somewhere", history=({"step": "born"},)))


def table_of(grid: Grid, prefix: int = 0, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, prefix + grid[0] * grid[1], dim, generator=torch.Generator().manual_seed(seed))


def zoomed(grid: np.ndarray[Any, Any], new: Grid, mode: str = "nearest") -> np.ndarray[Any, Any]:
    """[h, w, D] -> [H, W, D] as the official code does it, which leaves `mode` at "constant"."""
    return scipy.ndimage.zoom(grid, (new[0] / grid.shape[0], new[1] / grid.shape[1], 1), order=1, mode=mode)


# the official way


@settings(max_examples=150, deadline=None)
@given(
    old=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    new=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 9),
)
def test_official_is_scipys_zoom(old: Grid, new: Grid, seed: int) -> None:
    table = table_of(old, seed=seed)
    expected = zoomed(table.reshape(*old, 3).numpy(), new)
    resized = resize_table(table, old, new, "official").reshape(*new, 3).numpy()
    assert expected.shape == resized.shape
    assert np.abs(resized - expected).max() < 1e-6


@settings(max_examples=150, deadline=None)
@given(old=st.tuples(st.integers(1, 40), st.integers(1, 40)), new=st.tuples(st.integers(1, 40), st.integers(1, 40)))
@example(old=(28, 28), new=(14, 14))
@example(old=(15, 8), new=(26, 26))
def test_where_the_official_code_differs_scipy_has_lost_the_last_line_or_column(old: Grid, new: Grid) -> None:
    """From 28 to 14, say: rounded, the last corner lies beyond the old grid, and there zoom's "constant" is zero."""
    table = table_of(old)
    expected = zoomed(table.reshape(*old, 3).numpy(), new, "constant")
    resized = resize_table(table, old, new, "official").reshape(*new, 3).numpy()
    differs = np.abs(resized - expected).max(-1) > 1e-6
    assert not expected[differs].any()
    assert not differs[:-1, :-1].any()


@pytest.mark.parametrize(("old", "new"), [(14, 24), (16, 37), (7, 12), (24, 14), (14, 32), (16, 28), (32, 7), (14, 7)])
def test_official_is_scipys_zoom_from_one_usual_grid_to_another(old: int, new: int) -> None:
    table = 0.02 * table_of((old, old), prefix=1, dim=64)
    expected = zoomed(table[0, 1:].reshape(old, old, 64).numpy(), (new, new)).reshape(new * new, 64)
    resized = resize_table(table, (old, old), (new, new))
    assert np.abs(resized[0, 1:].numpy() - expected).max() < 2e-7
    assert torch.equal(resized[:, :1], table[:, :1])
    others = [resize_table(table, (old, old), (new, new), method) for method in METHODS if method != "official"]
    assert all((other - resized).abs().max() > 1e-3 for other in others)


# the other ways


@settings(max_examples=60, deadline=None)
@given(old=GRID, new=GRID, prefix=st.integers(0, 3))
def test_bicubic_aa_is_timms(old: Grid, new: Grid, prefix: int) -> None:
    assume(old != new)
    table = table_of(old, prefix)
    expected = resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=prefix)
    torch.testing.assert_close(resize_table(table, old, new, "bicubic-aa"), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(old=GRID, new=GRID)
@example(old=(5, 1), new=(7, 1))  # torch 2.14 answers this one wrong unless channels lie last
def test_bicubic_aa_is_pillows(old: Grid, new: Grid) -> None:
    table = table_of(old)
    resized = resize_table(table, old, new, "bicubic-aa").reshape(*new, 3)
    for channel, maps in enumerate(table.reshape(*old, 3).unbind(-1)):
        expected = Image.fromarray(maps.numpy()).resize(new[::-1], Image.Resampling.BICUBIC)
        assert np.abs(resized[..., channel].numpy() - np.asarray(expected)).max() < 1e-5


@pytest.mark.parametrize(("old", "new"), [(14, 24), (7, 12), (24, 14), (5, 5)])
def test_bicubic_is_maes(old: int, new: int) -> None:
    table = table_of((old, old), 1)
    maps = table[:, 1:].reshape(1, old, old, 3).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, size=(new, new), mode="bicubic", align_corners=False)
    expected = torch.cat((table[:, :1], maps.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
    torch.testing.assert_close(resize_table(table, (old, old), (new, new), "bicubic"), expected, atol=1e-5, rtol=1e-5)
    antialiased = resize_table(table, (old, old), (new, new), "bicubic-aa")
    assert ((antialiased - expected).abs().max() > 1e-2) == (old != new)


@pytest.mark.parametrize(("old", "new"), [((7, 5), (12, 9)), ((9, 12), (4, 6))])
def test_bilinear_is_what_timm_does_to_npz_files(old: Grid, new: Grid) -> None:
    table = table_of(old, 1)
    expected = resample_abs_pos_embed(table, list(new), list(old), interpolation="bilinear", antialias=False)
    torch.testing.assert_close(resize_table(table, old, new, "bilinear"), expected, atol=1e-5, rtol=1e-5)


# what holds for every way


@settings(max_examples=60, deadline=None)
@given(old=GRID, new=GRID, prefix=st.integers(0, 5), method=METHOD, value=st.floats(-9, 9, width=32))
def test_a_constant_table_stays_constant_and_rows_in_front_stay(
    old: Grid, new: Grid, prefix: int, method: Any, value: float
) -> None:
    table = torch.full((2, prefix + old[0] * old[1], 3), value)
    table[:, :prefix] = torch.randn(2, prefix, 3)
    resized = resize_table(table, old, new, method)
    assert resized.shape == (2, prefix + new[0] * new[1], 3)
    assert torch.equal(resized[:, :prefix], table[:, :prefix])
    assert (resized[:, prefix:] - value).abs().max() <= 1e-6 * abs(value)


@settings(max_examples=60, deadline=None)
@given(old=GRID, new=GRID, slopes=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_a_slope_stays_a_slope_from_corner_to_corner(old: Grid, new: Grid, slopes: tuple[float, float]) -> None:
    def slope(grid: Grid) -> torch.Tensor:
        sides = [
            torch.linspace(0, 1, cells, dtype=torch.float64) * (min(before, after) > 1)
            for cells, before, after in zip(grid, old, new, strict=True)
        ]
        return (1 + slopes[0] * sides[0][:, None] + slopes[1] * sides[1]).reshape(1, -1, 1)

    whole = [cells > 1 or before == 1 for cells, before in zip(new, old, strict=True)]
    assume(all(whole))  # one cell of many keeps the first of them
    torch.testing.assert_close(resize_table(slope(old), old, new, "official"), slope(new), atol=1e-12, rtol=0)


@settings(max_examples=60, deadline=None)
@given(grid=GRID, prefix=st.integers(0, 2), method=METHOD)
def test_the_same_grid_gives_the_same_bits(grid: Grid, prefix: int, method: Any) -> None:
    table = table_of(grid, prefix)
    assert torch.equal(resize_table(table, grid, grid, method), table)


@settings(max_examples=40, deadline=None)
@given(old=GRID, new=GRID, method=METHOD)
@example(old=(2, 1), new=(3, 1), method="bicubic-aa")
def test_every_layer_and_every_number_is_resized_for_itself(old: Grid, new: Grid, method: Any) -> None:
    tables = torch.cat([table_of(old, dim=4, seed=seed) for seed in range(3)])
    resized = resize_table(tables, old, new, method)
    each = torch.cat([resize_table(table[None], old, new, method) for table in tables])
    torch.testing.assert_close(resized, each, atol=1e-6, rtol=1e-6)
    halves = torch.cat([resize_table(half, old, new, method) for half in tables.chunk(2, dim=2)], dim=2)
    torch.testing.assert_close(resized, halves, atol=1e-6, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(old=GRID, new=GRID, method=METHOD)
@example(old=(2, 1), new=(3, 1), method="bicubic-aa")
def test_lines_are_lines_and_columns_are_columns(old: Grid, new: Grid, method: Any) -> None:
    table = table_of(old)
    turned = table.reshape(1, *old, 3).transpose(1, 2).reshape(1, -1, 3)
    expected = resize_table(table, old, new, method).reshape(1, *new, 3).transpose(1, 2).reshape(1, -1, 3)
    resized = resize_table(turned, old[::-1], new[::-1], method)
    torch.testing.assert_close(resized, expected, atol=1e-6, rtol=1e-6)


def test_fresh_positions_keep_nothing_but_the_rows_in_front() -> None:
    table = table_of((4, 4), prefix=1, dim=64)
    resized = resize_table(table, (4, 4), (6, 6), "fresh")
    assert torch.equal(resized[:, :1], table[:, :1])
    assert 0.015 < resized[:, 1:].std() < 0.025
    assert torch.equal(resized, resize_table(table, (4, 4), (6, 6), "fresh"))
    others = resize_table(table * 2, (4, 4), (6, 6), "fresh")[:, 1:]  # of a run with another seed
    correlation = torch.corrcoef(torch.stack([resized[:, 1:].flatten(), others.flatten()]))[0, 1]
    assert abs(correlation) < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_precision_is_kept(dtype: torch.dtype) -> None:
    table = table_of((3, 5), 1).to(dtype)
    resized = resize_table(table, (3, 5), (6, 4))
    assert resized.dtype == dtype
    assert torch.equal(resized, resize_table(table.double(), (3, 5), (6, 4)).to(dtype))


# distances


@settings(max_examples=60, deadline=None)
@given(old=GRID, new=GRID)
def test_constant_distances_stay_constant(old: Grid, new: Grid) -> None:
    resized = resize_offsets(torch.full((2, 2 * old[0] * old[1] - 1, 3), 0.7), old, new)
    assert resized.shape == (2, 2 * new[0] * new[1] - 1, 3)
    torch.testing.assert_close(resized, torch.full_like(resized, 0.7))


@settings(max_examples=60, deadline=None)
@given(grid=GRID)
def test_distances_of_the_same_grid_are_the_same(grid: Grid) -> None:
    table = torch.randn(2, 2 * grid[0] * grid[1] - 1, 3)
    assert torch.equal(resize_offsets(table, grid, grid), table)


@settings(max_examples=150, deadline=None)
@given(old=GRID, new=GRID, slope=st.floats(-2, 2))
def test_a_slope_of_distances_is_one_of_two_patches_that_are_so_far_apart(old: Grid, new: Grid, slope: float) -> None:
    """A distance may be that of some lines and columns, or of a line more; both must be inside the new grid."""
    count = old[0] * old[1]
    table = 1 + slope * torch.arange(1 - count, count, dtype=torch.float64).reshape(1, -1, 1)
    scale = [(before - 1) / (after - 1) if after > 1 else 0.0 for before, after in zip(old, new, strict=True)]
    allowed: dict[int, list[float]] = {}
    for lines, columns in itertools.product(range(1 - new[0], new[0]), range(1 - new[1], new[1])):
        far = lines * scale[0] * old[1] + columns * scale[1]
        allowed.setdefault(lines * new[1] + columns, []).append(1 + slope * far)
    resized = resize_offsets(table, old, new)[0, :, 0].tolist()
    assert len(resized) == len(allowed) == 2 * new[0] * new[1] - 1
    for distance, value in zip(sorted(allowed), resized, strict=True):
        assert min(abs(value - each) for each in allowed[distance]) < 1e-9, distance


def test_distances_in_a_single_line_are_stretched() -> None:
    table = torch.arange(-3.0, 4.0).reshape(1, 7, 1)
    resized = resize_offsets(table, (1, 4), (1, 7))
    torch.testing.assert_close(resized.flatten(), torch.arange(-6.0, 7.0) / 2)
    resized = resize_offsets(table, (4, 1), (7, 1))
    torch.testing.assert_close(resized.flatten(), torch.arange(-6.0, 7.0) / 2)


# whole weights


def model_of(weights: Weights) -> nn.Module:
    model = build_module(weights.spec)
    assert load_tensors(model, weights.tensors, "test") == ()
    return model.eval()


@pytest.mark.parametrize(("positions", "added"), KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["official", "bicubic-aa"])
def test_resized_weights_are_a_model_that_runs(family: str, positions: str, added: str, method: Any) -> None:
    options = FAMILIES[family] | {"positions": positions, "added": added}
    if (family, positions) == ("axial", "relative"):
        with pytest.raises(ConfigError):
            weights_of(**options)
        return
    weights = weights_of(**options)
    before = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    for height, width in ((24, 16), (4, 8)):
        larger = resize_weights(weights, height, width, method)
        assert (larger.spec.height, larger.spec.width, larger.spec.grid) == (height, width, (height // 4, width // 4))
        assert larger.spec.replace(height=12, width=20) == weights.spec
        with torch.no_grad():
            logits = model_of(larger)(torch.randn(2, 3, height, width))
        assert logits.shape == (2, 5)
        assert logits.isfinite().all()
        changed = {name for name, tensor in larger.tensors.items() if not equal(tensor, before[name])}
        assert changed == {name for name in before if is_table(name)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.tensors.items())


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def is_table(name: str) -> bool:
    return name == "pos_embed" or re.search(r"positions\.|offsets\.", name) is not None


@pytest.mark.parametrize(("positions", "added"), KINDS)
def test_the_same_grid_leaves_every_bit(positions: str, added: str) -> None:
    weights = weights_of(positions=positions, added=added, pad=True)
    again = resize_weights(weights, 11, 17)
    assert (again.spec.height, again.spec.width, again.spec.grid) == (11, 17, (3, 5))
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in again.tensors.items())
    assert again.about.history == weights.about.history
    assert resize_weights(weights, 12, 20, "bicubic").tensors.keys() == weights.tensors.keys()


@pytest.mark.parametrize("family", ["vit", "registers", "registers apart", "pooled"])
def test_rows_in_front_and_the_table_of_a_model(family: str) -> None:
    weights = weights_of(**FAMILIES[family])
    own = weights.spec.position_rows - 15
    assert own == {"vit": 1, "registers": 4}.get(family, 0)
    new = resize_weights(weights, 24, 16).tensors["pos_embed"]
    old = weights.tensors["pos_embed"]
    assert torch.equal(new[:, :own], old[:, :own])
    expected = zoomed(old[0, own:].reshape(3, 5, 32).numpy(), (6, 4)).reshape(24, 32)
    assert np.abs(new[0, own:].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("family", ["vit", "registers apart", "hybrid", "axial"])
@pytest.mark.parametrize("kind", ["sincos", "sincos-mae"])
def test_waves_are_computed_anew(kind: str, family: str) -> None:
    weights = weights_of(positions=kind, **FAMILIES[family])
    new = resize_weights(weights, 24, 16)
    assert torch.equal(new.tensors["pos_embed"], collect_tensors(build_module(new.spec))["pos_embed"])
    assert torch.equal(new.tensors["pos_embed"][0, -24:], sincos((6, 4), 32, kind))
    assert new.about.history[-1]["method"] == "recomputed"
    assert round_trip_error(weights, 24, 16, "official") == 0.0


@pytest.mark.parametrize("added", ["stem", "every", "shared"])
def test_lines_and_columns_of_2d_tables_are_resized_apart(added: str) -> None:
    weights = weights_of(positions="2d", added=added)
    new = resize_weights(weights, 24, 16)
    names = [name for name in weights.tensors if is_table(name)]
    assert len(names) == (4 if added == "every" else 2)
    for name in names:
        old, (before, after) = weights.tensors[name][0].numpy(), ((5, 4) if name.endswith("x") else (3, 6))
        assert old.shape == (before, 16)
        expected = scipy.ndimage.zoom(old, (after / before, 1), order=1)
        assert np.abs(new.tensors[name][0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_columns_of_2d_tables_are_resized_as_an_image_of_equal_lines(method: Any) -> None:
    weights = weights_of(positions="2d")
    new = resize_weights(weights, 24, 28, method)
    for name, (before, after) in (("positions.x", (5, 7)), ("positions.y", (3, 6))):
        lines = weights.tensors[name].repeat(1, 2, 1)
        expected = resize_table(lines, (2, before), (2, after), method)[:, :after]
        torch.testing.assert_close(new.tensors[name], expected, atol=1e-6, rtol=1e-6)


def test_one_side_of_a_2d_table_stays_where_only_the_other_changes() -> None:
    weights = weights_of(positions="2d")
    new = resize_weights(weights, 12, 28, "bicubic")
    assert torch.equal(new.tensors["positions.y"], weights.tensors["positions.y"])
    assert new.tensors["positions.x"].shape == (1, 7, 16)


@pytest.mark.parametrize("positions", ["1d", "relative"])
def test_every_table_of_every_block_is_resized(positions: str) -> None:
    leaf = "positions.embed" if positions == "1d" else "attn.offsets.embed"
    every = resize_weights(weights_of(positions=positions, added="every"), 24, 16)
    shared = resize_weights(weights_of(positions=positions, added="shared"), 24, 16)
    shape = (1, 25, 32) if positions == "1d" else (2, 47, 16)
    assert [every.tensors[f"blocks.{layer}.{leaf}"].shape for layer in (0, 1)] == [shape] * 2
    assert shared.tensors[f"blocks.0.{leaf}"].shape == shape
    assert f"blocks.1.{leaf}" not in shared.tensors


# history, round trips, refusals


def test_history_says_from_where_to_where_and_how() -> None:
    weights = weights_of()
    new = resize_weights(resize_weights(weights, 24, 16, "bicubic"), 8, 8)
    assert new.about.history == (
        {"step": "born"},
        {"step": "positions", "from": [3, 5], "to": [6, 4], "method": "bicubic"},
        {"step": "positions", "from": [6, 4], "to": [2, 2], "method": "official"},
    )
    assert weights.about.history == ({"step": "born"},)
    assert (new.about.format, new.about.source) == ("test", "somewhere")


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"positions": "none"}, "nothing to do"),
        ({"positions": "relative", "added": "every"}, "bilinear in the distances"),
        ({"positions": "2d"}, "bilinear"),
        ({"positions": "1d", "added": "shared"}, "bilinear"),
    ],
)
def test_history_says_what_was_done_to_other_kinds(options: dict[str, Any], method: str) -> None:
    assert resize_weights(weights_of(**options), 24, 16, "bilinear").about.history[-1]["method"] == method


@pytest.mark.parametrize(("positions", "added"), KINDS)
def test_a_round_trip_without_change_loses_nothing(positions: str, added: str) -> None:
    assert round_trip_error(weights_of(positions=positions, added=added), 12, 20, "official") == 0.0


def smooth(size: int) -> Weights:
    weights = weights_of(height=4 * size, width=4 * size)
    table = weights.tensors["pos_embed"].clone()
    table[:, 1:] = sincos((size, size), 32) * torch.linspace(0.5, 1.5, 32)
    return Weights(weights.spec, weights.tensors | {"pos_embed": table}, weights.about)


@pytest.mark.parametrize("method", METHODS)
def test_a_round_trip_loses_little_of_smooth_tables_and_much_of_noise(method: Any) -> None:
    waves = smooth(14)
    assert 0 < round_trip_error(waves, 96, 96, method) < 0.08
    noise = weights_of(height=56, width=56)
    assert round_trip_error(noise, 96, 96, method) > 2 * round_trip_error(waves, 96, 96, method)
    assert round_trip_error(noise, 28, 28, method) > 0.3


def test_the_official_way_to_a_grid_that_holds_the_old_one_loses_nothing() -> None:
    assert round_trip_error(weights_of(), 20, 36, "official") < 1e-7  # 3x5 cells lie among 5x9


@pytest.mark.parametrize(("positions", "added"), KINDS)
def test_a_round_trip_error_is_a_relative_root_mean_square(positions: str, added: str) -> None:
    weights = weights_of(positions=positions, added=added)
    resized = round_trip_error(weights, 24, 16, "official")
    there = resize_weights(weights, 24, 16)
    back = resize_weights(there, 12, 20)
    names = [name for name in weights.tensors if is_table(name)]
    if not names or positions.startswith("sincos"):
        assert resized == 0.0
        return
    old, new = (torch.cat([each.tensors[name].flatten() for name in names]) for each in (weights, back))
    assert resized == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-4)
    assert 0 < resized < 2


def test_bit_takes_any_size_as_it_is() -> None:
    spec = model_spec("bit-r50x1")
    weights = Weights(spec, {"stem.conv.weight": torch.ones(64, 3, 7, 7)}, About("test"))
    new = resize_weights(weights, 100, 333)
    assert (new.spec.height, new.spec.width) == (100, 333)
    assert new.tensors is weights.tensors
    assert new.about.history == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((25, 16), "patches of 4 do not divide an image of 25x16; the nearest are 24x16 and 28x16"),
        ((2, 16), "larger than an image of 2x16"),
        ((24, 16, "lanczos"), "method 'lanczos' is unknown; known: official, bilinear, bicubic, bicubic-aa, fresh"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resize_weights(weights_of(), *arguments)


def test_a_padded_model_takes_a_size_that_patches_do_not_divide() -> None:
    new = resize_weights(weights_of(pad=True), 25, 15)
    assert new.spec.grid == (7, 4)
    with torch.no_grad():
        assert model_of(new)(torch.randn(1, 3, 25, 15)).shape == (1, 5)


# the table that is drawn


@pytest.mark.parametrize(("positions", "added"), KINDS)
@pytest.mark.parametrize("family", ["vit", "registers apart", "pooled"])
def test_positions_of_patches_are_those_of_the_first_block(family: str, positions: str, added: str) -> None:
    weights = weights_of(positions=positions, added=added, **FAMILIES[family])
    resized = patch_positions(weights)
    if positions in ("none", "relative"):
        assert resized is None
        return
    model = model_of(weights)
    if added == "stem" and positions != "2d":
        expected = model.pos_embed
    else:
        place = model if added == "stem" else model.blocks[0]
        expected = dict(place.named_children())["positions"]()
    assert resized is not None
    assert torch.equal(resized, expected[0, -15:].detach())
