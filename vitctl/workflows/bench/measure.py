"""Reliable figures on a noisy machine: cases are measured in turn, several times, and compared within a round."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from vitctl.reporting import Reporter

Measurement = Callable[[], float]
Curves = dict[str, list[list[tuple[float, float]]]]  # by case and run: minutes and top-1, filled while it is measured


@dataclass(frozen=True)
class Figure:
    name: str
    unit: str
    median: float
    min: float
    max: float
    runs: int


@dataclass(frozen=True)
class Ratio:
    """`name` over `against`, from pairs of the same round."""

    name: str
    against: str
    median: float
    min: float
    max: float


@dataclass(frozen=True)
class CaseTable:
    """Cases that are measured together, {name: a function that measures it once}, and the pairs to compare."""

    cases: dict[str, Measurement]
    pairs: Sequence[tuple[str, str]]  # a pair with a missing case is ignored
    skipped: Sequence[str] = ()  # peers that are not installed
    remarks: Callable[[dict[str, float]], list[str]] = lambda medians: []
    units: dict[str, str] = field(default_factory=dict)  # img/s for every other case
    curves: Curves = field(default_factory=dict)


@dataclass(frozen=True)
class BenchPart:
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # peers that are not installed
    remarks: list[str] = field(default_factory=list)
    curves: Curves = field(default_factory=dict)

    def add(self, table: CaseTable, rounds: int, reporter: Reporter) -> None:
        """Measures every case once per round, so that a drift of the machine's speed affects all cases alike."""
        values: dict[str, list[float]] = {name: [] for name in table.cases}
        with reporter.progress("bench", rounds * len(values), "figures") as bar:
            for _ in range(rounds):
                for name, measure in table.cases.items():
                    values[name].append(measure())
                    bar.advance(1, now=name, value=values[name][-1])
        for name, runs in values.items():
            unit = table.units.get(name, "img/s")
            self.figures.append(Figure(name, unit, statistics.median(runs), min(runs), max(runs), len(runs)))
        for name, against in table.pairs:
            if name in values and against in values:
                runs = [one / other for one, other in zip(values[name], values[against], strict=True)]
                self.ratios.append(Ratio(name, against, statistics.median(runs), min(runs), max(runs)))
        self.left_out.extend(table.skipped)
        self.curves.update(table.curves)
        self.remarks.extend(table.remarks({name: statistics.median(runs) for name, runs in values.items()}))


def time_seconds(run: Callable[[], object], device: torch.device | None = None) -> float:
    started = time.perf_counter()
    run()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
