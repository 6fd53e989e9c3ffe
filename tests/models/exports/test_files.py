"""Each kind of file says what its graph says, for every family, batch and size that it promises."""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vitctl.config.eval_crop import EvalCrop
from vitctl.config.model import model_spec
from vitctl.data.patchifier.decode import fit
from vitctl.errors import UsageError, WeightsError
from vitctl.io.weights import About, Weights
from vitctl.models.create import collect_tensors, create_model
from vitctl.models.exports import onnx_file
from vitctl.models.exports.exported import ExportedModel
from vitctl.models.exports.graph import check_any_size, graph_of
from vitctl.models.exports.labels import export_labels
from vitctl.models.exports.onnx_file import OnnxModel, write_onnx
from vitctl.models.exports.quantize import quantize
from vitctl.models.exports.torch_file import TorchProgram, write_program
from vitctl.workflows.inputs.preprocess import target_for_model

DYNAMIC = torch.export.Dim.DYNAMIC
SAM = {"embed_dim": 48, "depth": 2, "num_heads": 4, "global_attn_indexes": [1]}
SMALL: dict[str, dict[str, Any]] = {
    "vit-mu/16": {},
    "vit-mu/8": {"head": "gap", "positions": "2d", "registers": 2},
    "axial-vit-mu/16": {},
    "r+vit-mu/16": {"width": 64},
    "vit-mu/4": {"positions": "1d+rope", "registers": 1, "swiglu": True, "key_bias": False},
    "timm:samvit_base_patch16": {"timm_args": json.dumps(SAM)},
}


def build_pair(name: str, **options: Any) -> tuple[nn.Module, Weights]:
    """A model that has no zeros in it."""
    model = create_model(model_spec(name, **({"height": 32, "width": 48, "classes": 4} | options))).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=random) * 0.05)
    about = About("vitctl", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), class_names=("a", "b", "c", "d"))
    tensors = {name: each.clone() for name, each in collect_tensors(model).items()}
    return model, Weights(model.spec, tensors, about)  # type: ignore[arg-type]


def written(kind: str, graph: nn.Module, example: torch.Tensor, free: dict[int, Any], path: Path,
            labels: dict[str, str]) -> ExportedModel:  # fmt: skip
    if kind == "onnx":
        write_onnx(graph, example, free, path.with_suffix(".onnx"), 20, labels)
        return OnnxModel(path.with_suffix(".onnx"))
    write_program(graph, example, free, path.with_suffix(".pt2"), labels)
    return TorchProgram(path.with_suffix(".pt2"))


def close(exported: nn.Module, model: nn.Module, pixels: torch.Tensor, atol: float = 2e-5) -> None:
    with torch.no_grad():
        torch.testing.assert_close(exported(pixels), model(pixels), atol=atol, rtol=1e-4)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("name", SMALL)
def test_every_family_at_any_batch(kind: str, name: str, tmp_path: Path) -> None:
    model, weights = build_pair(name, **SMALL[name])
    labels = export_labels(weights, any_size=False, preprocessing=False, precision="float32")
    graph = graph_of(build_pair(name, **SMALL[name])[0], weights.about, any_size=False, preprocessing=False, half=False)
    width = weights.spec.width
    exported = written(kind, graph, torch.zeros(2, 3, 32, width), {0: DYNAMIC}, tmp_path / "m", labels)
    for batch in (1, 2, 5):
        close(exported, model, torch.randn(batch, 3, 32, width))
    assert (exported.spec, exported.about) == (weights.spec, weights.about)
    assert (exported.precision, exported.digest, exported.takes_bytes) == ("float32", weights.digest(), False)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_patches_as_they_lie_in_the_file(kind: str, tmp_path: Path) -> None:
    model, weights = build_pair("vit-mu/16")
    labels = export_labels(weights, any_size=False, preprocessing=False, precision="float32")
    exported = written(
        kind, build_pair("vit-mu/16")[0], torch.zeros(2, 3, 32, 48), {0: DYNAMIC}, tmp_path / "m", labels
    )
    close(exported, model, torch.randn(3, 6, 16 * 16 * 3))


