"""Accuracy against shots, a line for each model and probe."""

from pathlib import Path
from typing import Any

from vitctl.io.atomic import replacing

COLOURS = ("#1f5fbf", "#c2571a", "#2b8a3e", "#8a2b7d", "#7a7a7a", "#b8860b")


def draw_shots(results: list[dict[str, Any]], path: Path, title: str) -> None:
    """`results` as the command gives them; "all" stands behind the last number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    numbers = sorted({each["shots"] for each in results if each["shots"] is not None})
    places = {shots: place for place, shots in enumerate([*numbers, None])}
    lines = sorted({(each["weights"], each["probe"]) for each in results}, key=str)
    for colour, (weights, probe) in zip(COLOURS * len(lines), lines, strict=False):
        points = [each for each in results if (each["weights"], each["probe"]) == (weights, probe)]
        points.sort(key=lambda each: places[each["shots"]])
        x, y = [places[each["shots"]] for each in points], [each["mean"] for each in points]
        axes.errorbar(x, y, [each["ci95"] or 0 for each in points], label=f"{weights}, {probe}", color=colour,
                      marker="o", markersize=4, capsize=3)  # fmt: skip
    shown = {place: "all" if shots is None else str(shots) for shots, place in places.items()}
    used = sorted({places[each["shots"]] for each in results})
    axes.set_xticks(used, [shown[place] for place in used])
    axes.set_xlabel("shots a class")
    axes.set_ylabel("top-1 on the test pictures, 95% interval")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    with replacing(path) as aside:
        figure.savefig(aside, format="png")
