import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

import vitctl
from tests.conftest import picture
from tests.models.hub import serving
from vitctl.config.export import ENDINGS
from vitctl.data.patchifier import decode
from vitctl.io.save import save_as
from vitctl.io.weights import About, Weights
from vitctl.workflows.train.result import TrainResult

Run = Callable[..., Any]


def test_bare_it_writes_an_onnx_file_and_proves_it(ran: Run, data: str, newest: str, trained: TrainResult) -> None:
    told = json.loads(ran("export", "--json").stdout)
    assert set(told) == {
        "command", "version", "out", "report", "format", "weights", "weights_digest", "model", "res", "classes",
        "precision", "mean", "std", "input", "opset", "products_in_8_bits", "runtime", "data", "comparison",
        "preprocessing", "bytes", "pushed", "load", "elapsed_s"}  # fmt: skip
    assert (told["out"], told["report"]) == ("vit-mu-8-16.onnx", "vit-mu-8-16.onnx.json")
    found = told["comparison"]
    assert found["agrees"]
    assert found["agreement"] == 1.0
    assert 0 <= found["max_difference"] < 1e-4
    assert found["pictures"] == 30
    assert found["batches"] == [1, 8]
    assert found["answers"] == "logits"
    assert found["top1_model"] == found["top1_export"] == trained.top1
    assert told["preprocessing"] == {
        "by": "vitctl as the file says", "files": 4, "max_difference": 0.0, "problem": "", "agrees": True}  # fmt: skip
    assert json.loads(Path(told["report"]).read_text()) == told
    labels = {each.key: each.value for each in onnx.load(told["out"]).metadata_props}
    assert json.loads(labels["class_names"]) == ["ant", "bee", "cow"]
    assert "mean" in labels
    session = onnxruntime.InferenceSession(told["out"])
    assert session.run(None, {"images": np.zeros((5, 3, 16, 16), np.float32)})[0].shape == (5, 3)


@pytest.mark.parametrize("name", ["m.pt2", "m.onnx", "m.safetensors", "m.npz"])
def test_evaluate_finds_the_same_numbers_on_the_export(
    ran: Run, data: str, newest: str, trained: TrainResult, name: str
) -> None:
    kind = {"pt2": "torch"}.get(name[2:], name[2:])
    ran("export", "--format", kind, "--out", name)
    told = json.loads(ran("evaluate", "--from", name, "--precision", "float32", "--json").stdout)
    assert told["top1"] == trained.top1
    assert told["loss"] == pytest.approx(trained.val_loss, rel=1e-5)


def test_preprocessing_inside_answers_to_bytes(ran: Run, data: str, newest: str, trained: TrainResult) -> None:
    told = json.loads(ran("export", "--with-preprocessing", "--out", "p.onnx", "--json").stdout)
    assert told["input"].startswith("uint8 [B, H, W, 3]")
    session = onnxruntime.InferenceSession("p.onnx")
    assert session.run(None, {"images": np.zeros((2, 37, 23, 3), np.uint8)})[0].shape == (2, 3)
    found = json.loads(ran("evaluate", "--from", "p.onnx", "--json").stdout)
    assert found["top1"] == trained.top1


@pytest.mark.parametrize(("options", "name"), [
    (("--dynamic-size",), "vit-mu-8-16.onnx"), (("--res", "24x32"), "vit-mu-8-24x32.onnx"),
    (("--precision", "fp16"), "vit-mu-8-16-fp16.onnx"), (("--precision", "int8"), "vit-mu-8-16-int8.onnx"),
])  # fmt: skip
def test_ways_to_write_it(ran: Run, data: str, newest: str, options: tuple[str, ...], name: str) -> None:
    told = json.loads(ran("export", *options, "--json").stdout)
    assert told["out"] == name
    assert told["comparison"]["agrees"]
    assert (told["products_in_8_bits"] or 0) >= (4 if "int8" in options else 0)
    again = ran("export", *options, code=2)
    assert "exists already; --overwrite" in again.stderr
    ran("export", *options, "--overwrite")


def test_timm_takes_the_safetensors(ran: Run, data: str, newest: str, trained: TrainResult) -> None:
    told = json.loads(ran("export", "--format", "safetensors", "--json").stdout)
    assert told["runtime"] == f"timm {timm.__version__}"
    model = eval(told["load"], {"timm": timm}).eval()
    ours, pixels = vitctl.load_model(trained.run), torch.randn(2, 3, 16, 16)  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), ours(pixels), atol=1e-5, rtol=1e-5)


