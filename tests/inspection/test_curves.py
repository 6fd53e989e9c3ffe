from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitctl.inspection.curves import curves, draw_curves

TRAIN = [{"step": step, "loss": 1 / step, "grad_norm": 1.0} for step in range(1, 9)]
VAL = [{"step": step, "val_loss": 1 / step} for step in (4, 8)]
WITH_LABELS = [line | {"top1": 0.1 * line["step"]} for line in TRAIN] + [line | {"val_top1": 0.5} for line in VAL]
PROBED = [line | {"probe_top1": 0.05 * line["step"]} for line in VAL]


def drawn(metrics: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """{what a panel shows: {its line: the steps}}."""
    return {
        axes.get_ylabel(): {line.get_label(): list(line.get_xdata()) for line in axes.lines}
        for axes in curves(metrics, "a title", "top-1").axes
    }


@pytest.mark.parametrize(
    ("metrics", "panels"),
    [
        (WITH_LABELS, ["loss", "top-1"]),
        ([*TRAIN, *PROBED], ["loss", "top-1 of the probe"]),  # mae: there is nothing that is right or wrong
        ([*WITH_LABELS, *PROBED], ["loss", "top-1", "top-1 of the probe"]),
        ([*TRAIN, *VAL], ["loss"]),
        (TRAIN, ["loss"]),
        ([], []),
    ],
)
def test_there_is_a_panel_for_what_was_logged_and_none_is_empty(
    metrics: list[dict[str, Any]], panels: list[str], tmp_path: Path
) -> None:
    found = drawn(metrics)
    assert list(found) == panels
    assert all(steps for lines in found.values() for steps in lines.values())
    draw_curves(metrics, tmp_path / "curves.png", "a title")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width >= 900


def test_lines_are_where_they_were_logged() -> None:
    found = drawn([*WITH_LABELS, *PROBED])
    assert found["top-1"] == {"train": [*range(1, 9)], "val": [4, 8]}
    assert found["top-1 of the probe"] == {"val": [4, 8]}


def test_selfsup_draws_its_probe(vitctl: Callable[..., Any], tmp_path: Path) -> None:
    vitctl("patchify", "digits", "data.h5", "--res", "16", "--patch", "8", "--quiet")
    line = ("selfsup", "--model", "vit-mu/8", "--objective", "mae", "--data", "data.h5", "--steps", "2", "--batch")
    for probe, width in ((5, 1350), (0, 900)):  # two panels, or the loss alone
        vitctl(*line, "16", "--probe", str(probe), "--out", f"run-{probe}", "--quiet")
        with Image.open(tmp_path / f"run-{probe}" / "curves.png") as picture:
            assert picture.width == width
