"""A study as a figure: points with their spread, joined where what is on the axis is a number."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.inspection.figures import COLORS, canvas, save_figure, style_axes

MARKS = "osD^vP"
FEW, SHORT = 5, 6  # numbers, and their letters, that are marks of the axis themselves
MANY = 6  # words that stand side by side
APART = 0.12  # between lines that stand over the same word


@dataclass(frozen=True)
class Point:
    x: float | str
    mean: float
    std: float | None


@dataclass(frozen=True)
class StudyPanel:
    label: str
    lines: dict[str, list[Point]]
    log: bool = False


def draw_study(panels: Sequence[StudyPanel], path: Path, title: str, about: str, shares: bool) -> None:
    figure = canvas(5.6 * len(panels) + 0.8, 4.2, f"{title}\n{about}")
    for number, (axes, panel) in enumerate(zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)):
        style_axes(axes)
        words = list(dict.fromkeys(point.x for line in panel.lines.values() for point in line))
        if any(isinstance(word, str) for word in words):
            draw_groups(axes, panel, words)
        else:
            draw_lines(axes, panel)
        axes.set_xlabel(panel.label)
        if shares:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        if number == 0:
            spread = any(point.std is not None for line in panel.lines.values() for point in line)
            axes.set_ylabel(("top-1" if shares else "images a second") + ", mean and deviation of seeds" * spread)
            if len(panel.lines) > 1:
                axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def draw_lines(axes: Any, panel: StudyPanel) -> None:
    for (name, points), (color, mark) in zip(panel.lines.items(), series_style(), strict=False):
        points = sorted(points, key=lambda point: point.x)
        draw_study_bars(axes, [point.x for point in points], points, name, color, mark, "-")
    if panel.log:
        axes.set_xscale("log")
    values = sorted({float(point.x) for points in panel.lines.values() for point in points})
    words = [f"{value:g}" for value in values]
    if len(values) <= FEW and max(map(len, words)) <= SHORT:  # chosen, not measured
        axes.set_xticks(values, words)
        axes.minorticks_off()
    axes.margins(x=0.08)


def draw_groups(axes: Any, panel: StudyPanel, words: list[Any]) -> None:
    places = {word: place for place, word in enumerate(words)}
    left = -APART * (len(panel.lines) - 1) / 2
    for number, ((name, points), (color, mark)) in enumerate(zip(panel.lines.items(), series_style(), strict=False)):
        x = [places[point.x] + left + APART * number for point in points]
        draw_study_bars(axes, x, points, name, color, mark, "none")
    turned = {"rotation": 30, "ha": "right"} if len(words) > MANY else {}
    axes.set_xticks(range(len(words)), [str(word) for word in words], **turned)
    axes.margins(x=0.1)


def series_style() -> Iterator[tuple[str, str]]:
    """A color and a mark for each line, as many as there are."""
    return zip(itertools.cycle(COLORS), itertools.cycle(MARKS), strict=False)


def draw_study_bars(axes: Any, x: list[Any], points: list[Point], name: str, color: str, mark: str, line: str) -> None:
    axes.errorbar(
        x, [point.mean for point in points], [point.std or 0.0 for point in points], label=name, color=color,
        marker=mark, markersize=5, capsize=3, linestyle=line, linewidth=1.4,
    )  # fmt: skip
