import pickle
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

from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import create_run
from vitctl.io.save import save_as
from vitctl.io.weights import Weights

Run = Callable[..., Any]
Folder = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture
def data(vitctl: Run, folder: Folder, tmp_path: Path) -> Path:
    folder({"train/cat": 5, "train/dog": 4, "val/cat": 2})
    vitctl("patchify", "pictures", "--res", "16", "--patch", "4")
    return tmp_path / "data.h5"


def damage(path: Path, split: str, row: int) -> str:
    """Flips one bit of one image; its name."""
    part = PatchFile(path).split(split)
    offset = part.segments[0].read_places()[0]["patches"].offset + row * part.geometry.row + 99
    name = part.names(np.array([row]))[0]
    with open(path, "r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 16]))
    return name


def test_verify_finds_one_bit_and_names_its_image(vitctl: Run, data: Path) -> None:
    assert vitctl("info", data, "--verify", "--json").json["verified"] is True
    name = damage(data, "train", 6)
    answer = vitctl("info", data, "--verify", "--json", code=3)
    assert f"1 image damaged ({name}); create it again with vitctl patchify" in answer.error
    assert answer.out == ""
    assert vitctl("info", data, "--json").json["verified"] is None


def test_verify_finds_a_chunk_that_cannot_be_unpacked(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"cat": 5})
    vitctl("patchify", "pictures", "--res", "16", "--patch", "4", "--compress")
    dataset = PatchFile(tmp_path / "data.h5").split("train").segments[0].column("patches")
    chunk = dataset.id.get_chunk_info(3)
    with open(tmp_path / "data.h5", "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    answer = vitctl("info", "data.h5", "--verify", code=3)
    assert "1 image damaged (train/cat/003.png)" in answer.error


def test_verify_finds_one_bit_of_a_jpeg(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"cat": 5})
    vitctl("patchify", "pictures", "--codec", "jpeg")
    assert vitctl("info", "data.h5", "--verify", "--json").json["verified"] is True
    segment = PatchFile(tmp_path / "data.h5").split("train").segments[0]
    place, starts = segment.place("encoded"), segment.column("starts")
    assert place is not None
    with open(tmp_path / "data.h5", "r+b") as file:
        file.seek(place.offset + int(starts[4]) - 9)
        before = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([before ^ 4]))
    answer = vitctl("info", "data.h5", "--verify", code=3)
    assert "1 image damaged (train/cat/003.png)" in answer.error


def test_info_shows_the_originals_and_the_size_by_codec(vitctl: Run, folder: Folder) -> None:
    folder({"cat": 5}, scale=10)  # 480x400
    answer = vitctl("patchify", "pictures", "--json").json["data"]
    assert answer["originals"] == {
        "smallest": [400, 480], "median": [400, 480], "largest": [400, 480], "wide": 1.0, "high": 0.0,
        "cut": pytest.approx(1 / 6), "reduced": 1.0}  # fmt: skip
    assert answer["codec_bytes"]["raw"] == 5 * 352 * 352 * 3
    told = vitctl("info", "data.h5").out
    assert "originals   400x480 pixels; a centered square cuts 17% away; 100% reduced" in told
    assert "; as jpeg about " in told
    packed = vitctl("patchify", "pictures", "jpeg.h5", "--codec", "jpeg", "--json").json["data"]
    assert packed["codec"] == "jpeg"
    assert packed["codec_bytes"]["jpeg"] == pytest.approx(answer["codec_bytes"]["jpeg"])
    assert packed["bytes"] - packed["codec_bytes"]["jpeg"] < 2**17


