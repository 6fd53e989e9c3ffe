"""`vitctl demo`: every command on a few images, and a page of the results."""

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from vitctl import __version__
from vitctl.config.demo import DemoConfig
from vitctl.errors import InputError, UsageError
from vitctl.io.atomic import write_json
from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import RunDirectory, create_run, new_folder, open_run, point_to
from vitctl.reporting import QuietReporter, Reporter, SilentReporter
from vitctl.workflows.demo.page import PAGE, write_demo_page
from vitctl.workflows.demo.stages import STAGES, Demo, Stage
from vitctl.workflows.inputs.weights import RUNS
from vitctl.workflows.subcommands import stoppable


@dataclass(frozen=True)
class StageResult:
    stage: str
    result: str
    elapsed_s: float
    file: str
    command: str


@dataclass(frozen=True)
class DemoResult:
    run: str
    page: str
    data: str
    data_digest: str
    classes: int
    model: str
    seed: int
    stages: list[StageResult]
    elapsed_s: float


def demo(
    config: DemoConfig,
    reporter: Reporter | None = None,
    *,
    out: str | None = None,
    resume: str | None = None,
    overwrite: bool = False,
) -> DemoResult:
    reporter, start_time = reporter or SilentReporter(), time.perf_counter()
    run, config = open_demo(config, out, resume, overwrite, reporter)
    demo_run = Demo(config, run.path, QuietReporter(reporter, bars=True))
    try:
        stages = run_stages(demo_run, run, reporter)
    except InputError:
        if not demo_run.data.exists():  # no data was written: leave nothing behind
            shutil.rmtree(run.path)
        raise
    results = [StageResult(each.name, each.summary, seconds, str(each.file), each.line) for each, seconds in stages]
    file = PatchFile(demo_run.data)
    write_demo_page(run.path / PAGE, demo_run, stages, file)
    result = DemoResult(
        run=str(run.path),
        page=str(run.path / PAGE),
        data=config.data,
        data_digest=file.digest,
        classes=len(file.class_names),
        model=demo_run.model,
        seed=config.seed,
        stages=results,
        elapsed_s=time.perf_counter() - start_time,
    )
    run.finish(dataclasses.asdict(result))
    point_to(run.path.parent, f"{run.path.name}/finetune")  # the default of later commands
    return result


def run_stages(demo: Demo, run: RunDirectory, reporter: Reporter) -> list[tuple[Stage, float]]:
    """Every stage with its total seconds, including those before it was resumed."""
    stages = []
    for number, make in enumerate(STAGES, 1):
        clock = run.path / "seconds" / f"{number}.json"
        earlier, start_time = json.loads(clock.read_text()) if clock.exists() else 0.0, time.perf_counter()
        try:
            with stoppable(run=str(run.path)):
                stage = make(demo)
        finally:
            seconds = earlier + time.perf_counter() - start_time
            clock.parent.mkdir(exist_ok=True)
            write_json(clock, seconds)
        reporter.note(f"{number}/{len(STAGES)} {stage.name}: {stage.summary}")
        stages.append((stage, seconds))
    return stages


def open_demo(
    config: DemoConfig, out: str | None, resume: str | None, overwrite: bool, reporter: Reporter
) -> tuple[RunDirectory, DemoConfig]:
    """A new folder, or an existing one with its stored settings."""
    if resume is None:
        path = Path(out) if out else new_folder(RUNS / "demo")
        if not out and path.name != "demo":
            reporter.note(f"run: {path}, as {RUNS / 'demo'} exists; --resume {RUNS / 'demo'} continues that one")
        fields = dataclasses.asdict(config)
        return create_run(path, "demo", fields, __version__, overwrite, newest=False, inputs=(config.data,)), config
    run = open_run(Path(resume))
    if run.config["command"] != "demo":
        raise UsageError(f"{resume}: is a run of vitctl {run.config['command']}, not of demo")
    try:
        old = DemoConfig(**run.config["config"])
    except TypeError as error:
        raise UsageError(f"{resume}: was made by another version of vitctl; start over without --resume") from error
    if config not in (old, DemoConfig(), replace(old, device=config.device)):
        raise UsageError(f"{resume}: was started with other settings; leave them out, or start over without --resume")
    return run, replace(old, device=config.device)
