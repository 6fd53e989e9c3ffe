"""`vitctl study`: the paper's tables and figures as runs, at the scale that there is time for."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitctl import __version__
from vitctl.config.study import StudyConfig
from vitctl.errors import UsageError
from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import RunDirectory, create_run, open_run
from vitctl.reporting import Muted, Reporter, Silent, counted
from vitctl.training.ranks import Ranks
from vitctl.workflows.choose import choose_data, judge_of
from vitctl.workflows.load import RUNS
from vitctl.workflows.study.cells import tidy
from vitctl.workflows.study.gather import Group, Row, draw, grouped, groups_of, write_table
from vitctl.workflows.study.grids import SHARED, STUDIES, Setting, Study
from vitctl.workflows.study.plan import Plan, earlier, planned, steps_of, tell
from vitctl.workflows.subcommands import stoppable
from vitctl.workflows.train.start import Data, device_of, open_data


@dataclass(frozen=True)
class StudyResult:
    study: str
    source: str  # in the paper
    run: str
    data: str
    data_digest: str
    cells: int
    done: int
    steps: int | None  # of a cell; None: what its recipe says
    seeds: int
    scaled_down: list[str]
    flops: float  # of all cells, counted
    expected_s: float  # before it began
    score: str
    rows: list[Row]
    groups: list[Group]
    found: str  # by the paper
    figure: str | None
    table: str | None
    device: str
    elapsed_s: float


def study(
    config: StudyConfig,
    reporter: Reporter | None = None,
    *,
    out: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> StudyResult:
    reporter, began = reporter or Silent(), time.perf_counter()
    device, row = device_of(config.device, Ranks()), STUDIES[config.name]
    data = data_of(config, reporter)
    folder = Path(out or RUNS / f"study-{config.name}")
    plan = planned(config, row, data, folder, device, reporter, overwrite)
    tell(plan, reporter)
    if dry_run:
        return result_of(plan, row, data, None, device, time.perf_counter() - began)
    run = kept(plan, data, folder, overwrite)
    work(plan, run, reporter)
    result = result_of(plan, row, data, run, device, time.perf_counter() - began)
    if result.done == result.cells:
        run.finish(dataclasses.asdict(result))
    return result


def data_of(config: StudyConfig, reporter: Reporter) -> Data:
    """What is trained on; of many tasks the first, by which the others are priced."""
    if config.name != "vtab":
        path = choose_data(config.data, reporter)
        return open_data({"data": str(path), "val": judge_of(PatchFile(path))}, Ranks(), Silent(), with_labels=True)
    paths = sorted(Path(config.data).rglob("*.h5")) if config.data else []
    if not paths or not config.source:
        raise UsageError("vtab wants --data, a folder of patch files, and --from, the weights to transfer")
    return open_data({"data": str(paths[0]), "val": "test"}, Ranks(), reporter, with_labels=True)


# --- its place, and its cells ----------------------------------------------------------------------------------------


def kept(plan: Plan, data: Data, folder: Path, overwrite: bool) -> RunDirectory:
    """The study's folder: a new one, or one that goes on."""
    setting = plan.setting
    if not overwrite and (then := earlier(folder, setting.config, data.file.digest)):
        if then["steps"] != setting.steps or then["little"] != setting.little or then["seeds"] != setting.seeds:
            raise UsageError(f"{folder}: another machine began this study meanwhile; run the same command again")
        return open_run(folder)
    settled: dict[str, Any] = {"steps": setting.steps, "seeds": setting.seeds, "little": setting.little}
    settled |= {"scaled_down": plan.scaled_down}
    config = dataclasses.asdict(setting.config) | {"settled": settled, "data_digest": data.file.digest}
    read = (data.path, setting.config.data, setting.config.source, setting.config.target)
    return create_run(folder, "study", config, __version__, overwrite, newest=False, inputs=read)


def work(plan: Plan, run: RunDirectory, reporter: Reporter) -> None:
    """The cells of this machine, those that are not done."""
    which, of = plan.setting.config.part
    mine, score = plan.cells[which - 1 :: of], STUDIES[plan.setting.config.name].score
    done = [cell for cell in mine if cell.measured()]
    with reporter.progress(plan.setting.config.name, len(mine), "cells", len(done)) as bar:
        for cell in mine:
            if cell in done:
                continue
            with stoppable(f"stopped; {run.path} has what is done"):
                cell.run(Muted(reporter, bars=False), plan.setting.config.keep)
            found = cell.measured() or {}
            bar.advance(1, cell=cell.name, **{score: found.get(score, "failed")})
    if not plan.setting.config.keep:
        tidy(run.path / SHARED)


def about(setting: Setting) -> str:
    steps = steps_of(setting)
    name = Path(setting.data).name
    length = f", up to {steps:,} steps of {setting.config.batch}" if steps else ""
    return f"{name}, {counted(setting.seeds, 'seed')}{length}"


def drawn(rows: list[Row], row: Study, plan: Plan, run: RunDirectory | None) -> tuple[str | None, str | None]:
    """Figure and table of what is done."""
    if not run or not rows:
        return None, None
    figure, table = run.path / "study.png", run.path / "study.csv"
    draw(rows, row, figure, f"{row.title} ({row.source})", about(plan.setting))
    write_table(rows, table)
    return str(figure), str(table)


def result_of(
    plan: Plan, row: Study, data: Data, run: RunDirectory | None, device: torch.device, elapsed: float
) -> StudyResult:
    setting, config = plan.setting, plan.setting.config
    done = [found for cell in plan.cells if run and (found := cell.measured())]
    rows = grouped(plan.cells, plan.prices, row.score) if run else []
    figure, table = drawn(rows, row, plan, run)
    return StudyResult(
        study=config.name,
        source=row.source,
        run=str(run.path) if run else "",
        data=setting.data,
        data_digest=data.file.digest,
        cells=len(plan.cells),
        done=len(done),
        steps=steps_of(setting),
        seeds=setting.seeds,
        scaled_down=plan.scaled_down,
        flops=plan.price.flops,
        expected_s=plan.price.seconds,
        score=row.score,
        rows=rows,
        groups=groups_of(rows),
        found=row.found,
        figure=figure,
        table=table,
        device=device.type,
        elapsed_s=elapsed,
    )
