"""`vitctl demo`: the whole chain on a few pictures, and one page to keep."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from vitctl import __version__
from vitctl.config.demo import DemoConfig
from vitctl.errors import UsageError
from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import RunDirectory, create_run, open_run
from vitctl.reporting import Reporter, Silent
from vitctl.workflows.asked import stoppable
from vitctl.workflows.demo.page import PAGE, write
from vitctl.workflows.demo.stages import STAGES, Demo
from vitctl.workflows.load import RUNS


@dataclass(frozen=True)
class StageResult:
    stage: str
    result: str
    seconds: float
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
    reporter, began = reporter or Silent(), time.perf_counter()
    run, config = begun(config, out, resume, overwrite)
    shown = Demo(config, run.path, BarsOnly(reporter))
    stages, results = [], []
    for number, make in enumerate(STAGES, 1):
        started = time.perf_counter()
        with stoppable(run=str(run.path)):
            stage = make(shown)
        took = time.perf_counter() - started
        reporter.note(f"{number}/{len(STAGES)} {stage.name}: {stage.told}")
        stages.append(stage)
        results.append(StageResult(stage.name, stage.told, took, str(stage.file), stage.line))
    file = PatchFile(shown.data)
    write(run.path / PAGE, shown, stages, [each.seconds for each in results], file)
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
    return result


def begun(config: DemoConfig, out: str | None, resume: str | None, overwrite: bool) -> tuple[RunDirectory, DemoConfig]:
    """A new folder, or one that is there, which knows its own settings."""
    if resume is None:
        path = Path(out) if out else new_folder()
        return create_run(path, "demo", dataclasses.asdict(config), __version__, overwrite, newest=False), config
    run = open_run(Path(resume))
    if run.config["command"] != "demo":
        raise UsageError(f"{resume}: is a run of vitctl {run.config['command']}, not of demo")
    then = DemoConfig(**run.config["config"])
    if config not in (then, DemoConfig()):
        raise UsageError(f"{resume}: began with other settings; give none, or begin anew without --resume")
    return run, then


def new_folder() -> Path:
    path, number = RUNS / "demo", 2
    while path.exists():
        path, number = RUNS / f"demo-{number}", number + 1
    return path


class BarsOnly:
    """Of what the stages tell on the way, the bars and the warnings: the rest is on the page."""

    def __init__(self, reporter: Reporter) -> None:
        self.warn, self.progress = reporter.warn, reporter.progress

    def note(self, text: str) -> None:
        return None
