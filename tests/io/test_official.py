"""Official npz files: the inferred spec, and lossless round trips to timm's names."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import official_files
from vitctl.config.model import ModelSpec, model_spec
from vitctl.errors import UsageError, WeightsError
from vitctl.io import official
from vitctl.io.weights import IMAGENET, About, Weights

Arrays = dict[str, np.ndarray[Any, Any]]
MLP = "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"
VITS = [(layout, head) for layout, heads in official_files.VIT_LAYOUTS.items() for head in heads]


def equal(one: Arrays, other: Arrays) -> bool:
    return sorted(one) == sorted(other) and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        and one[name].shape == other[name].shape for name in one
    )  # fmt: skip


@pytest.mark.parametrize(("layout", "head"), VITS)
@pytest.mark.parametrize("hidden", [0, 12])
def test_vits_round_trip_bit_for_bit(layout: str, head: str, hidden: int) -> None:
    arrays = official_files.make_vit(layout, head, hidden)
    assert equal(dict(official.write_official(official.read_official(arrays, "file.npz"))), arrays)


@pytest.mark.parametrize("layers", [(), (1,), (2, 1)])
def test_hybrids_round_trip_bit_for_bit(layers: tuple[int, ...]) -> None:
    arrays = official_files.make_hybrid(layers)
    assert equal(dict(official.write_official(official.read_official(arrays, "file.npz"))), arrays)


@pytest.mark.parametrize("layout", official_files.BIT_LAYOUTS)
@pytest.mark.parametrize("layers", [(1, 1, 1, 1), (2, 1)])
def test_bit_round_trips_bit_for_bit(layout: str, layers: tuple[int, ...]) -> None:
    arrays = official_files.make_bit(layout, layers)
    assert equal(dict(official.write_official(official.read_official(arrays, "file.npz"))), arrays)


@given(
    st.sampled_from(VITS), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3),
    st.integers(1, 4), st.integers(0, 3), st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_sizes_round_trip(
    kind: tuple[str, str], heads: int, depth: int, patch: int, side: int, channels: int, hidden: int, classes: int
) -> None:
    layout, head = kind
    arrays = official_files.make_vit(
        layout, head, hidden=hidden, dim=8, depth=depth, heads=heads, mlp=6, patch=patch, grid=(side, side),
        channels=channels, classes=classes,
    )  # fmt: skip
    weights = official.read_official(arrays, "file.npz")
    spec = weights.spec
    assert (spec.heads, spec.depth, spec.patch, spec.grid) == (heads, depth, patch, (side, side))
    assert (spec.channels, spec.hidden, spec.classes, spec.head) == (channels, hidden, classes, head)
    assert len(weights.about.mean) == channels
    assert equal(dict(official.write_official(weights)), arrays)


def test_known_sizes_get_their_names() -> None:
    arrays = official_files.make_vit("original", dim=32, depth=1, heads=2, mlp=128, patch=16, grid=(14, 14), classes=9)
    spec = official.read_official(arrays, "file.npz").spec
    assert spec == model_spec("vit-mu/16", classes=9)
    bit = official.read_official(official_files.make_bit("big_transfer", (3, 4, 6, 3), 1), "file.npz").spec
    assert bit == model_spec("bit-r50x1", classes=5)


@pytest.mark.parametrize("prefix", ["opt/target/", "params/img/", "params/"])
def test_prefixes_are_found_and_other_arrays_noted(prefix: str) -> None:
    plain = official_files.make_vit("original")
    arrays = {prefix + name: array for name, array in plain.items()} | {"opt/state/step": np.ones(1, np.float32)}
    weights = official.read_official(arrays, "file.npz")
    assert f"1 array outside {prefix!r} ignored (opt/state/step)" in weights.notes
    assert equal(dict(official.write_official(weights)), plain)


def test_bfloat16_stored_as_void_is_read_and_written() -> None:
    arrays = official_files.make_vit("big_vision")
    half = {
        name: torch.from_numpy(array).to(torch.bfloat16).view(torch.int16).numpy().view("V2")
        for name, array in arrays.items()
    }
    weights = official.read_official(half, "file.npz")
    assert {tensor.dtype for tensor in weights.tensors.values()} == {torch.bfloat16}
    kernel = torch.from_numpy(arrays["params/embedding/kernel"]).permute(3, 2, 0, 1)
    assert torch.equal(weights.tensors["patch_embed.proj.weight"], kernel.to(torch.bfloat16))
    assert equal(dict(official.write_official(weights)), half)


def test_old_norms_of_four_dimensions_are_read() -> None:
    old, new = (
        official.read_official(official_files.make_hybrid((1,), old_norms=kind), "f").tensors for kind in (True, False)
    )
    assert all(torch.equal(old[name], new[name]) for name in new)


def test_missing_and_unused_arrays_are_named() -> None:
    arrays = official_files.make_vit("original")
    del arrays["Transformer/encoder_norm/scale"]
    arrays["Transformer/surprise"] = np.ones(3, np.float32)
    with pytest.raises(
        WeightsError, match=r"lacks 1 tensor \(Transformer/encoder_norm/scale\) and has 1 unexpected tensor"
    ):
        official.read_official(arrays, "file.npz")
    weights = official.read_official(arrays, "file.npz", allow_missing=True)
    assert "norm.weight" not in weights.tensors
    assert any("Transformer/surprise" in note for note in weights.notes)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("embedding/kernel", "file.npz: has no first layer of a Vision Transformer or a BiT ResNet"),
        (MLP, f"file.npz: the array '{MLP}' is missing"),
    ],
)
def test_a_missing_array_is_one_line(gone: str, message: str) -> None:
    arrays = official_files.make_vit("original")
    del arrays[gone]
    with pytest.raises(WeightsError, match=f"^{message}$"):
        official.read_official(arrays, "file.npz")


def test_a_head_of_zeros_is_noted() -> None:
    arrays = official_files.make_vit("original")
    assert official.read_official(arrays, "f").notes == ()
    arrays["head/kernel"][:] = 0
    assert official.read_official(arrays, "f").notes == ("its head is all zeros: features only",)


def test_a_file_without_positions_has_fixed_ones() -> None:
    arrays = official_files.make_vit("big_vision", "gap", dim=16, patch=16, grid=(14, 14))
    del arrays["params/pos_embedding"]
    weights = official.read_official(arrays, "f")
    assert weights.spec.positions == "sincos"
    assert weights.spec.grid == (14, 14)
    (note,) = weights.notes
    assert note == "the file has no position embeddings; big_vision's fixed sin-cos at 224x224 are used"


def test_positions_that_are_not_a_square_grid() -> None:
    with pytest.raises(WeightsError, match="f: 10 positions are not a square grid, with or without a class token"):
        official.read_official(official_files.make_vit("original", "gap", grid=(2, 5)), "f")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "2d", "class_position": False}, r"positions 2d \(only 1d"),
        ({"positions": "sincos"}, r"positions sincos \(only 1d\)"),
        ({"positions": "sincos", "class_position": False, "width": 32, "height": 32}, r"positions sincos \(only 1d\)"),
        ({"positions": "sincos-mae"}, r"positions sincos-mae \(only 1d\)"),
        ({"gelu": "erf"}, r"gelu erf \(only tanh\)"),
        ({"norm_eps": 1e-5}, r"norm_eps 1e-05 \(only 1e-06\)"),
        ({"qkv_bias": False}, r"qkv_bias False \(only True\)"),
        ({"numerics": "timm"}, r"numerics timm \(only official\)"),
        ({"pad": True}, r"pad True \(only False\)"),
        ({"registers": 2}, "registers 2"),
        ({"layer_scale": True}, "layer_scale True"),
        ({"width": 448}, r"width 448 \(only 224\)"),
        ({"head": "gap", "class_token": True}, r"head gap \(only cls\)"),
        ({"norm": "pooled"}, "norm pooled"),
    ],
)
def test_fields_that_the_layout_cannot_store_are_rejected(options: dict[str, Any], message: str) -> None:
    spec: ModelSpec = model_spec("vit-mu/16", **options)
    with pytest.raises(UsageError, match=f"the official npz layout cannot store .*{message}"):
        official.write_official(Weights(spec, {}, About("test")))


def test_another_normalization_is_rejected() -> None:
    about = About("test", mean=IMAGENET[0], std=IMAGENET[1])
    with pytest.raises(UsageError, match=r"mean \[0.485, .*\] \(only 0.5\), std \[0.229, .*vitctl export --format npz"):
        official.write_official(Weights(model_spec("vit-mu/16"), {}, about))


def test_a_resnet_is_read_and_written_at_224_only() -> None:
    weights = official.read_official(official_files.make_bit(official_files.BIT_LAYOUTS[0], (1,)), "f")
    with pytest.raises(UsageError, match=r"height 48 \(only 224\)"):
        official.write_official(replace(weights, spec=weights.spec.replace(height=48, width=48)))
