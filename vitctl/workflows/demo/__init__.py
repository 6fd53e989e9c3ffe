"""`vitctl demo`: the whole chain on a few images, and one page to keep."""

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
    reporter, began = reporter or SilentReporter(), time.perf_counter()
    run, config = open_demo(config, out, resume, overwrite, reporter)
    shown = Demo(config, run.path, QuietReporter(reporter, bars=True))
    try:
        stages = run_stages(shown, run, reporter)
    except InputError:
        if not shown.data.exists():  # there was nothing to begin with, and nothing is left behind
            shutil.rmtree(run.path)
        raise
    results = [StageResult(each.name, each.told, seconds, str(each.file), each.line) for each, seconds in stages]
    file = PatchFile(shown.data)
    write_demo_page(run.path / PAGE, shown, stages, file)
    result = DemoResult(
        run=str(run.path),
        page=str(run.path / PAGE),
        data=config.data,
        data_digest=file.digest,
        classes=len(file.class_names),
        model=shown.model,
        seed=config.seed,
        stages=results,
        elapsed_s=time.perf_counter() - began,
    )
    run.finish(dataclasses.asdict(result))
    point_to(run.path.parent, f"{run.path.name}/finetune")  # what bare commands go on with
    return result


def run_stages(shown: Demo, run: RunDirectory, reporter: Reporter) -> list[tuple[Stage, float]]:
    """Every stage with its seconds: all that it took, if it was stopped in between."""
    stages = []
    for number, make in enumerate(STAGES, 1):
        clock = run.path / "seconds" / f"{number}.json"
        before, started = json.loads(clock.read_text()) if clock.exists() else 0.0, time.perf_counter()
        try:
            with stoppable(run=str(run.path)):
                stage = make(shown)
        finally:
            seconds = before + time.perf_counter() - started
            clock.parent.mkdir(exist_ok=True)
            write_json(clock, seconds)
        reporter.note(f"{number}/{len(STAGES)} {stage.name}: {stage.told}")
        stages.append((stage, seconds))
    return stages


def open_demo(
    config: DemoConfig, out: str | None, resume: str | None, overwrite: bool, reporter: Reporter
) -> tuple[RunDirectory, DemoConfig]:
    """A new folder, or one that is there, which knows its own settings."""
    if resume is None:
        path = Path(out) if out else new_folder(RUNS / "demo")
        if not out and path.name != "demo":
            reporter.note(f"run: {path}, as {RUNS / 'demo'} exists; --resume {RUNS / 'demo'} continues that one")
        asked, read = dataclasses.asdict(config), (config.data,)
        return create_run(path, "demo", asked, __version__, overwrite, newest=False, inputs=read), config
    run = open_run(Path(resume))
    if run.config["command"] != "demo":
        raise UsageError(f"{resume}: is a run of vitctl {run.config['command']}, not of demo")
    try:
        then = DemoConfig(**run.config["config"])
    except TypeError as error:
        raise UsageError(f"{resume}: was made by another version of vitctl; start over without --resume") from error
    if config not in (then, DemoConfig(), replace(then, device=config.device)):
        raise UsageError(f"{resume}: was started with other settings; leave them out, or start over without --resume")
    return run, replace(then, device=config.device)
