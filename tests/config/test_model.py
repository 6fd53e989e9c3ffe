import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitctl.config.checks import limits_of
from vitctl.config.model import (
    CUTS,
    EXAFLOPS,
    LISTED,
    RESNETS,
    SINCE_02,
    SIZES,
    ModelSpec,
    Rope,
    Size,
    model_name,
    model_spec,
)
from vitctl.errors import ConfigError

ADDED, FAMILIES, HEADS, POSITIONS = (
    limits_of(ModelSpec)[name].choices for name in ("added", "family", "head", "positions")
)

ROWS = {  # letter: D, MLP, heads, layers: Table 1, DeiT, "Scaling Vision Transformers"
    "ti": (192, 768, 3, 12),
    "s": (384, 1536, 6, 12),
    "b": (768, 3072, 12, 12),
    "l": (1024, 4096, 16, 24),
    "h": (1280, 5120, 16, 32),
    "g": (1408, 6144, 16, 40),
    "gg": (1664, 8192, 16, 48),
}
SMALL: dict[str, Any] = {"height": 8, "width": 12, "patch": 4, "dim": 32, "depth": 2, "heads": 2, "mlp": 48}


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    """Specs of every family that is built here, with all their fields."""
    family = draw(st.sampled_from(["vit", "hybrid", "axial", "bit"]))
    head = draw(st.sampled_from(HEADS if family in ("vit", "hybrid") else ("gap", "map")))
    token = head == "cls" or (family != "axial" and draw(st.booleans()))
    layers = draw(st.lists(st.integers(1, 5), min_size=int(family == "bit"), max_size=4))
    layers = layers if family in ("hybrid", "bit") else []
    patch, heads = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    reach = patch * (4 * 2 ** max(0, len(layers) - 1) if family in ("hybrid", "bit") else 1)
    kinds = [kind for kind in POSITIONS if family != "axial" or kind not in ("relative", "rope", "1d+rope")]
    positions = draw(st.sampled_from(kinds))
    added = draw(st.sampled_from(("stem",) if positions in ("none", "rope", "1d+rope") else ADDED))
    grid = draw(st.sampled_from([(), (16, 16), (3, 5)]))
    return ModelSpec(
        draw(st.text(max_size=8)),
        family,  # type: ignore[arg-type]
        height=reach * draw(st.integers(1, 5)),
        width=reach * draw(st.integers(1, 5)),
        channels=draw(st.integers(1, 12)),
        classes=draw(st.integers(0, 30)),
        patch=patch,
        dim=4 * heads * draw(st.integers(1, 4)),
        depth=draw(st.integers(1, 4)),
        heads=heads,
        mlp=draw(st.integers(1, 99)),
        layers=tuple(layers),
        factor=draw(st.integers(1, 4)),
        head=head,  # type: ignore[arg-type]
        class_token=token,
        class_position=token and draw(st.booleans()),
        registers=0 if family == "axial" else draw(st.integers(0, 4)),
        hidden=draw(st.integers(0, 9)),
        positions=positions,  # type: ignore[arg-type]
        added="every" if positions == "relative" and added == "stem" else added,  # type: ignore[arg-type]
        norm=draw(st.sampled_from(["tokens", "pooled", "none"])),  # type: ignore[arg-type]
        layer_scale=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        gelu=draw(st.sampled_from(["tanh", "erf", "quick"])),  # type: ignore[arg-type]
        norm_eps=draw(st.floats(1e-12, 1e-3)),
        numerics=draw(st.sampled_from(["official", "timm"])),  # type: ignore[arg-type]
        dropout=draw(st.floats(0, 1)),
        drop_path=draw(st.floats(0, 1)),
        rope=Rope(draw(st.sampled_from(["center", "index"])), draw(st.floats(1, 1e5)), grid, draw(st.floats(-9, 9))),
        **{
            name: draw(st.booleans()) for name in ("swiglu", "qk_norm", "key_bias", "attn_norm", "mlp_norm", "pre_norm")
        },
        pool_heads=draw(st.integers(0, 4)),
        pad=draw(st.booleans()),
    )


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_name_means_what_it_says(name: str) -> None:
    spec = model_spec(name)
    families = {"vit": "vit", "axial": "axial", "bit": "bit"}
    assert spec.name == name
    assert spec.family == families.get(name.partition("-")[0], "hybrid")
    assert (spec.height, spec.width, spec.channels, spec.classes) == (224, 224, 3, 1000)
    assert (spec.positions, spec.added, spec.norm, spec.gelu) == (
        "none" if spec.family == "bit" else "1d", "stem", "tokens", "tanh")  # fmt: skip
    if spec.family in ("vit", "axial"):
        assert spec.reach == int(name.rpartition("/")[2])


