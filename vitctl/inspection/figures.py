"""How figures look: on white with dark ink, so that they can be printed, and stand on a dark page as a card."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@contextmanager
def without_remarks() -> Iterator[None]:
    """matplotlib says nothing of its font cache, of a home that it cannot write, or of letters that its font lacks."""
    with mute_loggers("matplotlib"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def canvas(width: float, height: float, title: str, dpi: int = 150) -> Any:
    with without_remarks():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        lines = "\n".join(
            map(printable_text, title.split("\n"))
        )  # names from anywhere: no signs that steer, no formulas
        figure.suptitle(lines, fontsize=10, color=PAGE.ink, parse_math=False)
    return figure


def style_axes(axes: Any) -> None:
    """Two spines, and a light grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def hide_axes(axes: Any) -> None:
    """For an image: nothing around it."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def save_figure(figure: Any, path: Path) -> None:
    with atomic_write(path) as aside, without_remarks():
        figure.savefig(aside, format="png")
