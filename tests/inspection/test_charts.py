from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.inspection.charts import curves, draw_confusion, draw_curves, short_names

TRAIN = [{"step": step, "loss": 1 / step, "grad_norm": 1.0} for step in range(1, 9)]
VAL = [{"step": step, "val_loss": 1 / step} for step in (4, 8)]
WITH_LABELS = [line | {"top1": 0.1 * line["step"]} for line in TRAIN] + [line | {"val_top1": 0.5} for line in VAL]
PROBED = [line | {"probe_top1": 0.05 * line["step"]} for line in VAL]


def drawn(metrics: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """{what a panel shows: {its line: the steps}}."""
    return {
        axes.get_ylabel(): {
            line.get_label(): list(line.get_xdata()) for line in axes.lines if line.get_label()[0] != "_"
        }
        for axes in curves(metrics, "a title", "top-1").axes
    }


@pytest.mark.parametrize(
    ("metrics", "panels"),
    [
        (WITH_LABELS, ["loss", "top-1"]),
        ([*TRAIN, *PROBED], ["loss", "top-1 accuracy of the probe"]),  # mae: there is nothing that is right or wrong
        ([*WITH_LABELS, *PROBED], ["loss", "top-1", "top-1 accuracy of the probe"]),
        ([*TRAIN, *VAL], ["loss"]),
        (TRAIN, ["loss"]),
        ([], []),
    ],
)
def test_there_is_a_panel_for_what_was_logged_and_none_is_empty(
    metrics: list[dict[str, Any]], panels: list[str], tmp_path: Path
) -> None:
    panels_drawn = drawn(metrics)
    assert list(panels_drawn) == panels
    assert all(steps for lines in panels_drawn.values() for steps in lines.values())
    draw_curves(metrics, tmp_path / "curves.png", "a title")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width >= 900


def test_lines_are_where_they_were_logged() -> None:
    panels_drawn = drawn([*WITH_LABELS, *PROBED])
    assert panels_drawn["top-1"] == {"train": [*range(1, 9)], "val": [4, 8], "best: 50.0% at step 4": [4]}
    assert panels_drawn["top-1 accuracy of the probe"] == {"val": [4, 8], "best: 40.0% at step 8": [8]}


def test_names_of_files_lose_their_folders_only_where_they_differ() -> None:
    assert short_names(["runs/a/one.npz", "runs/two:best", "random:vit-s/16"]) == {
        "runs/a/one.npz": "one.npz", "runs/two:best": "two:best", "random:vit-s/16": "random:vit-s/16",
    }  # fmt: skip
    assert short_names(["a/one", "b/one"]) == {"a/one": "a/one", "b/one": "b/one"}


def test_selfsup_draws_its_probe(vitctl: Callable[..., Any], tmp_path: Path) -> None:
    vitctl("patchify", "digits", "data.h5", "--res", "16", "--patch", "8", "--quiet")
    line = ("selfsup", "--model", "vit-mu/8", "--objective", "mae", "--data", "data.h5", "--steps", "2", "--batch")
    for probe, width in ((5, 1350), (0, 900)):  # two panels, or the loss alone
        vitctl(*line, "16", "--probe", str(probe), "--out", f"run-{probe}", "--quiet")
        with Image.open(tmp_path / f"run-{probe}" / "curves.png") as image:
            assert image.width == width


def test_names_that_the_font_lacks_are_drawn_without_a_warning(tmp_path: Path) -> None:
    draw_confusion(np.diag([3, 4]), ["猫", "dog"], tmp_path / "c.png", "猫")
    with Image.open(tmp_path / "c.png") as drawn:
        assert drawn.width > 100
