"""Writers lose nothing silently: weights round-trip, or the error names every field that the format cannot store."""

import copy
import dataclasses
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from vitctl.config.model import ModelSpec, model_spec
from vitctl.errors import ConfigError, UsageError
from vitctl.io import official, timm_folder
from vitctl.io.capabilities import NOT_COMPUTED, Capabilities, find_lost_fields
from vitctl.io.hugging_face import writer as hugging_face
from vitctl.io.save import save_as
from vitctl.io.weights import HALF, IMAGENET, About, Weights, for_channels
from vitctl.models.create import collect_tensors, create_model
from vitctl.workflows.inputs.weights import load_model, load_weights

FORMATS = ("vitctl", "npz", "timm", "hf")
CAPABILITIES = {"npz": official.CAPABILITIES, "timm": timm_folder.CAPABILITIES, "hf": hugging_face.CAPABILITIES}
FIELDS = {field.name for field in dataclasses.fields(ModelSpec)} | {"mean", "std"}
BASES = {  # a head of "cls" has a class token, and so on
    "vit": ModelSpec("vit", height=16, width=16, classes=3, patch=8, dim=16, depth=1, heads=2, mlp=24),
    "axial": model_spec("axial-vit-mu/8", height=16, width=16, classes=3),
    "bit": model_spec("bit-r50x1", height=16, width=16, classes=3, layers=(1,)),
}
OTHERS: dict[str, list[Any]] = {
    "height": [24, 224, 12], "width": [24, 224], "classes": [0, 1], "channels": [1, 4], "heads": [4], "depth": [2],
    "head": ["gap", "map"], "class_token": [True, False], "class_position": [False], "registers": [2], "hidden": [8],
    "positions": ["none", "2d", "relative", "sincos", "sincos-mae"], "added": ["every", "shared"], "norm": ["pooled"],
    "layer_scale": [True], "qkv_bias": [False], "gelu": ["erf"], "norm_eps": [1e-5], "numerics": ["timm"],
    "pad": [True], "dropout": [0.1], "factor": [2], "layers": [(1, 1)],
}  # fmt: skip


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    """A plain model with a few fields changed."""
    family = draw(st.sampled_from(["vit"] * 8 + ["axial", "bit"]))
    spec = BASES[family]
    for name in draw(st.lists(st.sampled_from(sorted(OTHERS)), max_size=3, unique=True)):
        try:
            spec = spec.replace(**{name: draw(st.sampled_from(OTHERS[name]))})
            collect_tensors(create_model(spec))
        except (ConfigError, ValueError, AssertionError, RuntimeError, TypeError):
            reject()  # an impossible model
    values = draw(st.sampled_from([HALF, HALF, IMAGENET, ((0.1,) * 3, (0.9, 0.8, 0.7)), (HALF[0], IMAGENET[1])]))
    mean, std = (for_channels(each, spec.channels) for each in values)
    model = create_model(spec, seed=draw(st.integers(0, 3)), head_std=0.5)
    return Weights(spec, collect_tensors(model), About("test", mean=mean, std=std))


def computed_fields(spec: ModelSpec) -> dict[str, Any]:
    """The fields that affect the result. A table filled with sin-cos values is a table."""
    fields = {name: value for name, value in spec.as_dict().items() if name not in NOT_COMPUTED}
    if spec.added == "stem" and spec.positions.startswith("sincos"):
        fields["positions"] = "1d"
    if spec.family == "bit":  # without a Transformer
        return {name: fields[name] for name in ("family", "height", "width", "channels", "classes", "layers", "factor")}
    if spec.family == "vit":
        fields["numerics"] = "official"
    return fields | ({"class_position": False} if not spec.prefix else {})


@settings(max_examples=150, deadline=None)
@given(weights(), st.sampled_from(FORMATS))
def test_weights_round_trip_or_the_lost_fields_are_named(original: Weights, format: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w"
        try:
            save_as(original, path, format)
        except UsageError as error:
            assert format != "vitctl"
            named = re.findall(r"(\w+) (?:\[[^]]*\]|\([^)]*\)|[\w.-]+) \(only", str(error))
            assert named, error
            assert set(named) <= FIELDS
            assert not path.exists()
            return
        back = load_weights(path)
        assert computed_fields(back.spec) == computed_fields(original.spec)
        assert (back.about.mean, back.about.std) == (original.about.mean, original.about.std)
        images = torch.randn(1, original.spec.channels, original.spec.height, original.spec.width)
        with torch.no_grad():
            torch.testing.assert_close(load_model(back)(images), load_model(original)(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("format", CAPABILITIES)
def test_a_field_that_no_table_lists_is_rejected_by_name(format: str) -> None:
    """Like a new option of models: every field in turn gets a value that no table lists."""
    capabilities: Capabilities = CAPABILITIES[format]
    for field in dataclasses.fields(ModelSpec):
        spec = copy.copy(model_spec("vit-mu/16"))
        object.__setattr__(spec, field.name, "unheard-of")
        if field.name not in (*NOT_COMPUTED, *capabilities.fields):
            assert find_lost_fields(spec, capabilities) == [f"{field.name} unheard-of (only {field.default})"]


@pytest.mark.parametrize(("name", "format"), [("r+vit-ti/16", "timm"), ("r+vit-ti/16", "npz"), ("bit-r50x1", "timm")])
def test_hybrids_and_resnets_round_trip(name: str, format: Any, tmp_path: Path) -> None:
    numerics: Any = "timm" if format == "timm" else "official"
    options = {"layer_scale": True, "registers": 2} if (name, format) == ("r+vit-ti/16", "timm") else {}
    model = create_model(name, classes=2, numerics=numerics, height=64, width=64, head_std=0.5, **options)
    weights = Weights(model.spec, collect_tensors(model), About("test"))  # type: ignore[arg-type]
    save_as(weights, tmp_path / "w", format)
    assert load_weights(tmp_path / "w").spec == weights.spec
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "w")(images), load_model(weights)(images))
    other = weights.spec.replace(numerics="official" if format == "timm" else "timm")
    with pytest.raises(UsageError, match="numerics"):
        save_as(replace(weights, spec=other), tmp_path / "other", format)


def test_a_hybrid_of_other_sizes_does_not_get_the_name_of_a_known_one(tmp_path: Path) -> None:
    model = create_model("r+vit-ti/16", depth=2, numerics="timm")
    with pytest.raises(UsageError, match=r"family hybrid \(only vit\)"):
        save_as(Weights(model.spec, collect_tensors(model), About("test")), tmp_path / "w", "timm")  # type: ignore[arg-type]
