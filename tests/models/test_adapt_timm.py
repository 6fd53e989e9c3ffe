"""timm's own models for other classes, channels and sizes, against timm doing the same."""

import json
import warnings
from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import nn

from vitctl.config.model import model_spec
from vitctl.config.res import Res
from vitctl.errors import UsageError
from vitctl.io.weights import About, Weights
from vitctl.models.adapt import adapt_weights, change_kernel_channels, keep_head
from vitctl.models.adapt_timm import NO_TENSOR, can_resize, has_rate, timm_head_names, timm_layers
from vitctl.models.create import collect_tensors, create_model
from vitctl.workflows.inputs.weights import load_model

FAMILIES: dict[str, dict[str, Any]] = {
    "vit_base_patch16_clip_224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "deit_tiny_distilled_patch16_224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "vit_small_patch16_dinov3": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "eva02_tiny_patch14_224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1), "embed_dim": 32, "num_heads": (2, 2)},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)},
    "resnet10t": {},
    "mixer_s32_224": {},
    "vit_relpos_small_patch16_224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "cait_xxs24_224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "samvit_base_patch16_224": {"depth": 3, "embed_dim": 64, "num_heads": 2},
}
RESIZABLE = ("vit_base", "deit", "vit_small", "vit_relpos", "eva", "beit", "swin", "convnext", "resnet")


def weights_of(name: str, side: int = 224) -> tuple[nn.Module, Weights]:
    """A model with noise on every tensor, and its weights."""
    options = json.dumps(FAMILIES[name])
    spec = model_spec(f"timm:{name}", height=side, width=side, classes=5, timm_args=options)
    model = create_model(spec).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=random) * 0.05)
                tensor.abs_().add_(0.1) if key.endswith("running_var") else None
    return model, Weights(spec, collect_tensors(model), About("timm", class_names=("a", "b", "c", "d", "e")))


@torch.no_grad()
def answer(model: nn.Module, channels: int = 3, height: int = 224, width: int = 224) -> torch.Tensor:
    return model.eval()(torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_head_is_zeros_and_leaves_the_features(name: str) -> None:
    model, weights = weights_of(name)
    new = load_model(adapt_weights(weights, classes=3))
    assert torch.equal(answer(new), torch.zeros(2, 3))
    old, changed = (
        each.forward_head(each.forward_features(torch.ones(1, 3, 224, 224)), pre_logits=True)  # type: ignore[operator]
        for each in (model, new)
    )
    assert torch.equal(old, changed)
    again = adapt_weights(adapt_weights(weights, classes=0), classes=3)
    assert torch.equal(answer(load_model(again)), torch.zeros(2, 3))


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_a_head_follow_the_classes(name: str) -> None:
    model, weights = weights_of(name)
    order = ("c", "a", "e", "b", "d")
    logits = answer(load_model(keep_head(weights, order)))
    torch.testing.assert_close(logits, answer(model)[:, [2, 0, 4, 1, 3]])


@pytest.mark.parametrize("name", FAMILIES)
def test_gray_images_give_what_they_give_in_every_channel(name: str) -> None:
    model, weights = weights_of(name)
    gray = torch.randn(2, 1, 224, 224)
    with torch.no_grad():
        expected = model(gray.repeat(1, 3, 1, 1))
        torch.testing.assert_close(load_model(adapt_weights(weights, channels=1))(gray), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_another_size_is_resampled_by_timm_or_refused_in_words(name: str) -> None:
    _, weights = weights_of(name)
    assert can_resize(weights.spec, Res(160, 192)) == name.startswith(RESIZABLE)
    if not name.startswith(RESIZABLE):
        with pytest.raises(UsageError, match=f"timm:{name}: cannot take images of 160x192 .*its own size is 224x224"):
            adapt_weights(weights, 160, 192)
        return
    new = adapt_weights(weights, 160, 192)
    logits = answer(load_model(new), height=160, width=192)
    assert logits.isfinite().all()
    assert (new.spec.height, new.spec.width) == (160, 192)
    is_free = name.startswith(("vit_small_patch16_dinov3", "convnext", "resnet", "vit_relpos", "swin"))
    assert (new.about.history[-1]["method"] == NO_TENSOR) == is_free
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("swin"):  # whose set_input_size also changes the windows
            theirs = timm.create_model(name, num_classes=5, img_size=(160, 192), **FAMILIES[name])
            theirs.load_state_dict(checkpoint_filter_fn(dict(weights.tensors), theirs))
        else:
            theirs = timm.create_model(name, num_classes=5, **FAMILIES[name])
            theirs.load_state_dict(weights.tensors)
            if hasattr(theirs, "set_input_size"):
                theirs.set_input_size(img_size=(160, 192))
    torch.testing.assert_close(logits, answer(theirs, height=160, width=192), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_and_heads_are_those_of_timm(name: str) -> None:
    model, weights = weights_of(name)
    layers, head = timm_layers(model), timm_head_names(weights.spec)
    assert set(layers) == {name for name, _ in model.named_parameters()}
    assert head
    assert {layers[each] for each in head} == {max(layers.values())}
    assert min(layers.values()) == 0 < max(layers.values())


def test_rates_that_an_architecture_lacks_are_known() -> None:
    assert has_rate(model_spec("timm:resnet10t"), "drop_path")
    assert not has_rate(model_spec("timm:vgg11"), "drop_path")


def test_channels_are_changed_as_in_our_own_models() -> None:
    _, weights = weights_of("resnet10t")
    kernel = weights.tensors["conv1.0.weight"]
    assert torch.equal(adapt_weights(weights, channels=4).tensors["conv1.0.weight"], change_kernel_channels(kernel, 4))
