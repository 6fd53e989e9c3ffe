"""Which file is meant by the weights of a run.

RUN          after training with labels the best on val; otherwise the last; of an unfinished run its best or newest
RUN:best     best on val
RUN:last     those of the last step; of an unfinished run those of its newest checkpoint
RUN:step-N   those of the checkpoint of step N, while it is kept
"""

import re
from dataclasses import dataclass
from pathlib import Path

from vitctl.errors import DataError, UsageError, WeightsError
from vitctl.io.checkpoint import checkpoints, step_of
from vitctl.io.run_directory import LATEST, RunDirectory, is_run, newest_run, open_run

LABELED = ("pretrain", "finetune")  # commands whose best weights are chosen by accuracy on val


@dataclass(frozen=True)
class RunWeights:
    file: Path
    note: str  # which ones they are


def split_reference(reference: str) -> tuple[Path, str]:
    """("runs/a", "best") of runs/a:best; without a suffix, or where a file has just this name, (the path, "")."""
    name, _, which = reference.rpartition(":")
    if Path(reference).exists() or not re.fullmatch(r"best|last|step-\d+", which) or not Path(name).exists():
        return Path(reference), ""
    return Path(name), which


def run_weights(reference: str) -> RunWeights | None:
    """None where the reference is no run."""
    path, which = split_reference(reference)
    if path.name == LATEST and path.is_file():
        path = path.parent
    if not path.is_dir() or not is_run(path):
        if which:
            raise UsageError(f"{reference}: {path} is not a run directory, so it has no weights called {which}")
        return None
    if (path / LATEST).exists() and not (path / "config.json").exists():
        path = newest_run(path)
    return weights_in(open_run(path), which)


def weights_in(run: RunDirectory, which: str = "") -> RunWeights:
    steps = {f"step-{step_of(each)}": each for each in checkpoints(run.checkpoints)}
    is_labeled = run.config["command"] in LABELED
    if which in steps:
        return RunWeights(steps[which], "")
    if (which == "best" or (not which and is_labeled)) and run.best.exists():
        other = "" if which else f"; {run.path}:last are those of the last step"
        return RunWeights(run.best, f"the best on val{other}" + explain_unfinished(run))
    if which in ("", "last") and run.weights.exists():
        return RunWeights(run.weights, "")
    if which in ("", "last") and steps:
        name, newest = list(steps.items())[-1]
        return RunWeights(newest, f"of its checkpoint {name}" + explain_unfinished(run))
    if not which and run.best.exists():
        return RunWeights(run.best, "the best so far" + explain_unfinished(run))
    there = [name for name, is_there in (("best", run.best.exists()), ("last", run.weights.exists())) if is_there]
    known = ", ".join([*there, *steps])
    raise WeightsError(
        f"{run.path}: has no weights{f' called {which}' if which else ''}; "
        + (f"it has {known}" if known else "none were saved yet")
    )


def explain_unfinished(run: RunDirectory) -> str:
    return "" if run.weights.exists() else "; this run is not finished"


def newest_with_weights(folder: Path) -> tuple[Path, str]:
    """Of a folder of runs, and why it was taken."""
    try:
        newest = newest_run(folder)
        weights_in(open_run(newest))
        return newest, "the newest run"
    except (DataError, WeightsError) as error:
        reason = error
    others = [each.parent for each in folder.glob("*/config.json")]
    for path in sorted(others, key=lambda each: (each / "config.json").stat().st_mtime, reverse=True):
        try:
            weights_in(open_run(path))
        except (DataError, WeightsError):
            continue
        return path, f"the newest run with weights ({reason})"
    raise reason