def test_a_folder_for_timm_says_what_it_is(
    ran: Run, data: str, newest: str, trained: TrainResult, tmp_path: Path
) -> None:
    told = json.loads(ran("export", "--format", "timm", "--out", "for-timm", "--json").stdout)
    assert told["load"] == "timm.create_model('local-dir:for-timm', pretrained=True)"
    assert told["comparison"]["agrees"]
    model = timm.create_model("local-dir:for-timm", pretrained=True)
    assert model.pretrained_cfg["label_names"] == ["ant", "bee", "cow"]
    card = (tmp_path / "for-timm/README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\npipeline_tag: image-classification\n---\n")
    for words in (told["load"], "Classes: 3: ant, bee, cow.", f"- vitctl pretrain, recipe {trained.recipe}, seed ",
                  f"data of digest `{trained.data_digest}`", f"Top-1 {trained.best_top1:.2%} on the validation split",
                  "30 images)", "License of the starting weights: not known",
                  f"`{told['weights_digest']}`"):  # fmt: skip
        assert words in card
    ran("export", "--format", "timm", "--out", "for-timm", "--overwrite", "--res", "32", "--json")
    assert "Accuracy" not in (tmp_path / "for-timm/README.md").read_text()  # measured at another resolution
    assert json.loads(ran("evaluate", "--from", "for-timm", "--precision", "float32", "--json").stdout)["top1"] > 0


def test_a_folder_is_pushed_to_the_hub_if_that_is_asked_for(
    vitctl: Run, data: str, newest: str, tmp_path: Path
) -> None:
    hub, own_process = tmp_path / "hub", ("timeout", "300")
    line = ("export", "--format", "timm", "--out", "mine", "--overwrite", "--push", "me/flowers", "--json")
    with serving(hub) as server:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache"),
               "no_proxy": "127.0.0.1", "HF_TOKEN": ""}  # fmt: skip
        answer = vitctl(*line, code=2, env=env, before=own_process)
        assert "--push me/flowers: needs a token with write access; set HF_TOKEN" in answer.error
        assert not (tmp_path / "mine").exists()
        answer = vitctl(*line, code=4, env=env | {"HF_TOKEN": "wrong"}, before=own_process)
        assert "mine: written and kept, but not uploaded to me/flowers" in answer.error
        told = json.loads(vitctl(*line, env=env | {"HF_TOKEN": "token"}, before=own_process).out)
    assert told["pushed"].endswith(f"/commit/{'0' * 40}")
    for name in ("README.md", "config.json", "model.safetensors"):
        assert (hub / "me/flowers" / name).read_bytes() == (tmp_path / "mine" / name).read_bytes()
    assert "use it with timm or hf" in vitctl("export", "--push", "me/flowers", code=2).error


def test_a_file_that_differs_is_kept_and_told(ran: Run, data: str, newest: str) -> None:
    answer = ran("export", "--precision", "fp16", "--set", "tolerance=1e-9", "--json", code=4)
    assert answer.stdout == ""
    assert "more than allowed; the file is kept for inspection, with vit-mu-8-16-fp16.onnx.json" in answer.stderr
    assert Path("vit-mu-8-16-fp16.onnx").exists()
    assert not json.loads(Path("vit-mu-8-16-fp16.onnx.json").read_text())["comparison"]["agrees"]


@pytest.mark.parametrize(("options", "code", "words"), [
    (("--format", "torch", "--precision", "int8"), 2, "int8 is for onnx"),
    (("--format", "npz", "--with-preprocessing"), 2, "holds weights, not the computation"),
    (("--with-preprocessing", "--dynamic-size"), 2, "choose one"),
    (("--out", "model.pt2"), 2, "onnx is written as .onnx"),
    (("--out", "nowhere/model.onnx"), 2, "the folder nowhere does not exist; create it first"),
    (("--set", "opset=9"), 2, "opset is 9"),
    (("--res", "20"), 2, "the nearest are"),
    (("--from", "data.h5"), 3, "an HDF5 file"),
])  # fmt: skip
def test_what_makes_no_sense(ran: Run, data: str, newest: str, options: tuple[str, ...], code: int, words: str) -> None:
    answer = ran("export", *options, code=code)
    assert words in " ".join(answer.stderr.split())
    assert not list(Path().glob("*.onnx*"))


