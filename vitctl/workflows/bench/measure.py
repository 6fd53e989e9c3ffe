"""Figures that can be trusted on a noisy machine: taken in turn, several times, and compared within a round."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vitctl.reporting import Reporter


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
    """`name` over `against`, from pairs taken in the same round."""

    name: str
    against: str
    median: float
    min: float
    max: float


@dataclass(frozen=True)
class BenchPart:
    """What one part of the bench found."""

    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # peers that are not installed
    remarks: list[str] = field(default_factory=list)

    def __add__(self, other: "BenchPart") -> "BenchPart":
        return BenchPart(
            self.figures + other.figures,
            self.ratios + other.ratios,
            self.left_out + other.left_out,
            self.remarks + other.remarks,
        )


Measurement = Callable[[], float]


def run_in_turn(
    measurements: Mapping[str, tuple[str, Measurement]], rounds: int, reporter: Reporter
) -> dict[str, list[float]]:
    """{name: one value a round}. In turn, so that a machine whose speed drifts drifts for all of them alike."""
    values: dict[str, list[float]] = {name: [] for name in measurements}
    with reporter.progress("bench", rounds * len(measurements), "figures") as bar:
        for _ in range(rounds):
            for name, (_, measure) in measurements.items():
                values[name].append(measure())
                bar.advance(1, now=name, value=values[name][-1])
    return values


def make_figure(name: str, unit: str, values: list[float]) -> Figure:
    return Figure(name, unit, statistics.median(values), min(values), max(values), len(values))


def make_ratio(values: Mapping[str, list[float]], name: str, against: str) -> Ratio:
    pairs = [one / other for one, other in zip(values[name], values[against], strict=True)]
    return Ratio(name, against, statistics.median(pairs), min(pairs), max(pairs))
