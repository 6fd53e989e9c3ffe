"""Loss and accuracy over the steps, on one page."""

from pathlib import Path
from typing import Any

from vitctl.inspection.figures import PAGE, canvas, plain, save

TRAIN, VAL = PAGE.quiet, PAGE.main


def draw_curves(metrics: list[dict[str, Any]], path: Path, title: str) -> None:
    figure = canvas(9, 3.6, title)
    loss, accuracy = figure.subplots(1, 2)
    panel(loss, "loss", [("train", "loss", TRAIN), ("val", "val_loss", VAL)], metrics)
    panel(accuracy, "top-1", [("train", "top1", TRAIN), ("val", "val_top1", VAL)], metrics)
    save(figure, path)


def panel(axes: Any, label: str, lines: list[tuple[str, str, str]], metrics: list[dict[str, Any]]) -> None:
    for name, key, color in lines:
        points = [(line["step"], line[key]) for line in metrics if key in line]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=name, color=color, marker="o" if key.startswith("val") else "", markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    plain(axes)
    if label == "top-1":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    if axes.lines:
        axes.legend(frameon=False)