@pytest.mark.parametrize("letter", ROWS)
def test_the_sizes_are_those_of_the_papers(letter: str) -> None:
    for name in (f"vit-{letter}/16", f"axial-vit-{letter}/16", f"r50+vit-{letter}/16"):
        spec = model_spec(name)
        assert (spec.dim, spec.mlp, spec.heads, spec.depth) == ROWS[letter]


@pytest.mark.parametrize(
    ("name", "layers", "patch", "stride", "grid"),
    [
        ("r+vit-ti/16", (), 8, 4, (7, 7)),  # the official name says 16; the official code makes 49 tokens
        ("r26+vit-s/32", (2, 2, 2, 2), 1, 32, (7, 7)),
        ("r50+vit-b/32", (3, 4, 6, 3), 1, 32, (7, 7)),
        ("r50+vit-b/16", (3, 4, 9), 1, 16, (14, 14)),
        ("r50+vit-l/32", (3, 4, 6, 3), 1, 32, (7, 7)),
    ],
)
def test_hybrids_are_cut_where_the_official_ones_are(
    name: str, layers: tuple[int, ...], patch: int, stride: int, grid: tuple[int, int]
) -> None:
    spec = model_spec(name)
    assert (spec.layers, spec.patch, spec.stride, spec.grid) == (layers, patch, stride, grid)
    assert spec.reach == patch * stride


def test_bit_has_the_blocks_and_the_width_of_its_name() -> None:
    spec = model_spec("bit-r152x2")
    assert (spec.layers, spec.factor, spec.head, spec.class_token) == ((3, 8, 36, 3), 2, "gap", False)
    assert {name: sum(layers) * 3 + 2 for name, layers in RESNETS.items()} == {
        "r50": 50, "r101": 101, "r152": 152, "r200": 200}  # fmt: skip


def test_a_name_may_be_written_in_capitals_and_with_blanks_around() -> None:
    assert model_spec(" ViT-B/16 ") == model_spec("vit-b/16")
    assert model_spec("R50+ViT-B/16") == model_spec("r50+vit-b/16")
    assert model_spec("BiT-R50x1") == model_spec("bit-r50x1")


@given(
    letter=st.sampled_from(sorted(SIZES)),
    patch=st.integers(1, 999),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    family=st.sampled_from(["vit", "axial-vit"]),
)
def test_any_patch_size_has_a_name(letter: str, patch: int, rows: int, columns: int, family: str) -> None:
    name = f"{family}-{letter}/{patch}"
    spec = model_spec(name, height=rows * patch, width=columns * patch)
    assert (spec.name, spec.patch, spec.grid) == (name, patch, (rows, columns))
    assert spec.tokens == rows * columns + (family == "vit")


@pytest.mark.parametrize("name", [name for name in LISTED if not name.startswith("axial")])
def test_numbers_lead_back_to_the_name(name: str) -> None:
    spec = model_spec(name)
    size = Size(spec.dim, spec.depth, spec.heads, spec.mlp)
    assert model_name(spec.family, size, spec.patch, spec.layers, spec.factor) == name


