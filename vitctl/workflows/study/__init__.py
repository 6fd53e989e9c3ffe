"""`vitctl study`: the paper's tables and figures as runs, scaled to the time available."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitctl import __version__
from vitctl.config.study import StudyConfig
from vitctl.config.train import PretrainConfig
from vitctl.errors import DataError, UsageError
from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import RunDirectory, create_run, open_run
from vitctl.reporting import QuietReporter, Reporter, SilentReporter, format_count
from vitctl.training.device import choose_device
from vitctl.training.ranks import Ranks
from vitctl.workflows.inputs.data import LABEL_WORDS, choose_data, choose_judge_split
from vitctl.workflows.inputs.weights import RUNS
from vitctl.workflows.study.cells import tidy
from vitctl.workflows.study.gather import Group, StudyRow, draw_study_rows, group_cells, groups_of, write_study_csv
from vitctl.workflows.study.grids import SHARED, STUDIES, Setting
from vitctl.workflows.study.plan import StudyPlan, find_step_limit, load_earlier, plan_study, print_plan
from vitctl.workflows.subcommands import stoppable
from vitctl.workflows.train.start import Data, open_data


@dataclass(frozen=True)
class StudyResult:
    study: str
    source: str  # in the paper
    run: str
    data: str
    data_digest: str
    cells: int
    done: int
    steps: int | None  # of a cell; None: set by its recipe
    seeds: int
    scaled_down: list[str]
    flops: float  # of all cells, counted
    expected_s: float  # estimated before the first cell
    score: str
    rows: list[StudyRow]
    groups: list[Group]
    found: str  # the paper's result
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
    reporter, start_time = reporter or SilentReporter(), time.perf_counter()
    device = choose_device(config.device, Ranks())
    data = open_study_data(config, reporter)
    folder = Path(out or RUNS / f"study-{config.name}")
    plan = plan_study(config, STUDIES[config.name], data, folder, device, reporter, overwrite)
    print_plan(plan, reporter)
    if dry_run:
        return make_study_result(plan, data, None, device, time.perf_counter() - start_time)
    run = open_study_folder(plan, data, folder, overwrite)
    run_cells(plan, run, reporter)
    result = make_study_result(plan, data, run, device, time.perf_counter() - start_time)
    if result.done == result.cells:
        run.finish(dataclasses.asdict(result))
    return result


def open_study_data(config: StudyConfig, reporter: Reporter) -> Data:
    """The training data; for vtab, the first of its tasks, from which the cost of all is estimated."""
    if config.name != "vtab":
        path = choose_data(config.data, reporter)
        check_single_labels(PatchFile(path))
        data_config = PretrainConfig(data=str(path), val=choose_judge_split(PatchFile(path)))
        return open_data(data_config, Ranks(), SilentReporter())
    paths = sorted(Path(config.data).rglob("*.h5")) if config.data else []
    if not paths or not config.source:
        raise UsageError("vtab needs --data, a folder of patch files, and --from, the weights to fine-tune")
    for path in paths:
        check_single_labels(PatchFile(path))
    return open_data(PretrainConfig(data=str(paths[0]), val="test"), Ranks(), reporter)


def check_single_labels(file: PatchFile) -> None:
    if file.header.task != "classes":
        raise DataError(
            f"{file.path}: has {LABEL_WORDS[file.header.task]} per image, but a study compares top-1, which needs one "
            "class per image; use vitctl pretrain or finetune"
        )


# --- folder and cells ------------------------------------------------------------------------------------------------


def open_study_folder(plan: StudyPlan, data: Data, folder: Path, overwrite: bool) -> RunDirectory:
    """The study's folder: new, or resumed."""
    setting = plan.setting
    if not overwrite and (earlier := load_earlier(folder, setting.config, data.file.digest)):
        if any(earlier[name] != getattr(setting, name) for name in ("steps", "little", "seeds")):
            raise UsageError(f"{folder}: another machine has started this study; run the same command again")
        return open_run(folder)
    settled: dict[str, Any] = {"steps": setting.steps, "seeds": setting.seeds, "little": setting.little}
    settled |= {"scaled_down": plan.scaled_down}
    config = dataclasses.asdict(setting.config) | {"settled": settled, "data_digest": data.file.digest}
    inputs = (data.path, setting.config.data, setting.config.source, setting.config.target)
    return create_run(folder, "study", config, __version__, overwrite, newest=False, inputs=inputs)


def run_cells(plan: StudyPlan, run: RunDirectory, reporter: Reporter) -> None:
    """Run this machine's cells, except those that are done."""
    config, score = plan.setting.config, plan.study.score
    part, parts = config.part
    cells = plan.cells[part - 1 :: parts]
    done = [cell for cell in cells if cell.result()]
    with reporter.progress(config.name, len(cells), "cells", len(done)) as bar:
        for cell in cells:
            if cell in done:
                continue
            with stoppable(f"stopped; finished cells are in {run.path}"):
                cell.run(QuietReporter(reporter, bars=False), config.keep)
            result = cell.result() or {}
            bar.advance(1, cell=cell.name, **{score: result.get(score, "failed")})
    if not config.keep:
        tidy(run.path / SHARED)


def describe_setting(setting: Setting) -> str:
    steps = find_step_limit(setting)
    name = Path(setting.data).name
    length = f", up to {steps:,} steps of {setting.config.batch}" if steps else ""
    return f"{name}, {format_count(setting.seeds, 'seed')}{length}"


def draw_results(rows: list[StudyRow], plan: StudyPlan, run: RunDirectory | None) -> tuple[str | None, str | None]:
    """Figure and table of the finished cells."""
    if not run or not rows:
        return None, None
    figure, table = run.path / "study.png", run.path / "study.csv"
    title = f"{plan.study.title} ({plan.study.source})"
    draw_study_rows(rows, plan.study, figure, title, describe_setting(plan.setting))
    write_study_csv(rows, table)
    return str(figure), str(table)


def make_study_result(
    plan: StudyPlan, data: Data, run: RunDirectory | None, device: torch.device, elapsed: float
) -> StudyResult:
    setting = plan.setting
    rows = group_cells(plan.cells, plan.prices, plan.study.score) if run else []
    figure, table = draw_results(rows, plan, run)
    return StudyResult(
        study=setting.config.name,
        source=plan.study.source,
        run=str(run.path) if run else "",
        data=setting.data,
        data_digest=data.file.digest,
        cells=len(plan.cells),
        done=sum(cell.result() is not None for cell in plan.cells) if run else 0,
        steps=find_step_limit(setting),
        seeds=setting.seeds,
        scaled_down=plan.scaled_down,
        flops=plan.price.flops,
        expected_s=plan.price.seconds,
        score=plan.study.score,
        rows=rows,
        groups=groups_of(rows),
        found=plan.study.conclusion,
        figure=figure,
        table=table,
        device=device.type,
        elapsed_s=elapsed,
    )