def test_hugging_faces_folder(ran: Run, data: str, tiny: Weights, tmp_path: Path) -> None:
    save_as(tiny, tmp_path / "tiny.safetensors")
    told = json.loads(ran("export", "--from", "tiny.safetensors", "--format", "hf", "--json").stdout)
    assert told["out"] == "vit-mu-16-48-hf"
    assert told["comparison"]["agrees"]
    assert {each.name for each in Path(told["out"]).iterdir()} >= {"config.json", "model.safetensors"}


def test_a_folder_of_something_else_is_left_alone(ran: Run, data: str, tiny: Weights, tmp_path: Path) -> None:
    save_as(tiny, tmp_path / "tiny.safetensors")
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    for options in ((), ("--overwrite",)):
        answer = ran("export", "--from", "tiny.safetensors", "--format", "hf", "--out", "mine", *options, code=2)
        assert "mine" in answer.stderr
    assert Path("mine/notes.txt").read_text() == "mine"


def test_what_a_format_has_no_place_for(ran: Run, data: str, tiny: Weights, tmp_path: Path) -> None:
    model = vitctl.create_model("axial-vit-mu/16", height=32, width=32, classes=3)
    save_as(vitctl.weights_of(model), tmp_path / "axial.safetensors")
    for format in ("npz", "hf", "safetensors"):
        answer = ran("export", "--from", "axial.safetensors", "--format", format, code=2)
        assert "cannot store" in answer.stderr
    ran("export", "--from", "axial.safetensors")


