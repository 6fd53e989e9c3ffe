"""Formats are detected by content; a damaged or hostile file gives one line, and no code in it runs."""

import json
import os
import pickle
import random
import socket
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from tests.models import official_files
from vitctl.config.model import model_spec
from vitctl.errors import InputError, UsageError, WeightsError
from vitctl.io.recognize import open_weights
from vitctl.io.run_directory import create_run
from vitctl.io.save import save_as
from vitctl.io.weights import About, Weights
from vitctl.models.create import collect_tensors, create_model
from vitctl.workflows.inputs.weights import load_weights


def make_weights() -> Weights:
    model = create_model("vit-mu/16", height=32, width=32, classes=3)
    return Weights(model.spec, collect_tensors(model), About("test"))


def timm_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(VisionTransformer(32, 16, embed_dim=192, depth=1, num_heads=3, num_classes=3).state_dict())


def as_ours(path: Path) -> None:
    save_as(make_weights(), path)


def as_npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, **official_files.make_vit("original", depth=1))


def as_bit(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, **official_files.make_bit("big_transfer", (1,)))


def as_safetensors(path: Path) -> None:
    save_file(timm_tensors(), path)


def as_torch(path: Path) -> None:
    torch.save({"model": timm_tensors(), "epoch": 1}, path)


def as_old_torch(path: Path) -> None:
    torch.save(timm_tensors(), path, _use_new_zipfile_serialization=False)


def as_hugging_face(path: Path) -> None:
    folder = path.with_suffix(".folder")
    save_as(replace(make_weights(), spec=make_weights().spec.replace(gelu="erf")), folder, "hf")
    path.write_bytes((folder / "model.safetensors").read_bytes())


