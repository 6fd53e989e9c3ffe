"""Every family of timm from the hub to ONNX: downloaded, fine-tuned, killed and resumed, evaluated, exported."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf

from tests.conftest import Folder, clean_environment
from tests.models.hub import serving
from vitctl.probing.frozen import compute_pre_logits
from vitctl.workflows.inputs.weights import load_model

FAMILIES = {  # and the resolution at which each is fine-tuned, if not its own
    "vit_small_patch16_224": None, "deit_small_patch16_224": None, "deit3_small_patch16_224": None,
    "deit_small_distilled_patch16_224": None, "vit_small_patch14_dinov2": 126, "vit_small_patch14_reg4_dinov2": 126,
    "vit_small_patch16_dinov3": None, "eva02_tiny_patch14_224": None, "beit_base_patch16_224": None,
    "vit_base_patch16_siglip_224": None, "vit_base_patch32_clip_224": None, "vit_tiny_r_s16_p8_224": None,
    "swin_tiny_patch4_window7_224": None, "convnext_atto": None, "resnet18": None, "mixer_b16_224": None,
    "vit_relpos_small_patch16_224": None, "cait_xxs24_224": None, "samvit_base_patch16": None,
    "vit_small_patch16_384": None, "flexivit_small": None,
}  # fmt: skip
COUNTS = {"train": 20, "val": 4}  # images of each class


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_it_goes_the_whole_way(name: str, vitctl: Callable[..., Any], folder: Folder, tmp_path: Path) -> None:
    folder({f"{split}/{kind}": count for split, count in COUNTS.items() for kind in "ab"}, ending="jpg")
    theirs, repository = save_with_noise(name, tmp_path / "hub")
    ours, random = load_model(repository), torch.Generator().manual_seed(1)
    images = torch.randn(1, 3, ours.spec.height, ours.spec.width, generator=random)  # type: ignore[union-attr]
    with torch.no_grad():
        assert distance(theirs(images), ours(images)) < 1e-5
        features = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        assert distance(features, compute_pre_logits(ours, images)) < 1e-5
    res = ("--res", str(FAMILIES[name])) if FAMILIES[name] else ()
    if name.startswith("samvit"):  # one image at 1024 needs more than 20 GB
        res = ("--set", "checkpointing=true")
    line = ("finetune", "--from", f"timm:{name}", "--data", "pictures", "--steps", "3", "--batch", "4", *res,
            "--set", "save_every=1", "--set", "eval_every=0", "--json")  # fmt: skip
    with serving(tmp_path / "hub") as server:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache"),
               "no_proxy": "127.0.0.1"}  # fmt: skip
        whole = json.loads(vitctl(*line, "--out", "whole", env=env, before=("timeout", "1800")).out)
        kill_at_first_checkpoint((*line, "--out", "killed"), env, tmp_path)
        again = vitctl("finetune", "--resume", "killed", "--json", env=env, before=("timeout", "1800"))
    assert json.loads(again.out)["digest"] == whole["digest"]
    assert vitctl("evaluate", "--from", "whole", "--json").json["pictures"] == 2 * COUNTS["val"]
    for kind in ("onnx", "timm"):
        assert vitctl("export", "--from", "whole", "--format", kind, "--set", "pictures=8", "--json").json[
            "comparison"
        ]["agrees"]


def save_with_noise(name: str, hub: Path) -> tuple[Any, Path]:
    """timm's model with noise on every tensor, where the hub has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=random) * 0.02)
                if key.endswith("running_var"):
                    tensor.abs_().add_(0.1)
    folder = hub / f"timm/{name}.{model.pretrained_cfg['tag']}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_for_hf(model, folder, safe_serialization=True)
    return model, folder


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def kill_at_first_checkpoint(line: tuple[str, ...], env: dict[str, str], place: Path) -> None:
    whole = clean_environment(place) | env
    with subprocess.Popen(
        [sys.executable, "-m", "vitctl", *line], cwd=place, env=whole, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        while running.poll() is None and not list((place / "killed/checkpoints").glob("step-*.safetensors")):
            time.sleep(0.05)
        os.kill(running.pid, signal.SIGKILL) if running.poll() is None else None


SHARED: dict[str, dict[str, Any]] = {  # small models of timm
    "vit_small_patch16_dinov3": {"embed_dim": 48, "depth": 2, "num_heads": 4},
    "eva02_tiny_patch14_224": {"embed_dim": 48, "depth": 2, "num_heads": 4, "patch_size": 16},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]},
    "resnet18": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_two_ranks_train_it_as_one_does(name: str, vitctl: Callable[..., Any], folder: Folder, tmp_path: Path) -> None:
    """DDP and FSDP; stopped and resumed with the other way to share it. Batch norms see other images, so only end."""
    folder({f"{split}/{kind}": count for split, count in COUNTS.items() for kind in "ab"}, ending="jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name, **SHARED[name])
    save_for_hf(model, tmp_path / "w", safe_serialization=True, model_args=SHARED[name])
    line = ("finetune", "--from", "w", "--data", "pictures", "--steps", "4", "--batch", "8", "--precision", "float32",
            "--set", "eval_every=0", "--set", "log_every=1", "--set", "save_every=2", "--json")  # fmt: skip
    answers = {}
    for out, flags in (("one", ()), ("ddp", ("--devices", "2")), ("fsdp", ("--devices", "2", "--parallel", "fsdp"))):
        answers[out] = vitctl(*line, "--out", out, *flags).json
        assert answers[out]["ranks"] == 1 + (out != "one")
    shutil.copytree(tmp_path / "ddp", tmp_path / "resumed")
    for path in (*(tmp_path / "resumed").glob("*.safetensors"), tmp_path / "resumed" / "result.json"):
        path.unlink()
    max((tmp_path / "resumed" / "checkpoints").iterdir()).unlink()
    again = vitctl("finetune", "--resume", "resumed", "--devices", "2", "--parallel", "fsdp", "--json").json
    for told in (answers["ddp"], answers["fsdp"], again):
        if name != "resnet18":
            assert told["loss"] == pytest.approx(answers["one"]["loss"], rel=1e-3)
            assert told["val_loss"] == pytest.approx(answers["one"]["val_loss"], rel=1e-3)
    assert again["val_loss"] == pytest.approx(answers["ddp"]["val_loss"], rel=1e-4)
