"""Loss and accuracy over the steps, on one page."""

from pathlib import Path
from typing import Any

from vitctl.io.atomic import replacing

TRAIN, VAL = "#7a7a7a", "#1f5fbf"


def draw_curves(metrics: list[dict[str, Any]], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=10)
    loss, accuracy = figure.subplots(1, 2)
    panel(loss, "loss", [("train", "loss", TRAIN), ("val", "val_loss", VAL)], metrics)
    panel(accuracy, "top-1", [("train", "top1", TRAIN), ("val", "val_top1", VAL)], metrics)
    with replacing(path) as aside:
        figure.savefig(aside, format="png")


def panel(axes: Any, label: str, lines: list[tuple[str, str, str]], metrics: list[dict[str, Any]]) -> None:
    for name, key, colour in lines:
        points = [(line["step"], line[key]) for line in metrics if key in line]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(
                steps, values, label=name, color=colour, marker="o" if key.startswith("val") else "", markersize=3
            )
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if label == "top-1":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if axes.lines:
        axes.legend(frameon=False)
