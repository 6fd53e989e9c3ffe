"""Charts of results: curves, ratios, few-shot accuracy, confusion matrices and studies.

Figures are white with dark ink, so that they can be printed and look like a card on a dark page.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.io.atomic import atomic_write
from vitctl.reporting import mute_loggers, printable_text


@dataclass(frozen=True)
class Page:
    ink: str = "#181a1e"
    quiet: str = "#70767f"
    line: str = "#d9dde2"
    main: str = "#1f5fbf"
    second: str = "#c2571a"


PAGE = Page()
COLORS = (PAGE.main, PAGE.second, "#2b8a3e", "#8a2b7d", "#7a7a7a", "#b8860b")  # of lines, in this order
MARKS = "osD^vP"
NUMBERS = "R²"  # a panel that may be below zero


@contextmanager
def mute_matplotlib() -> Iterator[None]:
    """Mutes matplotlib's messages about its font cache, a read-only home and letters that its font lacks."""
    with mute_loggers("matplotlib"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def canvas(width: float, height: float, title: str, dpi: int = 150) -> Any:
    with mute_matplotlib():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    if title:  # it may contain names from anywhere: no control characters, no formulas
        text = "\n".join(map(printable_text, title.split("\n")))
        figure.suptitle(text, fontsize=10, color=PAGE.ink, parse_math=False)
    return figure


def style_axes(axes: Any) -> None:
    """Two spines, and a light grid in the background."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def hide_axes(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def show_percent(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def add_color_bar(figure: Any, axes: Any, image: Any, label: str, shrink: float) -> None:
    """The scale of a matrix, whose axes lose their ticks and spines."""
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=shrink, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def save_figure(figure: Any, path: Path) -> None:
    with atomic_write(path) as aside, mute_matplotlib():
        figure.savefig(aside, format="png")


Points = tuple[list[float], list[float]]


def draw_curves(metrics: list[dict[str, Any]], path: Path, title: str, top1: str = "top-1 accuracy") -> None:
    save_figure(curves(metrics, title, top1), path)


def curves(metrics: list[dict[str, Any]], title: str, top1: str) -> Any:
    """Loss and accuracy over the steps, with a panel for each measure that was logged; `top1` names the accuracy."""
    panels = {
        "loss": {"train": "loss", "val": "val_loss"},
        top1: {"train": "top1", "val": "val_top1"},
        "top-1 accuracy of the probe": {"val": "probe_top1"},
        "mAP": {"val": "val_mean_average_precision"},
        NUMBERS: {"val": "val_r_squared"},
    }
    series = {label: {name: points(metrics, key) for name, key in lines.items()} for label, lines in panels.items()}
    logged = {label: lines for label, lines in series.items() if any(steps for steps, _ in lines.values())}
    figure = canvas(max(6.0, 4.5 * len(logged)), 3.6, title)
    grid = figure.subplots(1, len(logged), sharex=True, squeeze=False)[0] if logged else ()
    for axes, (label, lines) in zip(grid, logged.items(), strict=True):
        panel(axes, label, lines)
    return figure


def points(metrics: list[dict[str, Any]], key: str) -> Points:
    lines = [line for line in metrics if key in line]
    return [line["step"] for line in lines], [line[key] for line in lines]


def panel(axes: Any, label: str, lines: dict[str, Points]) -> None:
    drawn: list[float] = []  # what the axis is fitted to
    for name, (steps, values) in lines.items():
        if steps and name == "val":
            axes.plot(steps, values, label=name, color=PAGE.main, marker="o", markersize=3)
            drawn += values
        elif steps:
            smooth = smooth_values(values)
            axes.plot(steps, values, color=PAGE.quiet, alpha=0.35, linewidth=0.8)
            axes.plot(steps, smooth, label=name, color=PAGE.quiet)
            drawn += smooth
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    style_axes(axes)
    if label != "loss":
        steps, values = lines["val"]
        if steps:
            best = int(np.argmax(values))
            shown = f"{values[best]:.3f}" if label == NUMBERS else f"{values[best]:.1%}"
            axes.plot(steps[best], values[best], label=f"best: {shown} at step {steps[best]:,}",
                      color=PAGE.second, marker="o", markersize=8, fillstyle="none", linestyle="none")  # fmt: skip
    if label not in ("loss", NUMBERS):
        show_percent(axes.yaxis)
    low, high = min(drawn), max(drawn)
    margin = 0.08 * (high - low) or 0.05
    axes.set_ylim(low - margin if label == NUMBERS else max(0.0, low - margin), high + margin)
    axes.legend(frameon=False)


def smooth_values(values: Sequence[float]) -> list[float]:
    """A moving average over a twentieth of the line."""
    reach, sums = len(values) // 40, np.cumsum([0.0, *values])
    starts = [(max(0, at - reach), min(len(values), at + reach + 1)) for at in range(len(values))]
    return [float(sums[end] - sums[start]) / (end - start) for start, end in starts]


@dataclass(frozen=True)
class Bar:
    """A ratio: how many times as fast one thing is as another."""

    label: str
    median: float
    low: float
    high: float


def draw_bars(bars: Sequence[Bar], path: Path, title: str, about: str) -> None:
    figure = canvas(10, 1.4 + 0.34 * len(bars), f"{title}\n{about}")
    axes = figure.subplots()
    style_axes(axes)
    places = range(len(bars))[::-1]  # the first bar is at the top
    spread = [[bar.median - bar.low for bar in bars], [bar.high - bar.median for bar in bars]]
    axes.barh(places, [bar.median for bar in bars], xerr=spread, color=PAGE.main, ecolor=PAGE.ink, capsize=3,
              height=0.6)  # fmt: skip
    axes.axvline(1.0, color=PAGE.second, linewidth=1.2)  # equally fast
    axes.set_yticks(places, [bar.label for bar in bars], fontsize=8, parse_math=False)
    axes.set_xscale("log")
    axes.set_xlabel("ratio: median, minimum and maximum")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for place, bar in zip(places, bars, strict=True):
        axes.annotate(f" {bar.median:.2f}", (bar.high, place), va="center", fontsize=8)
    save_figure(figure, path)


def draw_minutes(curves: Mapping[str, list[list[tuple[float, float]]]], path: Path, title: str, about: str) -> None:
    """Accuracy over minutes, a line per run and a color per program."""
    figure = canvas(7, 4.2, f"{title}\n{about}")
    axes = figure.subplots()
    style_axes(axes)
    for number, (name, runs) in enumerate(curves.items()):
        for index, points in enumerate(runs):
            axes.plot(*zip(*points, strict=True), color=COLORS[number % len(COLORS)], marker=MARKS[number % len(MARKS)],
                      markersize=4, linewidth=1.2, label=name if index == 0 else None)  # fmt: skip
    axes.set_xlabel("minutes")
    axes.set_ylabel("top-1 accuracy")
    axes.set_xlim(left=0)
    show_percent(axes.yaxis)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def draw_confusion(counts: Any, names: Sequence[str], path: Path, title: str) -> None:
    """`counts` [K, K] of true class and predicted class; colors are shares of the true class.

    Up to 60 classes the axes have names, and up to 20 the cells have counts.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, max(4.6, 0.42 * len(names) + 2.2))
    figure = canvas(side + 0.9, side, title)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= 60:
        short = [name if len(name) <= 18 else f"{name[:17]}…" for name in names]
        axes.set_xticks(range(len(names)), short, rotation=90 if max(map(len, short)) > 2 else 0, fontsize=8)
        axes.set_yticks(range(len(names)), short, fontsize=8)
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if shares[row, column] > 0.55 else PAGE.ink
                axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=ink)
    add_color_bar(figure, axes, image, "share of the true class", 0.8)
    save_figure(figure, path)


