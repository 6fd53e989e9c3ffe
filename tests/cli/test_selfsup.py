import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitctl.workflows.inputs.weights import load_weights

Run = Callable[..., Any]
OBJECTIVES = ("mean-color", "downsampled", "pixels", "mae")
QUICK = ("selfsup", "--model", "vit-mu/4", "--batch", "16", "--precision", "float32", "--out", "run")
SMALL = ("--set", "masking.decoder_dim=16", "--set", "masking.decoder_heads=2", "--set", "masking.decoder_depth=1")
KEYS = {
    "command", "version", "run", "model", "res", "objective", "recipe", "data", "data_digest", "parameters", "steps",
    "epochs", "batch", "micro_batch", "ranks", "device", "precision", "seed", "hidden", "patches", "loss", "val_loss",
    "val_top1", "probe_shots", "probe_top1", "weights", "pictures", "digest", "images_per_s", "ceiling_share",
    "elapsed_s", "minutes", "stopped"}  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_ends_in_weights_that_others_take(ran: Run, data: str, tmp_path: Path, objective: str) -> None:
    told = json.loads(ran(*QUICK, *SMALL, "--objective", objective, "--steps", "6", "--json").stdout)
    assert set(told) == KEYS
    assert (told["objective"], told["steps"], told["patches"]) == (objective, 6, 16)
    assert told["hidden"] == (12 if objective == "mae" else 8)
    assert (told["val_top1"] is None) == (objective in ("pixels", "mae"))
    assert 0 <= told["probe_top1"] <= 1
    weights = load_weights("run")
    assert weights.spec.classes == 0
    assert "mask_token" in weights.extra
    assert weights.about.training["masking"]["bits"] == 3
    pictures = sorted((tmp_path / "run" / "reconstructions").iterdir())
    assert pictures[-1].name == "step-0000006.png"
    with Image.open(pictures[-1]) as page:
        assert min(page.size) > 300
    tuned = json.loads(ran("finetune", "--from", "run", "--steps", "2", "--batch", "16", "--json").stdout)
    assert tuned["classes"] == 3
    probed = json.loads(ran("fewshot", "--from", "run", "--shots", "5", "--seeds", "1", "--json").stdout)
    assert probed["results"][0]["mean"] > 0


def test_labels_are_not_needed(ran: Run, tmp_path: Path) -> None:
    random, folder = np.random.default_rng(0), tmp_path / "flat"
    folder.mkdir()
    for number in range(20):
        Image.fromarray(random.integers(0, 256, (16, 24, 3), np.uint8)).save(folder / f"{number}.png")
    ran("patchify", "flat", "data.h5", "--res", "16x24", "--patch", "4")
    told = json.loads(ran(*QUICK, "--steps", "3", "--json").stdout)
    assert (told["res"], told["patches"], told["probe_top1"]) == ([16, 24], 24, None)


def test_images_of_one_color_keep_the_loss_finite(ran: Run, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (200, 30, 30)).save(folder / f"{number}.png")
    ran("patchify", "flat", "data.h5", "--res", "16", "--patch", "4")
    for objective in OBJECTIVES:
        told = json.loads(ran(*QUICK, *SMALL, "--objective", objective, "--steps", "4", "--overwrite", "--json").stdout)
        assert np.isfinite(told["loss"])


def test_it_goes_on_from_any_weights(
    ran: Run, refused: Callable[..., str], data: str, newest: str, tmp_path: Path
) -> None:
    """At an lr of next to nothing, what was begun with is what comes out."""
    still = ("selfsup", "--batch", "16", "--precision", "float32", "--steps", "2", "--lr", "1e-30", "--set", "probe=0")
    mae = (*still, *SMALL, "--objective", "mae")
    told = json.loads(ran(*mae, "--from", newest, "--out", "one", "--json").stdout)
    before, after = load_weights(newest), load_weights("one")
    assert (told["model"], after.spec.classes) == (before.spec.name, 0)
    assert all(
        torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items() if "head" not in name
    )
    assert after.about.training["before"]["command"] == "pretrain"
    assert after.about.training["from_digest"] == before.digest()
    answer = ran(*mae, "--from", "one", "--out", "two")
    assert "decoder: continued from the weights" in answer.stderr
    again = load_weights("two").extra
    assert again.keys() == after.extra.keys()
    assert all(torch.allclose(again[name], tensor, atol=1e-20) for name, tensor in after.extra.items())
    other = ran(*still, "--objective", "mean-color", "--from", "one", "--res", "32", "--out", "three").stderr
    assert "decoder: continued" not in other
    assert "weights: positions [2, 2] to [4, 4]" in other
    assert "model cannot be chosen with --from: the weights decide it" in refused(*QUICK, "--from", newest, code=2)


@pytest.mark.usefixtures("one_thread")
def test_it_goes_on_from_weights_and_is_resumed_in_the_same_bytes(ran: Run, data: str, newest: str) -> None:
    line = ("selfsup", "--from", newest, "--batch", "16", "--steps", "6", "--set", "save_every=2", "--out", "run")
    ran(*line)
    run = Path("run")
    before = bytes_of(run)
    for path in (run / "result.json", run / "weights.safetensors", max((run / "checkpoints").iterdir())):
        path.unlink()
    assert "resuming at step 4 of 6" in ran("selfsup", "--resume", "run").stderr
    assert bytes_of(run) == before