@pytest.mark.parametrize(
    ("family", "size", "layers", "expected"),
    [
        ("vit", Size(16, 2, 2, 24), (), "vit"),
        ("hybrid", Size(16, 2, 2, 24), (3, 4, 9), "vit"),
        ("hybrid", SIZES["b"], (1, 1), "hybrid"),
        ("bit", Size(0, 0, 0, 0), (1, 1, 1, 1), "bit-rx1"),
    ],
)
def test_numbers_that_no_table_has_get_a_plain_name(
    family: str, size: Size, layers: tuple[int, ...], expected: str
) -> None:
    assert model_name(family, size, 1, layers) == expected


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("vit-b-16", "vit-b/16"),
        ("vitb/16", "vit-b/16"),
        ("vit-b/1616", "vit-b/16"),
        ("r50-vit-b/16", "r50+vit-b/16"),
        ("axial-vit-b16", "axial-vit-b/16"),
        ("bitr50x1", "bit-r50x1"),
        ("vit-ti8", "vit-ti/8"),
        ("vit-ti-8", "vit-ti/8"),
    ],
)
def test_a_name_that_is_nearly_right_is_corrected(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_spec(name)
    assert f"model {name!r} is unknown; did you mean {nearest!r}?" in str(caught.value)
    model_spec(nearest)


def test_timms_names_are_understood() -> None:
    with pytest.raises(ConfigError, match="did you mean 'vit-ti/16', or timm's own 'timm:vit_tiny_patch16_224'"):
        model_spec("vit_tiny_patch16_224")


def slips(name: str) -> set[str]:
    """A character too few, too many or wrong, at every place."""
    typed = ("", "-", "/", "+", "x", "7", "0", "l", " ", "é")
    places = range(len(name) + 1)
    return {name[:place] + key + name[place + gone :] for place in places for key in typed for gone in (0, 1)}


@pytest.mark.parametrize("name", LISTED)
def test_a_slip_of_a_finger_is_a_name_or_one_line_that_repeats_it(name: str) -> None:
    refused = 0
    for slip in slips(name):
        try:
            spec = model_spec(slip)
        except ConfigError as error:
            assert "\n" not in str(error)
            assert slip.strip().lower() in str(error).lower()
            refused += 1
        else:
            assert spec.name == slip.strip().lower()
    assert refused > 50


@settings(max_examples=200)
@given(st.text() | st.from_regex(r"[a-z0-9+]{0,4}-?(vit|bit)-[a-z0-9]{0,3}[/x]\d{0,4}", fullmatch=True))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        spec = model_spec(text)
    except ConfigError as error:
        assert str(error)
    else:
        assert spec.family in FAMILIES


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("r26+vit-b/16", {}, r"r26\+vit-b/16: no such hybrid; known: r\+vit-b/16, r26\+vit-b/32, r50\+vit-b/16"),
        ("r34+vit-b/16", {}, "no such hybrid"),
        ("r50+vit-x/16", {}, r"r50\+vit-x/16: size 'x' is unknown; known: mu, ti, s, b, l, h, g, gg"),
        ("vit-x/16", {}, "vit-x/16: size 'x' is unknown; known: mu, ti, s, b, l, h, g, gg"),
        ("axial-vit-x/16", {}, "axial-vit-x/16: size 'x' is unknown"),
        ("vit-b/0", {}, "a patch has at least one pixel"),
        ("bit-r51x1", {}, "bit-r51x1: r51 is unknown; did you mean 'r50'"),
        ("bit-r50x0", {}, "the factor is at least 1"),
        ("timm:", {}, "wants a model's name behind it"),
        ("vit-b/32", {"height": 16}, "a patch of 32x32 is larger than an image of 16x224"),
        ("vit-b/32", {"width": 31, "pad": True}, "a patch of 32x32 is larger than an image of 224x31"),
        ("r50+vit-b/32", {"height": 16, "width": 16}, "a patch of 32x32 is larger than an image of 16x16"),
        ("vit-b/16", {"height": 230}, "do not divide an image of 230x224; the nearest are 224x224 and 240x224, or"),
        ("vit-b/16", {"height": 230, "width": 250}, "the nearest are 224x240 and 240x256, or pad them"),
        ("vit-h/14", {"width": 384}, "patches of 14 .* 224x384; the nearest are 224x378 and 224x392, or pad them"),
        ("r50+vit-b/16", {"width": 220}, "patches of 16 do not divide .* the nearest are 224x208 and 224x224"),
        ("vit-b/16", {"heads": 7}, "7 heads do not divide a width of 768"),
        ("vit-b/16", {"class_token": False}, "head cls needs the class token; take gap or map"),
        ("vit-b/16", {"head": "cls", "class_token": False}, "head cls needs the class token"),
        ("vit-b/16", {"positions": "relative"}, "relative positions act in every layer; set added to every"),
        ("vit-b/16", {"positions": "none", "added": "every"}, "positions none cannot be added anywhere"),
        ("vit-b/16", {"positions": "none", "added": "shared"}, "positions none cannot be added anywhere"),
        ("vit-b/16", {"positions": "2d", "dim": 3, "heads": 3}, "2d positions need a width that 2 divides"),
        ("vit-b/16", {"positions": "sincos", "dim": 6, "heads": 3}, "sincos positions need a width that 4 divides"),
        ("vit-b/16", {"positions": "sincos-mae", "dim": 6, "heads": 3}, "need a width that 4 divides"),
        ("axial-vit-b/16", {"head": "cls"}, "head cls needs the class token"),
        ("axial-vit-b/16", {"class_token": True}, "no place for a class token, registers or relative or rotary"),
        ("axial-vit-b/16", {"head": "cls", "class_token": True}, "no place for a class token"),
        ("axial-vit-b/16", {"registers": 4}, "no place for a class token, registers"),
        ("axial-vit-b/16", {"positions": "relative", "added": "every"}, "no place for .* relative or rotary positions"),
        ("vit-b/16", {"head": "gpa"}, "head 'gpa' is unknown; did you mean 'gap'"),
        ("vit-b/16", {"positions": "rope", "heads": 128}, "heads whose width 4 divides; this has heads of 6"),
        ("vit-b/16", {"positions": "rope", "added": "every"}, "rotary positions act in every block"),
        ("axial-vit-b/16", {"positions": "rope"}, "no place for .* rotary positions"),
        ("vit-b/16", {"positions": "3d"}, "positions '3d' is unknown; known: none, 1d, 2d, relative"),
        ("vit-b/16", {"added": "everywhere"}, "added 'everywhere' is unknown"),
        ("vit-b/16", {"norm": "layers"}, "norm 'layers' is unknown"),
        ("vit-b/16", {"gelu": "relu"}, "gelu 'relu' is unknown"),
        ("vit-b/16", {"numerics": "jax"}, "numerics 'jax' is unknown"),
        ("vit-b/16", {"channels": 0}, "channels is 0; it must lie between 1 and 10,000"),
        ("vit-b/16", {"height": 0}, "height is 0"),
        ("vit-b/16", {"depth": 0}, "depth is 0"),
        ("vit-b/16", {"classes": -1}, "classes is -1; it must lie between 0 and 100,000,000"),
        ("vit-b/16", {"registers": -1}, "registers is -1"),
        ("vit-b/16", {"dropout": 1.5}, "dropout is 1.5; it must lie between 0 and 1"),
        ("vit-b/16", {"drop_path": -0.1}, "drop_path is -0.1"),
        ("vit-b/16", {"dropout": math.nan}, "dropout is nan"),
        ("vit-b/16", {"norm_eps": 0.0}, "norm_eps is 0.0"),
        ("vit-b/16", {"norm_eps": math.nan}, "norm_eps is nan"),
        ("r50+vit-b/16", {"layers": (3, 0)}, "layers is 0; it must lie between 1 and 10,000"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_spec(name, **options)


def test_a_size_below_the_patch_has_no_nearest_smaller_one() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        model_spec("vit-b/16", height=15, width=15)
    with pytest.raises(ConfigError, match="the nearest are 16x16 and 32x32, or"):
        model_spec("vit-b/16", height=17, width=17)
    with pytest.raises(ConfigError, match="the nearest are 16x16 and 16x32, or"):
        model_spec("vit-b/16", height=16, width=17)


@settings(deadline=None)
@given(patch=st.integers(1, 40), height=st.integers(1, 200), width=st.integers(1, 200), pad=st.booleans())
def test_patches_cover_the_image_or_the_nearest_sizes_do(patch: int, height: int, width: int, pad: bool) -> None:
    options: dict[str, Any] = SMALL | {"patch": patch, "height": height, "width": width, "pad": pad}
    if min(height, width) < patch:
        with pytest.raises(ConfigError, match="larger"):
            ModelSpec("t", **options)
    elif pad or height % patch == width % patch == 0:
        grid = ModelSpec("t", **options).grid
        for cells, size in zip(grid, (height, width), strict=True):
            assert (cells - 1) * patch < size <= cells * patch
    else:
        with pytest.raises(ConfigError) as caught:
            ModelSpec("t", **options)
        named = str(caught.value).partition("the nearest are ")[2].partition(", or pad them")[0].split(" and ")
        for size in named:
            near = dict(zip(("height", "width"), map(int, size.split("x")), strict=True))
            assert ModelSpec("t", **options | near).grid
            assert abs(near["height"] - height) < patch
            assert abs(near["width"] - width) < patch


@pytest.mark.parametrize(
    ("options", "prefix", "tokens", "rows"),
    [
        ({}, 1, 7, 7),
        ({"class_position": False}, 1, 7, 6),
        ({"head": "gap"}, 0, 6, 6),
        ({"head": "map"}, 0, 6, 6),
        ({"head": "gap", "class_token": True}, 1, 7, 7),
        ({"head": "gap", "class_token": True, "class_position": False}, 1, 7, 6),
        ({"registers": 4}, 5, 11, 11),
        ({"registers": 4, "class_position": False}, 5, 11, 6),
        ({"head": "gap", "registers": 4}, 4, 10, 6),
        ({"height": 9, "width": 13, "pad": True}, 1, 13, 13),
        ({"height": 8, "width": 12, "pad": True}, 1, 7, 7),
        ({"height": 12, "width": 8}, 1, 7, 7),
    ],
)
def test_tokens_and_their_positions_are_counted(options: dict[str, Any], prefix: int, tokens: int, rows: int) -> None:
    spec = model_spec("vit-mu/4", **{"height": 8, "width": 12} | options)
    assert (spec.prefix, spec.tokens, spec.position_rows) == (prefix, tokens, rows)
    assert spec.grid[0] * spec.grid[1] == tokens - prefix


def test_height_comes_first() -> None:
    assert ModelSpec("t", **SMALL).grid == (2, 3)
    assert model_spec("r50+vit-b/16", height=32, width=80).grid == (2, 5)
    assert model_spec("r+vit-ti/16", height=33, width=80, pad=True).grid == (2, 3)


def test_a_changed_head_takes_its_class_token_along() -> None:
    spec = model_spec("vit-b/16")
    gap = spec.replace(head="gap")
    assert (gap.head, gap.class_token, gap.class_position, gap.tokens) == ("gap", False, False, 196)
    assert gap == model_spec("vit-b/16", head="gap")
    assert gap.replace(head="cls") == spec
    assert gap.replace(head="map") == model_spec("vit-b/16", head="map")
    assert spec.replace(head="gap", class_token=True).tokens == 197
    assert (spec.head, spec.class_token) == ("cls", True)


def test_a_change_is_checked_and_touches_nothing_else() -> None:
    spec = model_spec("vit-b/16", dropout=0.1)
    assert dataclasses.replace(spec.replace(height=384, width=384), height=224, width=224) == spec
    with pytest.raises(ConfigError, match="the nearest are"):
        spec.replace(height=385)
    with pytest.raises(ConfigError, match="head cls needs the class token"):
        model_spec("vit-b/16", head="gap").replace(head="cls", class_token=False)
    assert model_spec("bit-r50x1").replace(head="map").class_token is False


@settings(deadline=None)
@given(specs())
def test_a_change_to_what_is_there_already_changes_nothing(spec: ModelSpec) -> None:
    """Else `--head cls` would give big_vision's weights a position that their file has not."""
    assert spec.replace() == spec
    assert spec.replace(**vars(spec)) == spec
    assert spec.replace(head=spec.head) == spec


@settings(deadline=None)
@given(specs())
def test_a_spec_survives_json(spec: ModelSpec) -> None:
    fields = spec.as_dict()
    said = dataclasses.asdict(spec)
    assert fields.items() <= said.items()
    assert {name for name in said if name not in fields} == {n for n, default in SINCE_02.items() if said[n] == default}
    assert ModelSpec.from_dict(fields) == spec
    back = ModelSpec.from_dict(json.loads(json.dumps(fields)))
    assert back == spec
    assert hash(back) == hash(spec)
    assert (back.grid, back.tokens, back.reach) == (spec.grid, spec.tokens, spec.reach)


@settings(deadline=None)
@given(specs())
def test_the_counts_of_a_spec_agree_with_each_other(spec: ModelSpec) -> None:
    assert spec.grid[0] * spec.reach == spec.height
    assert spec.grid[1] * spec.reach == spec.width
    assert spec.tokens == spec.grid[0] * spec.grid[1] + spec.class_token + spec.registers
    assert spec.position_rows in (spec.tokens, spec.tokens - spec.prefix)
    assert spec.stride == 1 or spec.family in ("hybrid", "bit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotary": True, "theta": 100}, "of a newer version: it has rotary, theta"),
        ({"layers": None}, "not the spec of a model"),
        ({"layers": 3}, "not the spec of a model"),
        ({"layers": ["a"]}, "not the spec of a model"),
        ({"height": "224"}, "not the spec of a model"),
        ({"heads": None}, "not the spec of a model"),
        ({"family": "cnn"}, "family 'cnn' is unknown"),
        ({"heads": 5}, "5 heads do not divide"),
    ],
)
def test_a_stored_spec_that_is_none_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_dict(model_spec("vit-b/16").as_dict() | change)


def test_a_stored_spec_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="not the spec of a model"):
        ModelSpec.from_dict({"family": "vit"})


def test_a_spec_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        model_spec("vit-b/16").height = 384  # type: ignore[misc]


def test_timm_names_are_taken_as_they_are() -> None:
    spec = model_spec("timm:vit_Base.tag", height=100, width=60, channels=4, classes=7)
    assert (spec.name, spec.family) == ("timm:vit_Base.tag", "timm")
    assert (spec.height, spec.width, spec.channels, spec.classes) == (100, 60, 4, 7)


def test_the_lists_know_each_other() -> None:
    assert set(EXAFLOPS) <= set(LISTED)
    assert len(set(LISTED)) == len(LISTED)
    assert {name for name, _ in CUTS} == {"r", "r26", "r50"}
    for (resnet, reach), (layers, patch) in CUTS.items():
        spec = model_spec(f"{resnet}+vit-s/{reach}")
        assert (spec.layers, spec.patch) == (layers, patch)
