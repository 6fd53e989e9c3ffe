from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.models import official_files, tiny
from tests.models.tiny import NO_TOKEN
from vitctl.config.model import ModelSpec
from vitctl.errors import ConfigError
from vitctl.io import official
from vitctl.io.weights import HALF, IMAGENET, About, Weights
from vitctl.models.adapt import (
    adapt_weights,
    change_kernel_channels,
    classes_differ,
    keep_head,
    pool_norm,
    replace_head,
)
from vitctl.models.create import build_module, collect_tensors, create_model, load_tensors

TINY: dict[str, Any] = tiny.TINY | {"depth": 2}
BIT: dict[str, Any] = NO_TOKEN | {"family": "bit", "layers": (1, 2), "patch": 1, "positions": "none", "height": 40}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {},
    "hidden": {"hidden": 24},
    "2d": {"positions": "2d", "registers": 2},
    "map": NO_TOKEN | {"head": "map"},
    "axial": NO_TOKEN | {"family": "axial"},
    "stem": {"family": "hybrid", "patch": 1},
    "hybrid": {"family": "hybrid", "patch": 1, "layers": (1,)},
    "bit": BIT,
}
STANDARDIZED = ("stem", "hybrid", "bit")  # the first layer divides its kernel by the deviation
LINEAR = [name for name in FAMILIES if name not in STANDARDIZED]


def weights_of(name: str, **options: Any) -> Weights:
    """Weights in float64, every number a little away from where it began."""
    spec = ModelSpec("t", **TINY | FAMILIES[name] | options)
    random = torch.Generator().manual_seed(1)
    tensors = {
        key: tensor.double() + 0.1 * torch.randn(tensor.shape, generator=random, dtype=torch.float64)
        for key, tensor in collect_tensors(create_model(spec)).items()
    }
    about = About("test", "somewhere", class_names=tuple("abcde"), history=({"step": "born"},))
    about = replace(
        about, mean=(HALF[0] * spec.channels)[: spec.channels], std=(HALF[1] * spec.channels)[: spec.channels]
    )
    return Weights(spec, tensors, about, {"mask_token": torch.ones(1)}, ("a note",))


def model_of(weights: Weights) -> nn.Module:
    model = build_module(weights.spec).double()
    assert load_tensors(model, weights.tensors, "test") == ()
    return model.eval()


