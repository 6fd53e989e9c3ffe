"""vitctl's file of weights: everything round-trips, and damage is noticed."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vitctl.config.model import model_spec
from vitctl.errors import WeightsError
from vitctl.io.recognize import open_weights
from vitctl.io.weights import FORMAT, About, Weights, describe_differences, save_weights, settle, write_safetensors
from vitctl.models.create import create_model, weights_of


def make(dtype: torch.dtype = torch.float32) -> Weights:
    torch.manual_seed(0)
    tensors = {"pos_embed": torch.randn(1, 13, 32, dtype=dtype), "head.weight": torch.randn(4, 32, dtype=dtype)}
    spec = model_spec("vit-mu/16", height=48, width=64, classes=4, gelu="erf")
    history = ({"step": "positions", "from": [14, 14], "to": [3, 4], "method": "official"},)
    about = About("test", "somewhere", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("a", "b", "ü", "d"), history, {"seed": 3})
    return Weights(spec, tensors, about, {"mask_token": torch.ones(1, 1, 32)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_everything_round_trips(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = make(dtype)
    digest = save_weights(weights, tmp_path / "w.safetensors")
    back = open_weights(tmp_path / "w.safetensors")
    assert (back.spec, back.about, back.stated) == (weights.spec, weights.about, digest)
    for one, other in ((back.tensors, weights.tensors), (back.extra, weights.extra)):
        assert sorted(one) == sorted(other)
        assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)
    assert back.digest() == digest


def test_any_reader_of_safetensors_loads_the_tensors(tmp_path: Path) -> None:
    save_weights(make(), tmp_path / "w.safetensors")
    assert torch.equal(load_file(tmp_path / "w.safetensors")["pos_embed"], make().tensors["pos_embed"])


def test_saving_twice_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_weights(make(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_digest_depends_on_values_names_and_spec() -> None:
    weights = make()
    other = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    other["head.weight"][0, 0] += 1e-6
    renamed = {"pos_embed": weights.tensors["pos_embed"], "head.wight": weights.tensors["head.weight"]}
    digests = [
        weights.digest(),
        replace(weights, tensors=other).digest(),
        replace(weights, tensors=renamed).digest(),
        replace(weights, spec=weights.spec.replace(gelu="tanh")).digest(),
        replace(weights, extra={}).digest(),
    ]
    assert len(set(digests)) == len(digests)
    assert replace(weights, about=About("other")).digest() == weights.digest()


def test_another_version_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(make(), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"version":"1"', b'"version":"9"'))
    with pytest.raises(WeightsError, match=r"weights version 9, but this vitctl reads version 1; update vitctl$"):
        open_weights(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"mean": []}, {"mean": [0.5, 0.5]}, {"mean": "abc"}, {"mean": [None] * 3}, {"std": [0.5, 0, 0.5]},
        {"std": [math.nan] * 3}, {"std": [math.inf] * 3}, {"std": [-1.0] * 3}, {"std": 0.5}, {"mean": [10**400] * 3},
        {"class_names": "abcd"}, {"class_names": ["a"]}, {"class_names": [1, 2, 3, 4]}, {"history": [1]},
        {"history": {"a": 1}}, {"training": []}, {"fit": "stretch"}, {"fit": ["crop"]}, {"source": 1}, {"layout": None},
        {"task": "tags"}, {"task": ["sets"]}, {"task": "numbers"}, {"thresholds": [0.5]}, {"target": [0.0, 1.0]},
    ],
    ids=str,
)  # fmt: skip
def test_metadata_of_the_wrong_type_is_named_in_one_line(tmp_path: Path, fields: dict[str, Any]) -> None:
    about, (name,) = asdict(make().about) | fields, fields
    metadata = {"format": FORMAT, "version": "1", "spec": json.dumps(make().spec.as_dict()), "about": json.dumps(about)}
    write_safetensors(make().tensors, metadata, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=rf"w\.safetensors: its metadata is damaged \({name} is .*\)$"):
        open_weights(tmp_path / "w.safetensors")


def test_a_gray_model_is_saved_with_one_mean(tmp_path: Path) -> None:
    save_weights(weights_of(create_model("vit-mu/16", channels=1)), tmp_path / "w.safetensors")
    assert open_weights(tmp_path / "w.safetensors").about.mean == (0.5,)


def test_differences_are_named_and_counted() -> None:
    assert describe_differences([], []) == ""
    assert describe_differences(["b", "a"], []) == "lacks 2 tensors (a, b)"
    assert describe_differences([], "abcdefg") == "has 7 unexpected tensors (a, b, c, d, e, ...)"
    assert settle("x", [], [], False) == ()
    assert settle("x", ["a"], ["b"], True) == ("the file lacks 1 tensor (a) and has 1 unexpected tensor (b)",)
    with pytest.raises(WeightsError, match=r"^x: lacks 1 tensor \(a\); --allow-missing loads what fits$"):
        settle("x", ["a"], [], False)
