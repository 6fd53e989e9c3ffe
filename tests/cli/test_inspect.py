import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitctl

Run = Callable[..., Any]
FIGURES = ("rollout", "heads", "distance", "filters", "positions", "layers", "cka")


def test_bare_it_draws_everything(ran: Run, data: str, newest: str) -> None:
    told = json.loads(ran("inspect", "--json").stdout)
    assert set(told) == {
        "command", "version", "run", "page", "weights", "weights_digest", "model", "res", "step", "data",
        "data_digest", "split", "pictures", "figures", "numbers", "explained_variance", "uniform_distance",
        "distances", "cka", "layer_top1", "shots", "left_out", "device", "elapsed_s"}  # fmt: skip
    assert [Path(each).stem for each in told["figures"]] == list(FIGURES)
    assert all(Path(each).stat().st_size > 1000 for each in told["figures"])
    assert (told["pictures"], told["step"], told["left_out"]) == (30, 60, [])
    assert np.shape(told["distances"]) == (1, 2)
    assert 0 < told["distances"][0][0] < 2 * told["uniform_distance"]
    assert (np.shape(told["cka"]), len(told["layer_top1"])) == ((2, 2), 2)
    with np.load(told["numbers"], allow_pickle=False) as numbers:
        np.testing.assert_allclose(numbers["distances"], told["distances"])
        assert numbers["rollout"].shape == (8, 2, 2)
        assert numbers["heads"].shape == (8, 2, 2, 2)
        assert numbers["position_similarity"].shape == (4, 4)
    page = Path(told["page"]).read_text()
    assert page.count("data:image/png;base64,") == 7
    assert "http" not in page.replace("http-equiv", "")
    assert {"config.json", "result.json"} <= {each.name for each in Path(told["run"]).iterdir()}


def test_the_newest_run_stays_the_one_that_was_trained(ran: Run, data: str, newest: str) -> None:
    ran("inspect")
    assert Path("runs/LATEST").read_text() == "one\n"


def test_another_resolution_shows_positions_before_and_after(ran: Run, data: str, newest: str) -> None:
    told = json.loads(ran("inspect", "--res", "32", "--out", "seen", "--json").stdout)
    assert told["res"] == [32, 32]
    with np.load("seen/numbers.npz", allow_pickle=False) as numbers:
        assert numbers["position_similarity_before"].shape == (4, 4)
        assert numbers["position_similarity"].shape == (16, 16)
    assert "is not empty" in ran("inspect", "--out", "seen", code=2).stderr
    ran("inspect", "--out", "seen", "--overwrite")


def test_images_of_ones_own(ran: Run, newest: str, blots: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("text")
    options = ("--images", str(blots / "val" / "ant"), "--images", "broken.jpg")
    answer = ran("inspect", *options, "--out", "seen", "--json")
    told = json.loads(answer.stdout)
    assert told["pictures"] == 10
    assert "warning: broken.jpg" in answer.stderr
    assert len(told["left_out"]) == 2  # no labels, and too few images to compare layers
    assert [Path(each).stem for each in told["figures"]] == list(FIGURES[:5])
    assert "give one of them" in ran("inspect", *options, "--data", "digits", code=2).stderr


@pytest.mark.parametrize(("name", "figures", "left_out"), [
    ("axial-vit-mu/8", ["distance", "filters", "positions", "layers", "cka"], 1),
    ("bit-r50x1", ["filters"], 2),
    ("r+vit-mu/16", [*FIGURES], 0),
])  # fmt: skip
def test_every_family(ran: Run, data: str, tmp_path: Path, name: str, figures: list[str], left_out: int) -> None:
    model = vitctl.create_model(name, height=64, width=64, classes=3)
    vitctl.save_as(vitctl.weights_of(model), tmp_path / "weights.safetensors")
    told = json.loads(ran("inspect", "--from", "weights.safetensors", "--out", "seen", "--json").stdout)
    assert [Path(each).stem for each in told["figures"]] == figures
    assert len(told["left_out"]) == left_out
