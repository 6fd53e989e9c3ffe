"""The evaluation crop is the same wherever a model answers, and that of timm and transformers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import Answer
from vitctl.config.eval_crop import PROTOCOLS, EvalCrop
from vitctl.config.model import model_spec
from vitctl.data.augmentation.frames import resize_for_center
from vitctl.io.weights import IMAGENET, About, Weights, save_weights
from vitctl.models.create import collect_tensors, create_model

SHAPES = [(150, 200), (240, 120), (97, 331), (128, 128), (300, 211)]
NAMES = ("a", "b", "c", "d", "e")


def draw_photo(height: int, width: int, seed: int) -> Image.Image:
    """Smooth shapes and some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 5, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return Image.fromarray(np.clip(np.asarray(coarse) + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        draw_photo(*SHAPES[number], number).save(folder / f"{number}.png")
    return tmp_path / "photos"


def write_model(path: Path, crop: EvalCrop) -> None:
    spec = model_spec("vit-mu/16", height=96, width=96, classes=5)
    model = create_model(spec, seed=1, head_std=0.1)
    mean, std = IMAGENET
    about = About("vitctl", mean=mean, std=std, class_names=NAMES).with_eval_crop(crop)
    save_weights(Weights(spec, collect_tensors(model), about), path)


def probabilities(answer: dict) -> np.ndarray:
    """[images, classes] of `predict --json`."""
    table = {each["path"]: {one["name"]: one["probability"] for one in each["top"]} for each in answer["predictions"]}
    return np.array([[table[path][name] for name in NAMES] for path in sorted(table)])


CROPS = [EvalCrop("crop", 0.875), EvalCrop("squash", 1.0, "bilinear"), EvalCrop("squash", 0.875), EvalCrop()]


@pytest.mark.parametrize("crop", CROPS, ids=str)
def test_every_way_to_ask_gives_the_same_probabilities(
    crop: EvalCrop, vitctl: Callable[..., Answer], photos: Path, tmp_path: Path
) -> None:
    timm = pytest.importorskip("timm")
    weights, files = tmp_path / "w.safetensors", sorted(photos.rglob("*.png"))
    write_model(weights, crop)
    common = ("--precision", "float32", "--json")
    ours = probabilities(vitctl("predict", photos, "--from", weights, "--top", 5, *common).json)

    vitctl("export", "--from", weights, "--format", "onnx", "--with-preprocessing", "--out", tmp_path / "m.onnx")
    onnx = probabilities(vitctl("predict", photos, "--from", tmp_path / "m.onnx", "--top", 5, "--json").json)

    vitctl("export", "--from", weights, "--format", "timm", "--out", tmp_path / "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    with torch.no_grad():
        batch = torch.stack([transform(Image.open(each).convert("RGB")) for each in files])
        theirs = model(batch).softmax(1).numpy()

    assert ours.std(0).max() > 0.02  # the images differ in their answers
    np.testing.assert_allclose(onnx, ours, atol=1e-3)
    np.testing.assert_allclose(theirs, ours, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("crop", CROPS, ids=str)
def test_transformers_gives_the_same_probabilities(
    crop: EvalCrop, vitctl: Callable[..., Answer], photos: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    weights, files = tmp_path / "w.safetensors", sorted(photos.rglob("*.png"))
    write_model(weights, crop)
    answer = vitctl("predict", photos, "--from", weights, "--top", 5, "--precision", "float32", "--json").json
    vitctl("export", "--from", weights, "--format", "hf", "--out", tmp_path / "hf")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        pixels = processor([Image.open(each).convert("RGB") for each in files], return_tensors="pt")
        theirs = model(**pixels).logits.softmax(1).numpy()
    # transformers rounds the place of the center down, torchvision to even: in one of four images by a pixel
    sizes = resize_for_center(np.array(SHAPES), (96, 96), crop)
    same = ~((sizes - 96) % 4 == 3).any(1)
    assert same.sum() >= 4
    np.testing.assert_allclose(theirs[same], probabilities(answer)[same], atol=1e-3)


def test_the_flag_replaces_what_the_weights_say(vitctl: Callable[..., Answer], photos: Path, tmp_path: Path) -> None:
    weights, plain = tmp_path / "w.safetensors", tmp_path / "plain.safetensors"
    write_model(weights, EvalCrop("crop", 0.875))
    write_model(plain, EvalCrop())
    ask = ("predict", photos, "--precision", "float32", "--top", 5, "--json", "--from")

    assert vitctl(*ask, plain, "--eval-crop", "mae").json["predictions"] == vitctl(*ask, weights).json["predictions"]
    assert vitctl(*ask, weights, "--eval-crop", "1").json["predictions"] == vitctl(*ask, plain).json["predictions"]
    assert "then the central 0.875 of each side" in vitctl(*ask, weights).err


@pytest.mark.parametrize("fit", ["whole", "crop"])
def test_a_patch_file_of_whole_images_is_cut_as_files_are(
    fit: str, vitctl: Callable[..., Answer], photos: Path, tmp_path: Path
) -> None:
    """To a grey level: the file holds images that were resized before. Of squares, it is the share of the square."""
    weights = tmp_path / "w.safetensors"
    vitctl("patchify", photos, tmp_path / "d.h5", "--res", 288, "--fit", fit)
    losses = {}
    for share in (1.0, 0.5):
        write_model(weights, EvalCrop("crop", share))
        answer = vitctl(
            "evaluate",
            "--data",
            tmp_path / "d.h5",
            "--split",
            "train",
            "--from",
            weights,
            "--precision",
            "float32",
            "--json",
        )
        files = probabilities(
            vitctl("predict", photos, "--from", weights, "--top", 5, "--precision", "float32", "--json").json
        )
        losses[share] = answer.json["loss"], -np.log(np.diag(files)).mean()
        if fit == "whole" or share == 1.0:
            assert losses[share][0] == pytest.approx(losses[share][1], abs=0.02)
    assert abs(losses[1.0][0] - losses[0.5][0]) > 0.02


@pytest.mark.parametrize(
    ("value", "message"),
    [("0", "from 0.1 to 1"), ("1.5", "from 0.1 to 1"), ("meae", "did you mean 'mae'"), ("nan", "from 0.1 to 1")],
)
def test_a_wrong_crop_is_one_line(value: str, message: str, vitctl: Callable[..., Answer], tmp_path: Path) -> None:
    write_model(tmp_path / "w.safetensors", EvalCrop())
    answer = vitctl("evaluate", "--from", tmp_path / "w.safetensors", "--eval-crop", value, code=2)
    assert message in answer.error


def test_protocols_have_the_sizes_of_their_sources() -> None:
    """big_vision: resize_small(256) or resize(256), then central_crop(224); 448 before 384. MAE, DeiT and DINO: 256."""
    sizes = {name: crop.outer_size(224, 224) for name, crop in PROTOCOLS.items()}
    assert {sizes[name] for name in ("big_vision", "big_vision/few-shot", "mae", "deit", "dino")} == {(256, 256)}
    assert {sizes[name] for name in ("vit_jax", "deit3", "whole")} == {(224, 224)}
    assert PROTOCOLS["big_vision/transfer"].outer_size(384, 384) == (448, 448)
    assert {name for name, crop in PROTOCOLS.items() if crop.fit == "squash"} == {"vit_jax", "big_vision/few-shot"}
    assert json.loads(json.dumps(replace(About("x"), crop_pct=0.9).as_dict()))["crop_pct"] == 0.9
    assert "crop_pct" not in About("x").as_dict()  # files of all of the short side stay as they were