def test_npz_takes_up_a_normalization_that_it_cannot_say(ran: Run, data: str, tiny: Weights) -> None:
    imagenet = replace(tiny, about=replace(tiny.about, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    save_as(imagenet, Path("imagenet.safetensors"))
    told = json.loads(
        ran("export", "--from", "imagenet.safetensors", "--format", "npz", "--out", "m.npz", "--json").stdout
    )
    assert told["comparison"]["max_difference"] < 1e-4 * max(1.0, told["comparison"]["largest_logit"])
    assert told["mean"] == [0.485, 0.456, 0.406]
    assert vitctl.load_model("m.npz").about.mean == (0.5, 0.5, 0.5)
    pixels = torch.rand(2, 3, 48, 48)
    ours, theirs = vitctl.load_model("imagenet.safetensors"), vitctl.load_model("m.npz")
    with torch.no_grad():
        mean, std = (torch.tensor(each)[:, None, None] for each in (ours.about.mean, ours.about.std))
        torch.testing.assert_close(ours((pixels - mean) / std), theirs((pixels - 0.5) / 0.5), atol=1e-3, rtol=1e-4)


def test_numbers_that_fp16_cannot_hold_are_told(ran: Run, data: str, tiny: Weights) -> None:
    huge = tiny.tensors | {"head.weight": tiny.tensors["head.weight"] * 1e6}
    save_as(replace(tiny, tensors=huge), Path("huge.safetensors"))
    told = ran("export", "--from", "huge.safetensors", "--precision", "fp16", "--out", "m.onnx", code=4).stderr
    assert "not finite" in told
    assert "fp16 overflows above 65,504" in told
    assert Path("m.onnx").exists()
    assert not Path("m.onnx.json").exists()
    Image.new("RGB", (48, 48), (200, 30, 60)).save("red.png")
    assert "not finite" in ran("predict", "red.png", "--from", "m.onnx", code=4).stderr


def test_a_run_is_never_replaced_by_a_folder_of_hugging_face(ran: Run, data: str, newest: str, tiny: Weights) -> None:
    save_as(tiny, Path("tiny.safetensors"))
    words = ("--from", "tiny.safetensors", "--format", "hf", "--overwrite")
    assert "is not a model folder" in ran("export", *words, "--out", newest, code=2).stderr
    assert (Path(newest) / "weights.safetensors").exists()
    for _ in range(2):
        ran("export", *words, "--out", "mine")


def test_few_images_are_counted(ran: Run, data: str, newest: str, trained: TrainResult) -> None:
    """30 of them say little of an accuracy."""
    shown = ran("export").stdout
    right = round((trained.top1 or 0) * 30)
    assert "top-1 agrees on 30 of 30 images" in shown
    assert f"accuracy  {right} of 30 are correct, {right} by the model itself" in shown
    assert "%" not in shown


@pytest.mark.parametrize("options", [
    (), ("--precision", "int8", "--data", "data.h5"), ("--format", "torch"), ("--format", "safetensors"),
    ("--format", "npz"), ("--format", "hf"),
], ids=lambda words: "-".join(words[:2]))  # fmt: skip
def test_without_a_head_features_are_compared(ran: Run, data: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    save_as(vitctl.weights_of(vitctl.create_model("vit-mu/16", height=48, width=48, classes=0, head="cls")),
            tmp_path / "bare.safetensors")  # fmt: skip
    shown = ran("export", "--from", "bare.safetensors", *options, "--out", f"m{ending(options)}").stdout
    assert "features  up to " in shown
    assert "cosine similarity is at least " in shown
    assert not {"logits", "top-1", "accuracy"} & set(shown.split())
    found = json.loads(Path(f"m{ending(options)}.json").read_text())["comparison"]
    assert (found["answers"], found["top1_model"]) == ("features", None)
    assert 0.9 < found["agreement"] <= 1.0 + 1e-9


def ending(options: tuple[str, ...]) -> str:
    return ENDINGS[options[1]] if options[:1] == ("--format",) else ".onnx"  # type: ignore[index]


@pytest.mark.parametrize(("format", "fit", "agrees"), [
    ("hf", "crop", True), ("hf", "squash", True), ("hf", "pad", False), ("npz", "crop", True), ("npz", "squash", False),
    ("onnx", "squash", True), ("torch", "pad", True),
])  # fmt: skip
def test_what_a_format_cannot_say_of_the_fit(ran: Run, data: str, tiny: Weights, format: str, fit: str,
                                             agrees: bool) -> None:  # fmt: skip
    """Image files that are not square get other answers, and the export says by how much."""
    save_as(replace(tiny, about=replace(tiny.about, fit=fit)), Path("tiny.safetensors"))
    answer = ran("export", "--from", "tiny.safetensors", "--format", format, "--quiet")
    (report,) = Path().glob("*.json")
    found = json.loads(report.read_text())["preprocessing"]
    assert (found["agrees"], found["problem"]) == (agrees, "")
    assert (found["max_difference"] > 0.1) is not agrees
    assert ("warning: preprocessing differs: " in answer.stderr) is not agrees
    assert (f"up to {found['max_difference']:.3g} apart" in answer.stderr) is not agrees


def test_preprocessing_inside_is_compared_on_files(ran: Run, data: str, newest: str) -> None:
    told = json.loads(ran("export", "--with-preprocessing", "--json").stdout)
    assert (told["preprocessing"]["by"], told["preprocessing"]["agrees"]) == ("the graph", True)


needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@needs_transformers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("classes", "channels"), [(3, 3), (3, 1), (0, 3)])
def test_transformers_reads_the_folder_and_answers_alike(
    ran: Run, data: str, classes: int, channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    model = vitctl.create_model(
        "vit-mu/16", height=48, width=48, classes=classes, channels=channels, head="cls", head_std=1.0
    )
    about = About("vitctl", mean=(0.5,) * channels, std=(0.5,) * channels)
    save_as(replace(vitctl.weights_of(model), about=about), Path("tiny.safetensors"))
    told = json.loads(ran("export", "--from", "tiny.safetensors", "--format", "hf", "--out", "mine", "--json").stdout)
    assert told["runtime"].startswith("transformers ")
    assert told["comparison"]["agrees"]
    assert told["preprocessing"]["by"].startswith("transformers' PerceiverImageProcessor")
    if channels == 1 and version("transformers") < "5":  # takes no gray images
        assert told["preprocessing"]["problem"].startswith("ValueError")
    else:
        assert told["preprocessing"]["agrees"]
    assert capfd.readouterr().err == ""  # no progress bars of its own


@needs_transformers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("fast", [True, False])
def test_the_folders_own_processor_gives_our_pixels(ran: Run, data: str, tiny: Weights, fit: str, fast: bool) -> None:
    import transformers

    save_as(replace(tiny, about=replace(tiny.about, fit=fit)), Path("tiny.safetensors"))
    ran("export", "--from", "tiny.safetensors", "--format", "hf", "--out", "mine")
    processor = transformers.AutoImageProcessor.from_pretrained("mine", use_fast=fast)
    for number, (height, width) in enumerate([(320, 500), (333, 500), (240, 159), (50, 90), (48, 48)]):
        pixels = picture(number, height, width)
        found = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0].permute(1, 2, 0)
        ours = decode.fit(pixels, decode.Target(48, 48, 3, fit))
        assert np.abs(found.numpy() * 127.5 + 127.5 - ours).max() < 1.01  # Pillow rounds another way