@pytest.mark.parametrize(
    "crop", [EvalCrop(), EvalCrop("squash"), EvalCrop("crop", 0.9, "bilinear"), EvalCrop("squash", 0.875)]
)
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_preprocessing_inside_is_that_of_predict(kind: str, crop: EvalCrop, tmp_path: Path) -> None:
    """Fitted, resized, rounded and normalized: a byte that lies between two may become the other."""
    model, weights = build_pair("vit-mu/16")
    weights = replace(weights, about=weights.about.with_eval_crop(crop))
    graph = graph_of(build_pair("vit-mu/16")[0], weights.about, any_size=False, preprocessing=True, half=False)
    labels = export_labels(weights, any_size=False, preprocessing=True, precision="float32")
    example = torch.zeros(2, 39, 53, 3, dtype=torch.uint8)
    exported = written(kind, graph, example, {0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}, tmp_path / "m", labels)
    assert exported.takes_bytes
    mean, std = (torch.tensor(values) for values in (weights.about.mean, weights.about.std))
    for batch, height, width in ((1, 32, 48), (3, 100, 61), (2, 20, 301)):
        pixels = np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), np.uint8)
        small = torch.from_numpy(np.stack([fit(each, target_for_model(weights.spec, crop)) for each in pixels]))
        with torch.no_grad():
            expected = model(((small.float() / 255 - mean) / std).permute(0, 3, 1, 2))
            torch.testing.assert_close(exported(torch.from_numpy(pixels)), expected, atol=0.02, rtol=0.02)


def test_padding_is_not_for_a_graph() -> None:
    model, weights = build_pair("vit-mu/16")
    padded = replace(weights.about, fit="pad")
    with pytest.raises(UsageError, match="were padded"):
        graph_of(model, padded, any_size=False, preprocessing=True, half=False)


