"""A run that 0.1 began goes on by 0.1's laws, though its settings have other meanings now."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Run = Callable[..., Result]
LINE = (
    "pretrain", "--model", "vit-mu/8", "--data", "data.h5", "--recipe", "small", "--steps", "6", "--batch", "16",
    "--device", "cpu", "--precision", "float32")  # fmt: skip
SETTINGS = (
    "ema=0.9", "save_every=2", "log_every=1", "eval_every=0", "augment.randaug_layers=2",
    "augment.randaug_magnitude=15",
    "augment.erase=0.5")  # fmt: skip
BY_TODAYS_NAMES = (  # what 0.1 did with crop=inception and randaug_space=tf
    "augment.crop=random-resized", "augment.crop_ratio=0.75,1.3333333333333333", "augment.filter=bilinear",
    "augment.randaug_space=tf-unwrapped", "augment.erase_fill=bytes", "ema_ramp=false")  # fmt: skip
BY_ITS_OWN = ("augment.crop=inception", "augment.randaug_space=tf", "augment.filter=bilinear")


def assign(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def kept(run: Path) -> dict[str, bytes]:
    paths = [run / "weights.safetensors", run / "best.safetensors", run / "metrics.jsonl", *run.glob("checkpoints/*")]
    return {path.name: path.read_bytes() for path in paths}


def as_of_01(run: Path) -> None:
    """The run as 0.1 would have left it at a kill: without its end, and with the config.json of that version."""
    for name in ("result.json", "weights.safetensors", "curves.png"):
        (run / name).unlink()
    max((run / "checkpoints").iterdir()).unlink()
    facts = json.loads((run / "config.json").read_text())
    config, augment = facts["config"], facts["config"]["augment"]
    assert (config.pop("config_version"), config.pop("ema_ramp"), augment.pop("erase_fill")) == (2, False, "bytes")
    assert (augment["crop"], augment["randaug_space"]) == ("random-resized", "tf-unwrapped")
    augment["crop"], augment["randaug_space"] = "inception", "tf"
    (run / "config.json").write_text(json.dumps(facts))


def test_a_run_of_01_ends_in_the_bytes_that_it_would_have_had(ran: Run, data: str, tmp_path: Path) -> None:
    ran(*LINE, *assign(*SETTINGS, *BY_TODAYS_NAMES), "--out", "whole")
    for number, again in enumerate((["pretrain", "--resume"], [*LINE, *assign(*SETTINGS, *BY_ITS_OWN), "--resume"])):
        old = tmp_path / f"old-{number}"
        shutil.copytree(tmp_path / "whole", old)
        as_of_01(old)
        assert "resuming at step" in ran(*again, old).stderr
        assert kept(old) == kept(tmp_path / "whole")


def test_a_run_of_today_means_tensorflows_by_the_same_name(ran: Run, data: str, tmp_path: Path) -> None:
    ran(*LINE, *assign(*SETTINGS, *BY_ITS_OWN), "--out", "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("result.json", "weights.safetensors", "curves.png"):
        (tmp_path / "cut" / name).unlink()
    max((tmp_path / "cut" / "checkpoints").iterdir()).unlink()
    ran(*LINE, *assign(*SETTINGS, *BY_ITS_OWN), "--resume", "cut")
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")
    ran(*LINE, *assign(*SETTINGS, *BY_TODAYS_NAMES), "--out", "other")
    assert kept(tmp_path / "other")["weights.safetensors"] != kept(tmp_path / "whole")["weights.safetensors"]
