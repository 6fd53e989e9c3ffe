"""`vitctl bench`: this machine's speed, compared with its limits and with the usual tools.

Each part is a generator of case tables, which are measured one after another. It may write into its folder.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vitctl import __version__
from vitctl.config.bench import BenchConfig
from vitctl.inspection.charts import Bar, draw_bars, draw_minutes
from vitctl.io.run_directory import create_run, library_versions
from vitctl.machine import cores, keep_freed_memory
from vitctl.reporting import Reporter, SilentReporter
from vitctl.workflows.bench.accuracy import bench_accuracy
from vitctl.workflows.bench.data import bench_data
from vitctl.workflows.bench.export import bench_export
from vitctl.workflows.bench.fewshot import bench_fewshot
from vitctl.workflows.bench.loops import bench_features, bench_selfsup, bench_train
from vitctl.workflows.bench.measure import BenchPart, CaseTable, Curves, Figure, Ratio
from vitctl.workflows.bench.models import bench_models
from vitctl.workflows.doctor import examine

PARTS: dict[str, Callable[[BenchConfig, Path, Reporter], Iterator[CaseTable]]] = {
    "data": bench_data,
    "models": bench_models,
    "train": bench_train,
    "selfsup": bench_selfsup,
    "features": bench_features,
    "fewshot": bench_fewshot,
    "export": bench_export,
    "accuracy": bench_accuracy,
}
NEEDS = {"fewshot": "features"}  # parts that are also measured
ALONE = ("accuracy",)  # not among all parts


@dataclass(frozen=True)
class BenchResult:
    machine: str
    cores: int
    libraries: dict[str, str]
    figures: list[Figure]
    ratios: list[Ratio]
    left_out: list[str]  # peers that are not installed
    remarks: list[str]
    curves: Curves  # of accuracy
    elapsed_s: float


def bench(
    config: BenchConfig, reporter: Reporter | None = None, *, out: str | None = None, overwrite: bool = False
) -> BenchResult:
    started, reporter, run = time.perf_counter(), reporter or SilentReporter(), None
    if out:
        inputs = (config.data,)
        run = create_run(Path(out), "bench", dataclasses.asdict(config), __version__, overwrite, inputs=inputs)
    keep_freed_memory()
    part = BenchPart()
    for name, measure in PARTS.items():
        is_asked = config.what == name or (config.what == "all" and name not in ALONE)
        if is_asked or NEEDS.get(config.what) == name:
            with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as folder:
                for table in measure(config, Path(folder), reporter):
                    part.add(table, config.times, reporter)
    elapsed = time.perf_counter() - started
    result = BenchResult(describe_machine(), cores(), library_versions(), **vars(part), elapsed_s=elapsed)
    if run:
        bars = [Bar(f"{each.name}  /  {each.against}", each.median, each.min, each.max) for each in result.ratios]
        draw_bars(bars, run.path / "bench.png", f"vitctl bench {config.what}", result.machine)
        if result.curves:
            draw_minutes(result.curves, run.path / "accuracy.png", f"top-1 by the clock, {config.data}", result.machine)
        run.finish(dataclasses.asdict(result))
    return result


def describe_machine() -> str:
    facts = examine()
    return f"{facts.device} ({', '.join(facts.devices)}), bf16 {facts.precisions.get('bf16', 'unknown')}"