def test_what_is_no_artifact_is_one_line(vitctl: Run, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    for name, message in (
        ("text.h5", "not an HDF5 file"),
        ("none.h5", "no such file"),
        (".", "has no weights; use a run directory"),
    ):
        assert message in vitctl("info", name, code=3).error


@pytest.mark.parametrize(("name", "value"), [("class_names", 7), ("train/labels", [[1]]), ("train/names", "text")])
def test_a_field_that_is_something_else_is_one_line(vitctl: Run, data: Path, name: str, value: Any) -> None:
    with h5py.File(data, "r+") as file:
        del file[name]
        file[name] = value
    answer = vitctl("info", data, "--verify", "--json", code=3)
    assert f"data.h5: damaged ({name} is not " in answer.error
    assert answer.out == ""


def test_a_run_directory_is_described(vitctl: Run, tmp_path: Path) -> None:
    create_run(tmp_path / "runs" / "one", "bench", {"rounds": 3}, "0.1.0").finish({"x": 1})
    answer = vitctl("info", "runs", "--json").json
    assert (answer["kind"], answer["finished"], answer["config"], answer["result"]) == (
        "run",
        True,
        {"rounds": 3},
        {"x": 1},
    )


def test_without_a_path_it_takes_what_other_commands_would(vitctl: Run, data: Path, tmp_path: Path) -> None:
    assert vitctl("info", "--json").json["path"] == "data.h5"
    elsewhere = tmp_path / "other.h5"
    data.rename(elsewhere)
    assert vitctl("info", "--json", env={"VITCTL_DATA": "other.h5"}).json["path"] == "other.h5"
    first = vitctl("info", "--json")
    assert "embedded, as no --data was given), patchifying it to" in first.err
    assert first.json["splits"]["val"]["pictures"] == 359
    again = vitctl("info", "--json")
    assert "using" in again.err
    assert again.json == first.json


@pytest.mark.parametrize("augment", [[], ["--augment", "deit3"]])
def test_sheets_are_drawn(vitctl: Run, data: Path, tmp_path: Path, augment: list[str]) -> None:
    vitctl("info", data, "--sheet", "sheet.png", *augment)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert min(pixels.shape[:2]) > 300
    assert (pixels[:5] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500


def test_a_sheet_that_cannot_be_drawn_is_one_line(vitctl: Run, data: Path) -> None:
    for arguments, code, message in (
        (["--sheet", "sheet.txt"], 2, "sheet.txt: must end in .png"),
        (["--sheet", "nowhere/sheet.png"], 2, "the folder nowhere does not exist; create it first"),
        (["--augment", "deit3"], 2, "--augment needs --sheet FILE.png"),
        (["--sheet", "s.png", "--augment", "deit"], 2, "did you mean 'deit3'"),
        (["--sheet", "s.png", "--split", "vaal"], 3, "did you mean 'val'"),
    ):
        assert message in vitctl("info", data, *arguments, code=code).error


@pytest.mark.parametrize(
    ("kind", "place", "words"),
    [
        ("vitctl", "w.safetensors", "vitctl weights"),
        ("npz", "w.npz", "official npz (original)"),
        ("timm", "folder", "timm folder"),
        ("hf", "folder", "Hugging Face ViT"),
    ],
)
def test_weights_of_each_format_that_is_written(
    vitctl: Run, tiny: Weights, tmp_path: Path, kind: Any, place: str, words: str
) -> None:
    digest = save_as(tiny, tmp_path / place, kind)
    lines = [line.split(maxsplit=1) for line in vitctl("info", place).out.splitlines()]
    assert ["format", words] in lines
    assert ["model", "vit-mu/16, 37,827 parameters"] in lines
    assert ["images", "48x48x3, 3x3 patches, 10 tokens"] in lines
    assert ["digest", digest] in lines
    assert (["classes", "3: cat, dog, owl"] in lines) == (kind != "npz")  # which has no place for names
    assert (["source", "a test, vitctl"] in lines) == (kind == "vitctl")


def test_the_keys_of_weights(vitctl: Run, tiny: Weights, tmp_path: Path) -> None:
    digest = save_as(tiny, tmp_path / "w.safetensors")
    answer = vitctl("info", "w.safetensors", "--json").json
    assert set(answer) == {
        "command", "version", "path", "kind", "ours", "format", "model", "spec", "grid", "tokens", "parameters",
        "dtypes", "classes", "class_names", "task", "thresholds", "target", "mean", "std", "source", "history",
        "training", "apart", "notes", "bytes", "digest"}  # fmt: skip
    assert (answer["kind"], answer["ours"], answer["model"]) == ("weights", True, "vit-mu/16")
    assert (answer["grid"], answer["tokens"], answer["parameters"]) == ([3, 3], 10, 37_827)
    assert (answer["class_names"], answer["dtypes"]) == (["cat", "dog", "owl"], ["float32"])
    assert (answer["digest"], answer["bytes"]) == (digest, 4 * 37_827)
    assert answer["spec"]["gelu"] == "tanh"


def test_a_head_of_zeros_is_told_in_every_format(vitctl: Run, tiny: Weights, tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tiny.tensors.items() if name.startswith("head.")}
    save_as(replace(tiny, tensors=tiny.tensors | zeros), tmp_path / "w.safetensors")
    assert "its head is all zeros: features only" in vitctl("info", "w.safetensors").out


def test_a_run_is_shown_as_settings_and_numbers(vitctl: Run, tmp_path: Path) -> None:
    config = {"model": "vit-mu/16", "data": "my data", "steps": 9, "res": None, "pad": False,
              "optim": {"lr": 0.001, "clip": None}, "augment": {"crop_area": [0.3, 1.0]}}  # fmt: skip
    run = create_run(tmp_path / "runs" / "one", "pretrain", config, "0.1.0")
    run.finish({"top1": 0.4321, "steps": 9, "loss": 1.25, "best_step": 1200, "device": "cpu", "val_loss": None})
    lines = vitctl("info", "runs/one").out.splitlines()
    assert [line.split(maxsplit=1) for line in lines if line] == [
        ["run", "runs/one"], ["command", "pretrain"], ["version", "0.1.0"], ["finished", "yes"],
        ["config", "model=vit-mu/16  data='my data'  steps=9  pad=false"],
        ["optim", "optim.lr=0.001"], ["augment", "augment.crop_area=0.3,1.0"],
        ["top1", "43.21%"], ["loss", "1.25"], ["best_step", "1,200"],
    ]  # fmt: skip


def test_a_run_with_weights_says_both(vitctl: Run, tiny: Weights, tmp_path: Path) -> None:
    create_run(tmp_path / "runs" / "one", "pretrain", {"lr": 0.1}, "0.1.0")
    save_as(tiny, tmp_path / "runs" / "one" / "weights.safetensors")
    shown = vitctl("info", "runs/one").out
    assert "pretrain" in shown
    assert "vit-mu/16, 37,827 parameters" in shown
    assert vitctl("info", "runs", "--json").json["weights"]["class_names"] == ["cat", "dog", "owl"]


@pytest.mark.parametrize("begin", [b"\x80", b"PK"], ids=["a pickle", "a zip"])
def test_our_file_is_told_though_it_begins_as_another_kind_does(tiny: Weights, tmp_path: Path, begin: bytes) -> None:
    """A safetensors file begins with the length of its header, whatever bytes that is."""
    from vitctl.workflows.info import WeightsInfo, describe

    path = tmp_path / "w.safetensors"
    wanted = next(number for number in range(4096, 65536, 8) if number.to_bytes(8, "little").startswith(begin))
    length, source = 0, ""
    while length != wanted:
        source += "x" * max(1, (wanted - length if length else 0) - 8)
        save_as(replace(tiny, about=replace(tiny.about, source=source)), path)
        length = int.from_bytes(path.read_bytes()[:8], "little")
        assert length <= wanted
    found = describe(path)
    assert isinstance(found, WeightsInfo)
    assert found.ours


class Planted:
    """Whoever unpickles this makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("planted", "w")


def test_code_in_a_file_is_never_run(vitctl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"patch_embed.proj.weight": torch.ones(2)}, "epoch": Planted()}, tmp_path / "zip.pth")
    torch.save({"epoch": Planted()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Planted()))
    for name in ("zip.pth", "old.pth", "bare.pkl"):
        answer = vitctl("info", name, code=3)
        assert f"{name}: is a pickle that would run" in answer.error
        assert answer.out == ""
        assert not (tmp_path / "planted").exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)["epoch"].close()
    assert (tmp_path / "planted").exists()  # the trap itself works


def test_bad_weights_are_one_line(refused: Refused, tiny: Weights, tmp_path: Path) -> None:
    save_as(tiny, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1000])
    (tmp_path / "head.safetensors").write_bytes(whole[:500])
    (tmp_path / "flipped.safetensors").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "notes.txt").write_text("my weights are on the other disk")
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "objects.npz", **{"embedding/kernel": np.array([{}], object), "cls": np.zeros(1)})
    np.savez(tmp_path / "arrays.npz", x_train=np.zeros(3))
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    with zipfile.ZipFile(tmp_path / "docs.zip", "w") as archive:
        archive.writestr("read.me", "hello")
    for name, message in (
        ("cut.safetensors", "cut.safetensors: damaged or truncated .safetensors"),
        ("head.safetensors", "head.safetensors: damaged or truncated .safetensors"),
        ("flipped.safetensors", "damaged: its numbers have changed since they were written"),
        ("empty.safetensors", "empty.safetensors: is empty"),
        ("notes.txt", "notes.txt: not a known weights file; use"),
        ("folder", "folder: has no weights; use a run directory"),
        ("objects.npz", "holds Python objects (a pickle), which could run code when read; refused"),
        ("arrays.npz", "an .npz, but not of a Vision Transformer or BiT (x_train, ...)"),
        ("cat.png", "cat.png: is an image"),
        ("docs.zip", "is a zip without arrays"),
        ("w.safetensor", "w.safetensor: no such file or folder; did you mean 'w.safetensors'?"),
        ("folder/w.npz", "folder/w.npz: no such file or folder"),
        ("nowhere/w.npz", "nowhere/w.npz: there is no folder nowhere"),
        ("vit-b/16", "vit-b/16: names a model, not weights"),
    ):
        assert message in refused("info", name, "--json", code=3)


def test_a_name_that_timm_does_not_know(refused: Refused) -> None:
    assert "did you mean 'vit_tiny_patch16_224'" in refused("info", "timm:vit_tiny_patch16_22", code=2)