def bytes_of(run: Path) -> dict[str, bytes]:
    kept = [path for path in run.rglob("*") if path.is_file() and path.name not in ("result.json", "config.json")]
    return {str(path.relative_to(run)): path.read_bytes() for path in kept}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("objective", ["mean-color", "mae"])
def test_resumed_it_ends_in_the_same_bytes(ran: Run, data: str, tmp_path: Path, objective: str) -> None:
    line = (*QUICK, *SMALL, "--objective", objective, "--steps", "6", "--set", "save_every=2", "--set", "ema=0.9")
    ran(*line, "--micro-batch", "8")
    run, whole = tmp_path / "run", bytes_of(tmp_path / "run")
    for name in ("result.json", "weights.safetensors", "curves.png"):
        (run / name).unlink()
    max((run / "checkpoints").iterdir()).unlink()
    shutil.rmtree(run / "reconstructions")
    ran(*line, "--micro-batch", "8", "--resume", "run")
    again = bytes_of(run)
    assert [name for name in whole if name in again and whole[name] != again[name]] == []
    assert {"weights.safetensors", "metrics.jsonl", "reconstructions/step-0000006.png"} <= set(again)


def test_an_objective_that_is_set_chooses_the_recipe(ran: Run, refused: Any, data: str) -> None:
    told = json.loads(ran(*QUICK, *SMALL, "--set", "objective=mae", "--steps", "2", "--json").stdout)
    assert (told["objective"], told["recipe"], told["hidden"]) == ("mae", "mae-small", 12)
    assert "there is no field 'objective'" in refused("pretrain", "--set", "objective=mae", code=2)


@pytest.mark.slow
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("objective", ["mean-color", "mae"])
def test_two_ranks_hide_the_same_patches(vitctl: Run, objective: str) -> None:
    line = (*QUICK[:-1], "{}", *SMALL, "--objective", objective, "--steps", "6", "--json")
    ways: dict[str, tuple[str, ...]] = {
        "one": (),
        "two": ("--devices", "2"),
        "parts": ("--devices", "2", "--parallel", "fsdp"),
    }
    told = {name: vitctl(*(word.format(name) for word in line), *more).json for name, more in ways.items()}
    for name in ("two", "parts"):
        for key in ("loss", "val_loss", "probe_top1"):
            assert told[name][key] == pytest.approx(told["one"][key], abs=2e-5)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--ratio", "0"), 2, "above 0 and under 1"),
        (("--ratio", "1"), 2, "above 0 and under 1"),
        (("--ratio", "0.99"), 2, "16 would be hidden and 0 left"),
        (("--model", "r50+vit-b/16"), 2, "masked self-supervision needs a plain ViT"),
        (("--model", "bit-r50x1"), 2, "masked self-supervision needs a plain ViT"),
        (("--recipe", "small"), 2, "recipe small is for pretrain"),
        (("--set", "augment.mixup=0.5"), 2, "mixup and cutmix need labels"),
        (("--set", "objective=labels"), 2, "known: mean-color, downsampled, pixels, mae"),
        (("--set", "objective=color"), 2, "objective"),
        (("--set", "head=map"), 2, "head map"),
        (("--set", "norm=pooled"), 2, "--set norm: there is no field 'norm'"),
        (("--resume", "runs/one"), 2, "is a run of vitctl pretrain"),
    ],
)
def test_wrong_usage(
    refused: Callable[..., str], data: str, newest: str, tmp_path: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    assert words in refused(*QUICK, "--steps", "2", *flags, code=code)
    assert not (tmp_path / "run").exists()


TINY = (
    "--model", "vit-mu/4", "--res", "16", "--steps", "2", "--data", "data.h5", "--set", "masking.decoder_dim=16",
    "--set", "masking.decoder_depth=1", "--set", "masking.decoder_heads=2")  # fmt: skip


def test_the_lr_of_maes_recipe_follows_the_batch(ran: Run, data: str, tmp_path: Path) -> None:
    """main_pretrain.py:166 of MAE: lr = blr * batch / 256, and blr is 1.5e-4 (PRETRAIN.md)."""
    line = ("selfsup", "--recipe", "mae/pretrain-b", *TINY, "--batch", "32", "--probe", "0")
    expected = 1.5e-4 * 32 / 256
    told = ran(*line, "--out", "run").stderr
    assert f"lr: {expected:g} for a batch of 32, as the recipe has 0.0024 for 4,096" in told
    for out, more, lr in (("run", (), expected), ("own", ("--lr", "0.001"), 0.001)):
        if more:
            assert "lr:" not in ran(*line, *more, "--out", out).stderr
        config = json.loads((tmp_path / out / "config.json").read_text())["config"]
        assert config["optim"]["lr"] == pytest.approx(lr)
    assert ran(*line, "--resume", "run").exit_code == 0  # the same request is the same run


def test_a_model_of_maes_recipe_is_maes(ran: Run, data: str, tmp_path: Path) -> None:
    ran("selfsup", "--recipe", "mae/pretrain-b", *TINY, "--batch", "16", "--probe", "0", "--out", "run")
    weights = load_weights(tmp_path / "run" / "weights.safetensors")
    assert (weights.spec.name, weights.spec.gelu, weights.spec.positions) == ("vit-mu/4", "erf", "sincos-mae")
    assert (weights.about.mean, weights.about.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
