"""From finished cells to a table with spreads, and a figure."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.inspection.charts import Point, StudyPanel, draw_study
from vitctl.io.atomic import atomic_write
from vitctl.io.csv_cells import text_cell
from vitctl.workflows.study.cells import Cell, Factors
from vitctl.workflows.study.grids import Study
from vitctl.workflows.study.price import Prices

MORE = ("parameters", "batch", "largest_batch")
LABELS = {"flops": "floating point operations of training", "seconds": "seconds of training"}


@dataclass(frozen=True)
class StudyRow:
    """One choice of factors, over its seeds."""

    factors: Factors
    seeds: int  # finished
    failed: int  # diverged, or ran out of memory
    mean: float | None
    std: float | None  # over seeds; None for a single one
    values: list[float]
    flops: float
    train_s: float  # or seconds of timing
    more: dict[str, float]  # other measurements


@dataclass(frozen=True)
class Group:
    """The mean over the tasks of a VTAB group."""

    group: str
    tasks: int
    mean: float


def group_cells(cells: Sequence[Cell], prices: Prices, score: str) -> list[StudyRow]:
    groups: dict[tuple[Any, ...], list[tuple[Cell, dict[str, Any]]]] = defaultdict(list)
    for cell in cells:
        result = cell.result()
        if result:
            groups[tuple(cell.factors.values())].append((cell, result))
    return [average_cells(each, prices, score) for each in groups.values()]


def average_cells(group: list[tuple[Cell, dict[str, Any]]], prices: Prices, score: str) -> StudyRow:
    first, finished = group[0][0], [result for _, result in group if result.get(score) is not None]
    values = [float(result[score]) for result in finished]
    return StudyRow(
        factors=first.factors,
        seeds=len(values),
        failed=len(group) - len(values),
        mean=statistics.fmean(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        values=values,
        flops=prices.total([first]).flops,
        train_s=statistics.fmean(result["train_s"] for result in finished) if finished else 0.0,
        more={name: value for name, value in (finished[0] if finished else {}).items() if name in MORE},
    )


def groups_of(rows: Sequence[StudyRow]) -> list[Group]:
    means: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if "group" in row.factors and row.mean is not None:
            means[str(row.factors["group"])].append(row.mean)
    groups = [Group(name, len(values), statistics.fmean(values)) for name, values in means.items()]
    every = [value for values in means.values() for value in values]
    return groups + ([Group("all tasks", len(every), statistics.fmean(every))] if len(groups) > 1 else [])


def draw_study_rows(rows: Sequence[StudyRow], study: Study, path: Path, title: str, about: str) -> None:
    panels = [StudyPanel(LABELS.get(name, name), lines(rows, name, study.lines), study.log) for name in study.x]
    draw_study(panels, path, title, about, study.score == "top1")


def lines(rows: Sequence[StudyRow], x: str, by: tuple[str, ...]) -> dict[str, list[Point]]:
    """The points of each line; the base setting is part of every line."""
    points: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        if row.mean is None:
            continue
        position = {"flops": row.flops, "seconds": row.train_s}.get(x, row.factors.get(x, 0.0))
        points[", ".join(str(row.factors[name]) for name in by)].append(Point(position, row.mean, row.std))
    base = points.pop("base", []) if len(points) > 1 else []
    return {name: [*line, *base] for name, line in points.items()}


def write_study_csv(rows: Sequence[StudyRow], path: Path) -> None:
    names = list(rows[0].factors) if rows else []
    with atomic_write(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*names, "mean", "std", "seeds", "flops", "train_s"])
        for row in rows:
            spread = "" if row.std is None else f"{row.std:.6f}"
            mean = "" if row.mean is None else f"{row.mean:.6f}"
            factors = [text_cell(value) if isinstance(value, str) else value for value in row.factors.values()]
            table.writerow([*factors, mean, spread, row.seeds, f"{row.flops:.4g}",
                            f"{row.train_s:.2f}"])  # fmt: skip