FORMATS: dict[str, Callable[[Path], None]] = {
    "ours": as_ours, "npz": as_npz, "bit": as_bit, "safetensors": as_safetensors, "torch": as_torch,
    "old-torch": as_old_torch, "hugging-face": as_hugging_face,
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_detected_by_content_whatever_its_name(kind: str, tmp_path: Path) -> None:
    FORMATS[kind](tmp_path / "weights")
    weights = open_weights(tmp_path / "weights")
    assert weights.tensors
    assert weights.about.format == {
        "ours": "test", "npz": "official npz (original)", "bit": "official npz (big_transfer)",
        "safetensors": "timm state dict", "torch": "timm state dict", "old-torch": "timm state dict",
    }.get(kind, weights.about.format)  # fmt: skip
    if kind == "hugging-face":
        assert "Hugging Face" in weights.about.format


def damaged(content: bytes, number: int) -> bytes:
    """Truncated, or with flipped bits; half of the files in the first kilobyte, where the headers are."""
    dice = random.Random(number)
    if number % 3 == 0:
        return content[: dice.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(dice.choice((1, 3, 20))):
        place = dice.randrange(min(len(content), 1024) if number % 2 else len(content))
        changed[place] ^= 1 << dice.randrange(8)
    return bytes(changed)


def fuzz(kind: str, folder: Path, cases: range) -> int:
    """The number of damaged files that were rejected. Any result but weights or an InputError fails."""
    FORMATS[kind](folder / "whole")
    content, rejected = (folder / "whole").read_bytes(), 0
    for number in cases:
        path = folder / "damaged"
        path.write_bytes(damaged(content, number))
        try:
            open_weights(path)
        except InputError as error:
            assert "\n" not in str(error)
            assert str(path) in str(error)
            rejected += 1
    return rejected


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_is_one_line(kind: str, tmp_path: Path) -> None:
    assert fuzz(kind, tmp_path, range(60)) > 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_damage_is_one_line_five_hundred_times(kind: str, tmp_path: Path) -> None:
    assert fuzz(kind, tmp_path, range(1000, 1500)) > 150


class Planted:
    """A pickle that creates a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_planted_code_does_not_run(tmp_path: Path) -> None:
    trap, sprung = Planted(tmp_path / "sprung"), tmp_path / "sprung"
    pickle.loads(pickle.dumps(trap))
    assert sprung.exists()  # the trap works
    sprung.rmdir()
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"model": trap}))
    torch.save({"model": timm_tensors() | {"x": trap}}, tmp_path / "new.pth")
    torch.save({"model": timm_tensors() | {"x": trap}}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    objects = np.array([trap], dtype=object)
    np.savez(tmp_path / "object.npz", **official_files.make_vit("original") | {"embedding/bias": objects})
    for name in ("bare.pth", "new.pth", "old.pth", "object.npz"):
        with pytest.raises(WeightsError, match="refused") as caught:
            open_weights(tmp_path / name)
        assert name in str(caught.value)
        assert not sprung.exists()


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello, these are not weights")
    zipfile.ZipFile(tmp_path / "a.zip", "w").writestr("a.txt", "x")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    save_file({"a": torch.ones(3)}, tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "photo.png": "is an image, not weights$", "data.h5": r"an HDF5 file \(patches or features\), not weights$",
        "empty": "is empty",
        "text": "not a known weights file; vitctl reads", "a.zip": "a zip without arrays; vitctl reads",
        "other.npz": "not of a Vision Transformer", "list.pth": "holds a list",
        "other.safetensors": "not weights of a Vision Transformer",
        "folder": "has no weights; use a run directory, or a folder with", "none": "no such file or folder",
    }.items():  # fmt: skip
        with pytest.raises(WeightsError, match=message):
            open_weights(tmp_path / name)


STRANGE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quantized": lambda each: torch.quantize_per_tensor(each, 0.1, 0, torch.qint8),
    "sparse": lambda each: each.to_sparse(),
    "complex": lambda each: each.to(torch.complex64),
    "meta": lambda each: each.to("meta"),
    "expanded": lambda each: each[:1, :1].expand(4096, 4096),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, of kinds that it is about to drop
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("names", ["timm", "hf"])
def test_tensors_that_are_not_plain_numbers_give_one_line(kind: str, names: str, tmp_path: Path) -> None:
    tensors, name = timm_tensors(), "blocks.0.mlp.fc1.weight"
    if names == "hf":
        save_as(replace(make_weights(), spec=make_weights().spec.replace(gelu="erf")), tmp_path / "hf", "hf")
        tensors, name = (
            load_file(tmp_path / "hf" / "model.safetensors"),
            "vit.encoder.layer.0.intermediate.dense.weight",
        )
    torch.save(tensors | {name: STRANGE[kind](tensors[name])}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=rf"w\.pth: {name} (is (torch\.|a )?\S+|has fewer values than its shape); save it"
    ):
        open_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["pipe", "socket", "device", "inside", "LATEST"])
def test_pipes_and_devices_are_rejected_before_they_are_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for folder, file in (("inside", "model.safetensors"), ("LATEST", "LATEST")):
            (tmp_path / folder).mkdir()
            os.mkfifo(tmp_path / folder / file)
        path = Path("/dev/zero") if name == "device" else tmp_path / name
        message = r"is a pipe, a device or a socket|has no weights; use"
        with pytest.raises(InputError, match=message) as caught:
            open_weights(path)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_a_pipe_is_rejected(tmp_path: Path) -> None:
    save_file(timm_tensors(), tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json: is a pipe"):
        open_weights(tmp_path)


def test_a_run_directory_is_read(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs" / "one", "pretrain", {}, "0.1.0")
    with pytest.raises(WeightsError, match=r"has a config\.json, but none of"):
        open_weights(run.path)
    save_as(make_weights(), run.path / "weights.safetensors")
    assert open_weights(run.path).digest() == make_weights().digest()


def test_a_checkpoint_in_parts_is_merged(tmp_path: Path) -> None:
    tensors = timm_tensors()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, tmp_path / file)
    index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sorted(open_weights(tmp_path).tensors) == names
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../outside"}}))
    with pytest.raises(WeightsError, match="outside its folder"):
        open_weights(tmp_path)


@pytest.mark.parametrize("format", ["vitctl", "npz", "timm", "hf"])
def test_every_format_is_written_and_read_back_bit_for_bit(format: Any, tmp_path: Path) -> None:
    weights = replace(make_weights(), spec=make_weights().spec.replace(gelu="erf" if format != "npz" else "tanh"))
    save_as(weights, tmp_path / "out", format)
    back = load_weights(tmp_path / "out")
    assert back.spec == weights.spec
    assert sorted(back.tensors) == sorted(weights.tensors)
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in weights.tensors.items())


def test_the_ending_chooses_the_format(tmp_path: Path) -> None:
    save_as(make_weights(), tmp_path / "w.npz")
    assert zipfile.is_zipfile(tmp_path / "w.npz")
    save_as(make_weights(), tmp_path / "w.anything")
    assert open_weights(tmp_path / "w.anything").about.format == "test"
    wide = Weights(model_spec("vit-mu/16", width=448), {}, About("test"))
    with pytest.raises(UsageError, match=r"width 448 \(only 224\)"):
        save_as(wide, tmp_path / "wide.npz")
    assert not (tmp_path / "wide.npz").exists()
