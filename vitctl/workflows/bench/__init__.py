"""`vitctl bench`: how far this machine's runs are from its limits, and from the usual tools."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from vitctl import __version__
from vitctl.config.bench import BenchConfig
from vitctl.inspection.charts import Bar, draw_bars
from vitctl.io.run_directory import create_run, library_versions
from vitctl.machine import cores, keep_freed_memory
from vitctl.reporting import Reporter, SilentReporter
from vitctl.workflows.bench.data import bench_data
from vitctl.workflows.bench.export import bench_export
from vitctl.workflows.bench.features import bench_features
from vitctl.workflows.bench.fewshot import bench_fewshot
from vitctl.workflows.bench.measure import BenchPart, Figure, Ratio
from vitctl.workflows.bench.models import bench_models
from vitctl.workflows.bench.selfsup import bench_selfsup
from vitctl.workflows.bench.train import bench_train
from vitctl.workflows.doctor import examine

PARTS = {
    "data": bench_data,
    "models": bench_models,
    "train": bench_train,
    "selfsup": bench_selfsup,
    "features": bench_features,
    "fewshot": bench_fewshot,
    "export": bench_export,
}
NEEDS = {"fewshot": "features"}  # what is measured with it


@dataclass(frozen=True)
class BenchResult:
    machine: str
    cores: int
    libraries: dict[str, str]
    figures: list[Figure]
    ratios: list[Ratio]
    left_out: list[str]  # peers that are not installed
    remarks: list[str]
    elapsed_s: float


def bench(
    config: BenchConfig, reporter: Reporter | None = None, *, out: str | None = None, overwrite: bool = False
) -> BenchResult:
    started = time.perf_counter()
    run = None
    if out:
        read = (config.data,)
        run = create_run(Path(out), "bench", dataclasses.asdict(config), __version__, overwrite, inputs=read)
    keep_freed_memory()
    found = BenchPart()
    for name, measure in PARTS.items():
        if config.what in (name, "all") or NEEDS.get(config.what) == name:
            found += measure(config, reporter or SilentReporter())
    result = BenchResult(
        machine=describe_machine(),
        cores=cores(),
        libraries=library_versions(),
        **vars(found),
        elapsed_s=time.perf_counter() - started,
    )
    if run:
        bars = [Bar(f"{each.name}  /  {each.against}", each.median, each.min, each.max) for each in result.ratios]
        draw_bars(bars, run.path / "bench.png", f"vitctl bench {config.what}", result.machine)
        run.finish(dataclasses.asdict(result))
    return result


def describe_machine() -> str:
    facts = examine()
    return f"{facts.device} ({', '.join(facts.devices)}), bf16 {facts.precisions.get('bf16', 'unknown')}"