def answer(weights: Weights, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model_of(weights)(images)


def gray(spec: ModelSpec) -> torch.Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randn(2, 1, spec.height, spec.width, generator=random, dtype=torch.float64)


def first_of(weights: Weights, other: Weights) -> str:
    """The name of the only tensor in which they differ."""
    assert weights.tensors.keys() == other.tensors.keys()
    result = [
        key
        for key, tensor in weights.tensors.items()
        if tensor.shape != other.tensors[key].shape or not torch.equal(tensor, other.tensors[key])
    ]
    assert len(result) == 1
    return result[0]


# channels


@pytest.mark.parametrize("name", LINEAR)
def test_a_gray_image_is_answered_as_it_was_in_three_channels(name: str) -> None:
    weights = weights_of(name)
    one, images = adapt_weights(weights, channels=1), gray(weights.spec)
    expected = answer(weights, images.expand(-1, 3, -1, -1))
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(answer(one, images), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("channels", [2, 3, 4, 7])
@pytest.mark.parametrize("name", LINEAR)
def test_a_gray_model_takes_colors_and_answers_gray_ones_as_before(name: str, channels: int) -> None:
    weights = weights_of(name, channels=1)
    more, images = adapt_weights(weights, channels=channels), gray(weights.spec)
    expected = answer(weights, images)
    torch.testing.assert_close(answer(more, images.expand(-1, channels, -1, -1)), expected, atol=1e-12, rtol=0)
    shades = images + torch.arange(float(channels))[:, None, None]  # one color from another
    mean = adapt_weights(more, channels=1)
    torch.testing.assert_close(answer(more, shades), answer(mean, shades.mean(1, keepdim=True)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", STANDARDIZED)
def test_where_kernels_are_standardized_gray_is_answered_nearly_as_before(name: str) -> None:
    """Three equal channels are three times as bright behind such a layer, and the next norm divides that out."""
    weights = weights_of(name, channels=1)
    more, images = adapt_weights(weights, channels=3), gray(weights.spec)
    expected = answer(weights, images)
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    torch.testing.assert_close(answer(more, images.expand(-1, 3, -1, -1)), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", STANDARDIZED)
def test_where_kernels_are_standardized_one_channel_is_only_like_three(name: str) -> None:
    """The sum of three kernels has another deviation than each: every output is scaled by a little of its own."""
    weights = weights_of(name)
    one, images = adapt_weights(weights, channels=1), gray(weights.spec)
    with torch.no_grad():
        expected = features_of(model_of(weights), images.expand(-1, 3, -1, -1)).flatten(1)
        result = features_of(model_of(one), images).flatten(1)
    assert (nn.functional.cosine_similarity(result, expected) > 0.98).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_first_layer_is_touched_and_it_comes_back(name: str) -> None:
    weights = weights_of(name)
    for channels in (1, 2, 4, 5, 9):
        other = adapt_weights(weights, channels=channels)
        place = first_of(other, weights)
        kernel = weights.tensors[place]
        assert kernel.shape[1] == 3
        assert other.tensors[place].shape == (kernel.shape[0], channels, *kernel.shape[2:])
        assert other.spec == weights.spec.replace(channels=channels)
        random = torch.randn(2, channels, weights.spec.height, weights.spec.width, dtype=torch.float64)
        assert answer(other, random).shape == (2, 5)
        back = adapt_weights(other, channels=3)
        assert back.spec == weights.spec
        if channels > 2:
            torch.testing.assert_close(back.tensors[place], kernel, atol=1e-15, rtol=1e-15)
    assert weights.about.history == ({"step": "born"},)


def test_five_channels_are_the_three_in_turn_and_keep_the_size_of_the_answer() -> None:
    weights = weights_of("vit")
    kernel = weights.tensors["patch_embed.proj.weight"]
    five = adapt_weights(weights, channels=5).tensors["patch_embed.proj.weight"]
    for channel in range(5):
        torch.testing.assert_close(five[:, channel], kernel[:, channel % 3] * 3 / 5)


@settings(max_examples=60, deadline=None)
@given(old=st.integers(1, 8), new=st.integers(1, 8), seed=st.integers(0, 5))
def test_recoloring_keeps_the_answer_to_gray_where_it_can(old: int, new: int, seed: int) -> None:
    """To one channel always; to more, where every old channel is repeated as often as every other."""
    random = torch.Generator().manual_seed(seed)
    kernel = torch.randn(6, old, 2, 3, generator=random, dtype=torch.float64)
    result = change_kernel_channels(kernel, new)
    assert result.shape == (6, new, 2, 3)
    if new == 1 or new % old == 0:
        torch.testing.assert_close(result.sum(1), kernel.sum(1))
    if new >= old:
        torch.testing.assert_close(
            change_kernel_channels(result, old) if old > 1 else result.sum(1, keepdim=True), kernel
        )
    constant = kernel[:, :1].expand(-1, old, -1, -1)  # all channels alike: every number of channels agrees on gray
    torch.testing.assert_close(change_kernel_channels(constant, new).sum(1), constant.sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recoloring_keeps_the_precision(dtype: torch.dtype) -> None:
    kernel = torch.randn(4, 3, 2, 2).to(dtype)
    assert {change_kernel_channels(kernel, channels).dtype for channels in (1, 2, 3, 5)} == {dtype}


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        (1, (sum(IMAGENET[0]) / 3,), (sum(IMAGENET[1]) / 3,)),
        (2, IMAGENET[0][:2], IMAGENET[1][:2]),
        (5, (*IMAGENET[0], *IMAGENET[0][:2]), (*IMAGENET[1], *IMAGENET[1][:2])),
    ],
)
def test_mean_and_deviation_follow_their_channels(
    channels: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    weights = weights_of("vit")
    weights = replace(weights, about=replace(weights.about, mean=IMAGENET[0], std=IMAGENET[1]))
    about = adapt_weights(weights, channels=channels).about
    assert about.mean == pytest.approx(mean)
    assert about.std == pytest.approx(std)
    assert about.history[1:] == (
        {"step": "channels", "from": 3, "to": channels, "method": "sum" if channels == 1 else "repeat and scale"},
    )


@pytest.mark.parametrize("old", [1, 3, 4])
@pytest.mark.parametrize("new", [1, 2, 3, 8])
def test_every_channel_has_a_mean(old: int, new: int) -> None:
    about = adapt_weights(weights_of("vit", channels=old), channels=new).about
    assert (len(about.mean), len(about.std)) == (new, new)


# heads


@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_head_is_zero_and_the_rest_is_as_it_was(name: str) -> None:
    weights = weights_of(name)
    new = adapt_weights(weights, classes=9)
    assert new.spec == weights.spec.replace(classes=9, hidden=0)
    images = gray(weights.spec).expand(-1, 3, -1, -1)
    assert torch.equal(answer(new, images), torch.zeros(2, 9, dtype=torch.float64))
    kept = {key: tensor for key, tensor in weights.tensors.items() if not key.startswith(("head", "pre_logits"))}
    assert all(new.tensors[key] is tensor for key, tensor in kept.items())
    heads = {"head.fc.weight", "head.fc.bias"} if name == "bit" else {"head.weight", "head.bias"}
    assert new.tensors.keys() - kept.keys() == heads
    assert new.about.class_names == ()
    assert new.about.history == ({"step": "born"}, {"step": "head", "from": 5, "to": 9, "method": "zeros"})
    with torch.no_grad():
        features = [features_of(model_of(each), images) for each in (new, replace_hidden(weights))]
    torch.testing.assert_close(*features)


def test_a_new_head_may_be_drawn() -> None:
    drawn, again, other = (replace_head(weights_of("vit"), 9, 0.5, seed) for seed in (1, 1, 2))
    assert drawn.tensors["head.weight"].std() > 0.3
    assert not drawn.tensors["head.bias"].any()
    assert torch.equal(drawn.tensors["head.weight"], again.tensors["head.weight"])
    assert not torch.equal(drawn.tensors["head.weight"], other.tensors["head.weight"])
    assert drawn.about.history[-1] == {"step": "head", "from": 5, "to": 9, "method": "normal 0.5"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_kept_head_gives_the_same_answers_in_another_order(name: str) -> None:
    weights = weights_of(name)  # of classes a to e
    kept = keep_head(weights, ("c", "a", "e", "b", "d"))
    images = gray(weights.spec).expand(-1, 3, -1, -1)
    torch.testing.assert_close(answer(kept, images), answer(weights, images)[:, [2, 0, 4, 1, 3]])
    assert kept.spec == weights.spec
    assert kept.about.history[1:] == (
        {"step": "head", "from": 5, "to": 5, "method": "kept, with rows reordered to the classes of the data"},
    )


@pytest.mark.parametrize(
    ("own", "names", "method"),
    [
        ("abcde", "abcde", "kept"),
        ("aabcd", "aabcd", "kept"),  # as ImageNet's two cranes
        ("", "vwxyz", "kept; the weights have no class names, so their order is assumed to be that of the data"),
    ],
)
def test_a_head_is_kept_as_it_is_where_nothing_says_otherwise(own: str, names: str, method: str) -> None:
    weights = weights_of("vit")
    weights = replace(weights, about=replace(weights.about, class_names=tuple(own)))
    assert classes_differ(weights, tuple(names)) == ""
    kept = keep_head(weights, tuple(names))
    assert kept.tensors == weights.tensors
    assert kept.about.history[-1]["method"] == method


@pytest.mark.parametrize(
    ("own", "names", "why"),
    [
        ("abcde", "abcd", "the weights have 5 classes and the data 4"),
        ("", "abcdef", "the weights have 5 classes and the data 6"),
        ("abcde", "abcxy", "the weights lack 2 classes of the data (x, y)"),
        ("abcde", "vwxyz", "the weights lack 5 classes of the data (v, w, x, ...)"),
        ("aabcd", "abacd", "the weights have two classes of the same name"),
    ],
)
def test_in_what_classes_differ(own: str, names: str, why: str) -> None:
    weights = weights_of("vit")
    assert classes_differ(replace(weights, about=replace(weights.about, class_names=tuple(own))), tuple(names)) == why
    assert classes_differ(adapt_weights(weights, classes=0), tuple(names)) == "the weights have no head"


def test_a_pooled_norm_is_the_norm_of_the_mean() -> None:
    weights = weights_of("vit")
    pooled = pool_norm(replace(weights, spec=replace(weights.spec, head="gap")))
    assert pooled.spec.norm == "pooled"
    model, images = model_of(pooled), gray(weights.spec).expand(-1, 3, -1, -1)
    with torch.no_grad():
        *_, tokens = model.layers(images)
        mean = nn.functional.layer_norm(tokens[:, 1:].mean(1), (weights.spec.dim,), eps=weights.spec.norm_eps)
        torch.testing.assert_close(answer(pooled, images), model.head(mean))


def features_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.forward_features(images), pre_logits=True)


def replace_hidden(weights: Weights) -> Weights:
    """The same features, before the hidden layer of a pretraining head."""
    if not weights.spec.hidden:
        return weights
    tensors = {key: value for key, value in weights.tensors.items() if not key.startswith(("head", "pre_logits"))}
    return replace(weights, spec=weights.spec.replace(hidden=0, classes=0), tensors=tensors)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_head_learns(name: str) -> None:
    new = adapt_weights(weights_of(name), classes=9)
    model = model_of(new).train()
    model(gray(new.spec).expand(-1, 3, -1, -1))[:, 3].sum().backward()
    head = model.head.fc if name == "bit" else model.head
    assert head.weight.grad[3].abs().max() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_no_classes_are_no_head(name: str) -> None:
    new = adapt_weights(weights_of(name), classes=0)
    assert new.spec.classes == 0
    assert not any(key.startswith(("head", "pre_logits")) for key in new.tensors)
    features = answer(new, gray(new.spec).expand(-1, 3, -1, -1))
    assert features.shape == (2, 512 if name == "bit" else 32)
    again = adapt_weights(new, classes=4)
    assert torch.equal(answer(again, gray(new.spec).expand(-1, 3, -1, -1)), torch.zeros(2, 4, dtype=torch.float64))


# together


@pytest.mark.parametrize("name", FAMILIES)
def test_what_fits_already_stays_the_same(name: str) -> None:
    weights = weights_of(name)
    assert adapt_weights(weights) is weights
    spec = weights.spec
    assert adapt_weights(weights, spec.height, spec.width, spec.channels, spec.classes) is weights


@pytest.mark.parametrize("name", FAMILIES)
def test_size_channels_and_classes_together(name: str) -> None:
    weights = weights_of(name)
    new = adapt_weights(weights, 16, 20, channels=1, classes=7)
    assert new.spec == weights.spec.replace(height=16, width=20, channels=1, classes=7, hidden=0)
    assert answer(new, gray(new.spec)).shape == (2, 7)
    steps = [step["step"] for step in new.about.history]
    assert steps == ["born", *(["positions"] if name != "bit" else []), "channels", "head"]
    assert (new.about.source, new.notes, new.extra) == (weights.about.source, weights.notes, weights.extra)
    apart = adapt_weights(adapt_weights(adapt_weights(weights, classes=7), channels=1), 16, 20)
    assert apart.spec == new.spec
    assert apart.tensors.keys() == new.tensors.keys()
    assert all(torch.equal(tensor, new.tensors[key]) for key, tensor in apart.tensors.items())


def test_one_side_may_be_given_alone_and_a_method_is_used() -> None:
    weights = weights_of("vit")
    assert adapt_weights(weights, height=16).spec.grid == (4, 3)
    assert adapt_weights(weights, width=16).spec.grid == (2, 4)
    new = adapt_weights(weights, height=16, method="bicubic")
    assert new.about.history[-1]["method"] == "bicubic"
    assert not torch.equal(new.tensors["pos_embed"], adapt_weights(weights, height=16).tensors["pos_embed"])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="the nearest are 8x12 and 12x12"):
        adapt_weights(weights_of("vit"), height=9)
    with pytest.raises(ConfigError, match="classes is -1"):
        adapt_weights(weights_of("vit"), classes=-1)
    with pytest.raises(ConfigError, match="channels is -1"):
        adapt_weights(weights_of("vit"), channels=-1)


@pytest.mark.parametrize("layout", official_files.BIT_LAYOUTS)
def test_an_official_bit_file_is_fitted_to_other_images_and_classes(layout: str) -> None:
    weights = official.read_official(official_files.make_bit(layout, (1, 1)), "test")
    new = adapt_weights(weights, 33, 47, channels=4, classes=3)
    model = build_module(new.spec)
    load_tensors(model, new.tensors, "test")
    with torch.no_grad():
        assert torch.equal(model(torch.randn(2, 4, 33, 47)), torch.zeros(2, 3))
        assert features_of(model, torch.randn(2, 4, 33, 47)).isfinite().all()
    assert new.tensors["head.fc.weight"].shape == (3, 512, 1, 1)
