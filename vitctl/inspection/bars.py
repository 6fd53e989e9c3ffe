"""How many times as quick one thing is as another: a bar each, with its spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitctl.inspection.figures import PAGE, canvas, save_figure, style_axes


@dataclass(frozen=True)
class Bar:
    label: str
    median: float
    low: float
    high: float


def draw_bars(bars: Sequence[Bar], path: Path, title: str, about: str) -> None:
    figure = canvas(10, 1.4 + 0.34 * len(bars), f"{title}\n{about}")
    axes = figure.subplots()
    style_axes(axes)
    places = range(len(bars))[::-1]  # the first one is above
    reach = [[bar.median - bar.low for bar in bars], [bar.high - bar.median for bar in bars]]
    axes.barh(places, [bar.median for bar in bars], xerr=reach, color=PAGE.main, ecolor=PAGE.ink, capsize=3, height=0.6)
    axes.axvline(1.0, color=PAGE.second, linewidth=1.2)  # as quick
    axes.set_yticks(places, [bar.label for bar in bars], fontsize=8, parse_math=False)
    axes.set_xscale("log")
    axes.set_xlabel("times, median with smallest and largest")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for place, bar in zip(places, bars, strict=True):
        axes.annotate(f" {bar.median:.2f}", (bar.high, place), va="center", fontsize=8)
    save_figure(figure, path)
