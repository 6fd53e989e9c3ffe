"""The demo, as small as it gets: what it leaves, and that each of its commands does by itself what it did there."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest

from tests.browser import BROWSER, seen
from vitctl.io.run_directory import open_run

Run = Callable[..., Any]
TINY = [part for each in ("model=vit-mu", "steps=12", "batch=8") for part in ("--set", each)]
STAGES = [
    "patchify", "selfsup", "pretrain", "interpolate-pos", "finetune", "fewshot", "inspect", "export",
    "predict"]  # fmt: skip


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run(["vitctl", "demo", "--quiet", *TINY], cwd=folder, check=True, capture_output=True)
    return folder


def test_every_stage_leaves_its_file_and_stands_on_the_page(shown: Path) -> None:
    result = json.loads((shown / "runs/demo/result.json").read_text())
    assert [each["stage"] for each in result["stages"]] == STAGES
    page = (shown / "runs/demo/index.html").read_text()
    for stage in result["stages"]:
        assert (shown / stage["file"]).exists(), stage["file"]
        assert escape(stage["result"]) in page
    assert page.count("data:image/png;base64,") >= 9
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page_whole_and_fetches_nothing(
    shown: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    for page in ("runs/demo/index.html", "runs/demo/inspect/index.html"):
        found = seen(shown / page, width, tmp_path / page.replace("/", "-"), dark)
        assert found["width"] <= width
        assert len(found["pictures"]) > 5
        assert min(found["pictures"]) > 0
        assert [name for name in found["asked"] if not name.startswith("data:")] == []
        assert found["complaints"] == []
        assert found["paper"] == ("rgb(20, 22, 26)" if dark else "rgb(255, 255, 255)")


def test_each_command_does_what_it_did_there(shown: Path, ran: Run, tmp_path: Path) -> None:
    stages = json.loads((shown / "runs/demo/result.json").read_text())["stages"]
    digests = {
        name: open_run(shown / "runs/demo" / name).result["digest"] for name in ("selfsup", "pretrain", "finetune")
    }
    for stage in stages:
        if stage["stage"] == "predict":
            shutil.copytree(shown / "runs/demo/pictures", tmp_path / "runs/demo/pictures")
        (tmp_path / "runs/demo").mkdir(parents=True, exist_ok=True)
        words = shlex.split(stage["command"])
        assert words[0] == "vitctl"
        ran(*words[1:], "--quiet")
        assert (tmp_path / stage["file"]).exists()
    assert {name: open_run(tmp_path / "runs/demo" / name).result["digest"] for name in digests} == digests
    for name in ("interpolated.safetensors", "data.h5"):
        assert (tmp_path / "runs/demo" / name).read_bytes() == (shown / "runs/demo" / name).read_bytes()


def test_one_that_was_stopped_goes_on(shown: Path, ran: Run, tmp_path: Path) -> None:
    shutil.copytree(shown / "runs", tmp_path / "runs")
    trained = tmp_path / "runs/demo/pretrain/weights.safetensors"
    before = trained.stat().st_mtime_ns
    for name in ("weights.safetensors", "result.json"):  # as if it had been killed at its last step
        (tmp_path / "runs/demo/finetune" / name).unlink()
    for name in ("result.json", "index.html"):
        (tmp_path / "runs/demo" / name).unlink()
    ran("demo", "--resume", "runs/demo", "--quiet")
    assert trained.stat().st_mtime_ns == before
    assert (tmp_path / "runs/demo/index.html").exists()
    weights = "runs/demo/finetune/weights.safetensors"
    assert (tmp_path / weights).read_bytes() == (shown / weights).read_bytes()


def test_what_cannot_be_gone_on_with_is_refused(shown: Path, refused: Run) -> None:
    run = shown / "runs/demo"
    assert "was started with other settings" in refused("demo", "--resume", run, "--seed", "7", code=2)
    assert "is a run of vitctl pretrain, not of demo" in refused("demo", "--resume", run / "pretrain", code=2)
    assert "is not empty" in refused("demo", "--out", run, code=2)


def test_own_images_without_a_held_out_split(folder: Run, ran: Run, tmp_path: Path) -> None:
    folder({"cat": 12, "dog": 12}, ending="png")
    ran("demo", "--data", "pictures", "--set", "patch=8", *TINY, "--quiet")
    result = json.loads((tmp_path / "runs/demo/result.json").read_text())
    assert (result["classes"], result["model"]) == (2, "vit-mu/8")
    assert "--split val=0.2" in result["stages"][0]["command"]


def test_images_with_a_test_split_and_few_of_a_class(folder: Run, ran: Run, tmp_path: Path) -> None:
    folder({"train/cat": 4, "train/dog": 4, "test/cat": 3, "test/dog": 3}, ending="png")
    ran("demo", "--data", "pictures", "--set", "patch=8", *TINY, "--quiet")
    stages = json.loads((tmp_path / "runs/demo/result.json").read_text())["stages"]
    assert "--set val=test" in stages[2]["command"]
    assert "nothing held out" not in stages[2]["result"]
    assert "--shots 10" not in stages[5]["command"]
    page = (tmp_path / "runs/demo/index.html").read_text()
    assert "vitctl demo --data pictures --set model=vit-mu --set patch=8 --set steps=12 --set batch=8" in page


def test_what_is_no_image_leaves_nothing_behind(folder: Run, ran: Run, refused: Run, tmp_path: Path) -> None:
    folder({"cat": 2, "dog": 2}, ending="png")
    ran("patchify", "pictures", "data.h5", "--res", "16", "--patch", "8", "--quiet")
    assert "is a patch file; the demo needs the images" in refused("demo", "--data", "data.h5", code=3)
    assert "nowhere does not exist" in refused("demo", "--data", "nowhere", code=3)
    assert not list(tmp_path.glob("runs/demo*"))


def test_images_of_one_class_are_told_before_anything_is_trained(folder: Run, refused: Run) -> None:
    folder({"cat": 12}, ending="png")
    assert "fewer than two classes" in refused("demo", "--data", "pictures", *TINY, "--quiet", code=3)
