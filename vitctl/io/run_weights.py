"""Finds the weights file of a run.

RUN          the best on val after training with labels, otherwise the last; of an unfinished run its best or newest
RUN:best     the best on val
RUN:last     the last step; of an unfinished run, its newest checkpoint
RUN:step-N   the checkpoint of step N, if it still exists
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vitctl.errors import DataError, UsageError, WeightsError
from vitctl.io.checkpoint import checkpoints, step_of
from vitctl.io.run_directory import LATEST, RunDirectory, is_run, newest_run, open_run

LABELED = ("pretrain", "finetune")  # commands whose best weights are chosen by accuracy on val


@dataclass(frozen=True)
class RunWeights:
    file: Path
    note: str  # which weights these are


def split_reference(reference: str) -> tuple[Path, str]:
    """("runs/a", "best") from runs/a:best; (path, "") without a suffix, or if a file has this very name."""
    name, _, which = reference.rpartition(":")
    if Path(reference).exists() or not re.fullmatch(r"best|last|step-\d+", which) or not Path(name).exists():
        return Path(reference), ""
    return Path(name), which


def run_weights(reference: str) -> RunWeights | None:
    """None if the reference is not a run."""
    path, which = split_reference(reference)
    if path.name == LATEST and path.is_file():
        path = path.parent
    if not path.is_dir() or not is_run(path):
        if which:
            raise UsageError(f"{reference}: {path} is not a run directory, so it has no weights named {which}")
        return None
    return weights_in(open_run(path), which)


def weights_in(run: RunDirectory, which: str = "") -> RunWeights:
    steps = {f"step-{step_of(each)}": each for each in checkpoints(run.checkpoints)}
    is_labeled = run.config["command"] in LABELED
    if which in steps:
        return RunWeights(steps[which], "")
    if (which == "best" or (not which and is_labeled)) and run.best.exists():
        other = "" if which else f"; {run.path}:last for the last step"
        return RunWeights(run.best, f"the best on val{other}" + explain_unfinished(run))
    if which in ("", "last") and run.weights.exists():
        return RunWeights(run.weights, "")
    if which in ("", "last") and steps:
        name, newest = list(steps.items())[-1]
        return RunWeights(newest, f"from its checkpoint {name}" + explain_unfinished(run))
    if not which and run.best.exists():
        return RunWeights(run.best, "the best so far" + explain_unfinished(run))
    existing = [name for name, file in (("best", run.best), ("last", run.weights)) if file.exists()]
    known = ", ".join([*existing, *steps])
    raise WeightsError(
        f"{run.path}: has no weights{f' named {which}' if which else ''}; "
        + (f"available: {known}" if known else "none were saved yet")
    )


def explain_unfinished(run: RunDirectory) -> str:
    return "" if run.weights.exists() else "; the run is not finished"


def newest_with_weights(folder: Path) -> tuple[Path, str]:
    """The newest run of a folder that has weights, and why it was chosen."""
    try:
        newest = newest_run(folder)
        weights_in(open_run(newest))
        return newest, "the newest run"
    except (DataError, WeightsError) as error:
        reason = error
    for config in sorted(folder.glob("*/config.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        with suppress(DataError, WeightsError):
            weights_in(open_run(config.parent))
            return config.parent, f"the newest run with weights ({reason})"
    raise reason
