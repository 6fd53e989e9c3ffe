"""Loss and accuracy over the steps, on one page."""

from pathlib import Path
from typing import Any

from vitctl.inspection.figures import PAGE, canvas, save_figure, style_axes

Points = tuple[list[float], list[float]]
TRAIN, VAL = PAGE.quiet, PAGE.main


def draw_curves(metrics: list[dict[str, Any]], path: Path, title: str, top1: str = "top-1") -> None:
    save_figure(curves(metrics, title, top1), path)


def curves(metrics: list[dict[str, Any]], title: str, top1: str) -> Any:
    """A figure with a panel for each measure that was logged; `top1` says of what that one is a share."""
    panels = {
        "loss": {"train": "loss", "val": "val_loss"},
        top1: {"train": "top1", "val": "val_top1"},
        "top-1 of the probe": {"val": "probe_top1"},
    }
    found = {label: {name: points(metrics, key) for name, key in lines.items()} for label, lines in panels.items()}
    drawn = {label: lines for label, lines in found.items() if any(steps for steps, _ in lines.values())}
    figure = canvas(max(6.0, 4.5 * len(drawn)), 3.6, title)
    places = figure.subplots(1, len(drawn), sharex=True, squeeze=False)[0] if drawn else ()
    for axes, (label, lines) in zip(places, drawn.items(), strict=True):
        panel(axes, label, lines)
    return figure


def points(metrics: list[dict[str, Any]], key: str) -> Points:
    lines = [line for line in metrics if key in line]
    return [line["step"] for line in lines], [line[key] for line in lines]


def panel(axes: Any, label: str, lines: dict[str, Points]) -> None:
    for name, (steps, values) in lines.items():
        if steps:
            color, marker = (VAL, "o") if name == "val" else (TRAIN, "")
            axes.plot(steps, values, label=name, color=color, marker=marker, markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    style_axes(axes)
    if label != "loss":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.legend(frameon=False)