def draw_shots(results: list[dict[str, Any]], path: Path, title: str, x_label: str, score: str) -> None:
    """The score of each model and probe over the shots; "all" is drawn behind the largest number."""
    figure = canvas(6.4, 4, title)
    axes = figure.subplots()
    style_axes(axes)
    axes.set_xscale("log")
    largest = max((each["shots"] for each in results if each["shots"] is not None), default=1)
    x_of = {each["shots"]: each["shots"] or 2 * largest for each in results}
    lines = sorted({(each["weights"], each["probe"]) for each in results}, key=str)
    names = short_names([weights for weights, _ in lines])
    for number, (weights, probe) in enumerate(lines):
        cells = [each for each in results if (each["weights"], each["probe"]) == (weights, probe)]
        cells.sort(key=lambda each: x_of[each["shots"]])
        x = [x_of[each["shots"]] * 1.04 ** (number - (len(lines) - 1) / 2) for each in cells]  # bars do not overlap
        axes.errorbar(x, [each["mean"] for each in cells], [each["ci95"] or 0 for each in cells],
                      label=f"{names[weights]}, {probe}", color=COLORS[number % len(COLORS)], marker="o",
                      markersize=4, capsize=3)  # fmt: skip
    axes.set_xticks(list(x_of.values()), ["all" if shots is None else str(shots) for shots in x_of])
    axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(f"{score}, 95% interval")
    if score != "R²":
        show_percent(axes.yaxis)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def short_names(weights: Sequence[str]) -> dict[str, str]:
    """File names without their folders, if they differ. `random:vit-s/16` and `timm:NAME` are not paths."""
    short = {name: re.sub(r"^[^:]*/", "", name) for name in weights}
    return short if len(set(short.values())) == len(short) else {name: name for name in weights}


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
        xs = list(dict.fromkeys(point.x for line in panel.lines.values() for point in line))
        if any(isinstance(x, str) for x in xs):
            draw_groups(axes, panel, xs)
        else:
            draw_lines(axes, panel)
        axes.set_xlabel(panel.label)
        if shares:
            show_percent(axes.yaxis)
        if number == 0:
            spread = any(point.std is not None for line in panel.lines.values() for point in line)
            measure = "top-1 accuracy" if shares else "images per second"
            axes.set_ylabel(measure + ", mean and standard deviation" * spread)
            if len(panel.lines) > 1:
                axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def draw_lines(axes: Any, panel: StudyPanel) -> None:
    """Points over numbers, joined by lines."""
    draw_series(axes, panel, lambda _, point: point.x, "-")
    if panel.log:
        axes.set_xscale("log")
    values = sorted({float(point.x) for points in panel.lines.values() for point in points})
    labels = [f"{value:g}" for value in values]
    if len(values) <= 5 and max(map(len, labels)) <= 6:  # few round numbers were chosen: label exactly these
        axes.set_xticks(values, labels)
        axes.minorticks_off()
    axes.margins(x=0.08)


def draw_groups(axes: Any, panel: StudyPanel, words: list[Any]) -> None:
    """Points over words, those of several lines side by side."""
    gap = 0.12
    left = -gap * (len(panel.lines) - 1) / 2
    draw_series(axes, panel, lambda number, point: words.index(point.x) + left + gap * number, "none")
    rotation = {"rotation": 30, "ha": "right"} if len(words) > 6 else {}
    axes.set_xticks(range(len(words)), [str(word) for word in words], **rotation)
    axes.margins(x=0.1)


def draw_series(axes: Any, panel: StudyPanel, place: Callable[[int, Point], Any], line: str) -> None:
    """`place` gives the x of a point of the line with that number."""
    styles = zip(itertools.cycle(COLORS), itertools.cycle(MARKS), strict=False)
    for number, ((name, points), (color, mark)) in enumerate(zip(panel.lines.items(), styles, strict=False)):
        points = sorted(points, key=lambda point: place(number, point))
        axes.errorbar(
            [place(number, point) for point in points], [point.mean for point in points],
            [point.std or 0.0 for point in points], label=name, color=color, marker=mark, markersize=5, capsize=3,
            linestyle=line, linewidth=1.4,
        )  # fmt: skip
