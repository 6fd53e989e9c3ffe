"""Accuracy against shots, a line for each model and probe."""

from pathlib import Path
from typing import Any

from vitctl.inspection.figures import COLORS, canvas, save_figure, style_axes

APART = 0.05  # of what stands over the same number of shots


def draw_shots(results: list[dict[str, Any]], path: Path, title: str) -> None:
    """`results` as the command gives them; "all" stands behind the last number."""
    figure = canvas(6.4, 4, title)
    axes = figure.subplots()
    style_axes(axes)
    numbers = sorted({each["shots"] for each in results if each["shots"] is not None})
    places = {shots: place for place, shots in enumerate([*numbers, None])}
    lines = sorted({(each["weights"], each["probe"]) for each in results}, key=str)
    for number, (weights, probe) in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        points = [each for each in results if (each["weights"], each["probe"]) == (weights, probe)]
        points.sort(key=lambda each: places[each["shots"]])
        x = [places[each["shots"]] + APART * (number - (len(lines) - 1) / 2) for each in points]
        y = [each["mean"] for each in points]
        axes.errorbar(x, y, [each["ci95"] or 0 for each in points], label=f"{weights}, {probe}", color=color,
                      marker="o", markersize=4, capsize=3)  # fmt: skip
    shown = {place: "all" if shots is None else str(shots) for shots, place in places.items()}
    used = sorted({places[each["shots"]] for each in results})
    axes.set_xticks(used, [shown[place] for place in used])
    axes.set_xlabel("shots per class")
    axes.set_ylabel("top-1 on the test images, 95% interval")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