def test_large_weights_stand_beside_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = build_pair("vit-mu/16")
    graph = graph_of(build_pair("vit-mu/16")[0], weights.about, any_size=False, preprocessing=False, half=False)
    labels = export_labels(weights, any_size=False, preprocessing=False, precision="float32")
    free, example = {0: torch.export.Dim.DYNAMIC}, torch.zeros(2, 3, 32, 48)
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    write_onnx(graph, example, free, tmp_path / "m.onnx", 20, labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    close(OnnxModel(tmp_path / "m.onnx"), model, torch.randn(3, 3, 32, 48))
    monkeypatch.undo()
    write_onnx(graph, example, free, tmp_path / "m.onnx", 20, labels)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    close(OnnxModel(tmp_path / "m.onnx"), model, torch.randn(3, 3, 32, 48))


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("options", [{}, {"head": "gap", "positions": "sincos"}, {"registers": 3}], ids=str)
def test_any_size_interpolates_as_the_official_code_does(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    from vitctl.models.adapt import adapt_weights
    from vitctl.workflows.inputs.weights import load_model

    _, weights = build_pair("vit-mu/16", **options)
    graph = graph_of(load_model(weights), weights.about, any_size=True, preprocessing=False, half=False)
    labels = export_labels(weights, any_size=True, preprocessing=False, precision="float32")
    dim = torch.export.Dim
    free = {0: dim("batch"), 2: 16 * dim("rows"), 3: 16 * dim("columns")}
    exported = written(kind, graph, torch.zeros(2, 3, 32, 48), free, tmp_path / "m", labels)
    for height, width in ((32, 48), (64, 48), (80, 112)):
        close(exported, load_model(adapt_weights(weights, height, width)), torch.randn(2, 3, height, width))


@pytest.mark.parametrize("name", ["axial-vit-mu/16", "r+vit-mu/16"])
def test_who_cannot_take_any_size_says_so(name: str) -> None:
    with pytest.raises(UsageError, match="export one file for each --res"):
        check_any_size(model_spec(name))


def test_eight_bits_are_near_and_smaller(tmp_path: Path) -> None:
    model, weights = build_pair("vit-mu/16", depth=3, dim=96, heads=2, mlp=384)
    labels = export_labels(weights, any_size=False, preprocessing=False, precision="int8")
    write_onnx(build_pair("vit-mu/16", depth=3, dim=96, heads=2, mlp=384)[0], torch.zeros(2, 3, 32, 48), {0: DYNAMIC},
               tmp_path / "f.onnx", 20, labels)  # fmt: skip
    batches = [np.random.default_rng(seed).normal(size=(8, 3, 32, 48)).astype(np.float32) for seed in range(4)]
    assert quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", batches) == 3 * 4  # of the blocks
    assert (tmp_path / "q.onnx").stat().st_size < 0.5 * (tmp_path / "f.onnx").stat().st_size
    small = OnnxModel(tmp_path / "q.onnx")
    assert small.precision == "int8"
    with torch.no_grad():
        expected, quantized = model(torch.from_numpy(batches[0])), small(torch.from_numpy(batches[0]))
    assert 0 < float((expected - quantized).abs().max()) < 0.15 * float(expected.abs().max())


# --- files that are none ---------------------------------------------------------------------------------------------

Reader = Callable[[Path], ExportedModel]


@pytest.mark.parametrize(("reader", "ending"), [(OnnxModel, "onnx"), (TorchProgram, "pt2")])
@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 no zip", b"\x08\x07" * 50])
def test_damaged_files_are_one_line(reader: Reader, ending: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"broken.{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"broken\.") as caught:
        reader(path)
    assert "\n" not in str(caught.value)


def test_an_onnx_file_of_somebody_else_is_not_guessed_at(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(nn.Linear(2, 2), (torch.zeros(1, 2),), dynamo=True, verbose=False).save(tmp_path / "m.onnx")  # type: ignore[union-attr]
    with pytest.raises(WeightsError, match="was not exported by vitctl"):
        OnnxModel(tmp_path / "m.onnx")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("place", ["data/sample_inputs/model.pt", "data/constants/opaque_obj_0", "data/extra.so"])
def test_no_pickle_is_run(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, weights = build_pair("vit-mu/16")
    labels = export_labels(weights, any_size=False, preprocessing=False, precision="float32")
    write_program(build_pair("vit-mu/16")[0], torch.zeros(2, 3, 32, 48), {0: DYNAMIC}, tmp_path / "m.pt2", labels)
    bomb = io.BytesIO()
    torch.save(Bomb(), bomb)
    with zipfile.ZipFile(tmp_path / "m.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        root = good.namelist()[0].partition("/")[0]
        for name in good.namelist():
            if name != f"{root}/{place}":
                bad.writestr(name, good.read(name))
        bad.writestr(f"{root}/{place}", bomb.getvalue() if place.endswith(".pt") else pickle.dumps(Bomb()))
    with pytest.raises(WeightsError):
        TorchProgram(tmp_path / "bad.pt2")
    assert not Path("exploded").exists()


def test_a_constant_that_asks_for_a_pickle_is_refused(tmp_path: Path) -> None:
    _, weights = build_pair("vit-mu/16")
    labels = export_labels(weights, any_size=False, preprocessing=False, precision="float32")
    write_program(build_pair("vit-mu/16")[0], torch.zeros(2, 3, 32, 48), {0: DYNAMIC}, tmp_path / "m.pt2", labels)
    with zipfile.ZipFile(tmp_path / "m.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith("model_weights_config.json"):
                config = json.loads(content)
                next(iter(config["config"].values()))["use_pickle"] = True
                content = json.dumps(config).encode()
            bad.writestr(name, content)
    with pytest.raises(WeightsError, match="requests a pickle"):
        TorchProgram(tmp_path / "bad.pt2")
