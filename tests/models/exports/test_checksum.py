"""A flipped bit in an exported file is an error, never another answer."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tests.models.exports.test_files import DYNAMIC, build_pair, close
from vitctl.errors import WeightsError
from vitctl.models.exports import onnx_file
from vitctl.models.exports.graph import graph_of
from vitctl.models.exports.labels import export_labels
from vitctl.models.exports.onnx_file import OnnxModel, write_onnx
from vitctl.models.exports.quantize import quantize
from vitctl.models.exports.torch_file import TorchProgram, write_program

PIXELS = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def write(path: Path, version: str = "2") -> Path:
    _, weights = build_pair("vit-mu/16")
    graph = graph_of(build_pair("vit-mu/16")[0], weights.about, any_size=False, preprocessing=False, half=False)
    labels = export_labels(weights, any_size=False, preprocessing=False, precision="float32") | {"version": version}
    if path.suffix == ".pt2":
        write_program(graph, torch.zeros(2, 3, 32, 48), {0: DYNAMIC}, path, labels)
    else:
        write_onnx(graph, torch.zeros(2, 3, 32, 48), {0: DYNAMIC}, path, 20, labels)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.onnx, m.pt2, and old.onnx and old.pt2 as 0.1 wrote them."""
    folder = tmp_path_factory.mktemp("exports")
    for name in ("m.onnx", "m.pt2"):
        write(folder / name)
    old = onnx.load(write(folder / "old.onnx", "1"))
    others = [each for each in old.metadata_props if "checksum" not in each.key]
    del old.metadata_props[:]
    old.metadata_props.extend(others)
    onnx.save(old, folder / "old.onnx")
    with zipfile.ZipFile(write(folder / "old.pt2", "1"), "a") as archive:
        archive.comment = b""
    return folder


def flipped(path: Path, place: int, bit: int) -> Path:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    bad = path.with_name(f"bad{path.suffix}")
    bad.write_bytes(content)
    return bad


def metadata(labels: Any) -> dict[str, str]:
    return {each.key: each.value for each in labels.metadata_props}


@pytest.mark.parametrize(("name", "reader"), [("m.onnx", OnnxModel), ("m.pt2", TorchProgram)])
def test_a_flipped_bit_anywhere_is_refused(folder: Path, name: str, reader: Any,
                                           capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    path, random = folder / name, np.random.default_rng(0)
    size, checksum = path.stat().st_size, path.read_bytes().index(b"checksum")
    places = [*random.integers(0, size, 200), *random.integers(size - 2500, size, 150), *range(checksum - 4, size, 9)]
    for place in places:
        with pytest.raises(WeightsError, match=r"bad\.\w+: ") as caught:
            reader(flipped(path, place, random.integers(8)))
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_anybody_can_compute_it(folder: Path) -> None:
    labels = metadata(onnx.load(folder / "m.onnx"))
    assert (labels["version"], labels["data_checksum"]) == ("2", "0" * 64)
    comment = zipfile.ZipFile(folder / "m.pt2").comment.decode()
    for name, checksum in (("m.onnx", labels["checksum"]), ("m.pt2", comment[-64:])):
        zeroed = (folder / name).read_bytes().replace(checksum.encode(), b"0" * 64)
        assert hashlib.sha256(zeroed).hexdigest() == checksum


@pytest.mark.parametrize("command", [("evaluate", "--data", "digits"), ("predict", "red.png")])
def test_the_command_refuses_a_damaged_file(vitctl: Callable[..., Any], folder: Path, command: tuple[str, ...],
                                            tmp_path: Path) -> None:  # fmt: skip
    Image.new("RGB", (48, 32), (200, 30, 60)).save(tmp_path / "red.png")
    bad = flipped(folder / "m.onnx", 100_000, 3)
    answer = vitctl(*command, "--from", bad, code=3)
    assert "bad.onnx: is damaged: its checksum does not match its bytes; copy or export it again" in answer.error
    assert answer.out == ""


@pytest.mark.parametrize("name", ["old.onnx", "old.pt2"])
def test_a_file_of_version_1_is_read_with_a_warning(vitctl: Callable[..., Any], folder: Path, tmp_path: Path,
                                                    name: str) -> None:  # fmt: skip
    Image.new("RGB", (48, 32), (200, 30, 60)).save(tmp_path / "red.png")
    answer = vitctl("predict", "red.png", "--from", folder / name, "--quiet", "--json")
    assert len(answer.json["predictions"]) == 1
    assert f"{name}: was exported without a checksum (version 1)" in answer.err


def test_a_file_of_version_2_without_a_checksum_is_damaged(folder: Path) -> None:
    model = onnx.load(folder / "m.onnx")
    for each in model.metadata_props:
        each.key = each.key.replace("checksum", "sum")
    onnx.save(model, folder / "none.onnx")
    (folder / "none.pt2").write_bytes((folder / "m.pt2").read_bytes().replace(b"checksum", b"chequsum"))
    for name, reader in (("none.onnx", OnnxModel), ("none.pt2", TorchProgram)):
        with pytest.raises(WeightsError, match=rf"{name}: is damaged"):
            reader(folder / name)


def test_weights_in_a_file_beside_have_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    path = write(tmp_path / ("m" * 140 + ".onnx"))
    data = path.with_name(f"{path.name}.data")
    close(OnnxModel(path.rename(tmp_path / "m.onnx")), build_pair("vit-mu/16")[0], PIXELS)
    good = data.read_bytes()
    data.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    with pytest.raises(WeightsError, match=r"\.data: is damaged"):
        OnnxModel(tmp_path / "m.onnx")
    data.unlink()
    with pytest.raises(WeightsError, match=r"\.data: is missing"):
        OnnxModel(tmp_path / "m.onnx")


def test_a_file_in_8_bits_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)  # the file that it is build_pair from has its weights beside it
    quantize(write(tmp_path / "f.onnx"), tmp_path / "q.onnx", [PIXELS.numpy()])
    (tmp_path / "f.onnx.data").unlink()
    OnnxModel(tmp_path / "q.onnx")
    with pytest.raises(WeightsError, match="damaged"):
        OnnxModel(flipped(tmp_path / "q.onnx", 50_000, 0))
