"""The run directory, which makes every printed number traceable.

    config.json            the resolved config, command, version, argv, library versions
    metrics.jsonl          one object per logged step; resuming deletes the lines after the checkpoint
    plans.jsonl            of a run in minutes: where it planned its steps anew, and the time by then
    clock.txt              of a run in minutes: the seconds that it has used, written every second
    checkpoints/           the last two
    best.safetensors       the weights with the best score on val so far
    weights.safetensors    the weights of the last step
    curves.png             loss and accuracy
    result.json            the output of --json; if it exists, the run has finished

`runs/LATEST` names the newest run, so that the next command finds it.
"""

import itertools
import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vitctl.errors import DataError, OutputExists, UsageError
from vitctl.io.atomic import flush_file, remove_leftovers, write_bytes, write_json
from vitctl.io.files import check_regular_file
from vitctl.io.lock import Held, hold_lock
from vitctl.io.outputs import Input, check_inputs_outside

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "h5py", "pillow", "scikit-learn")
LATEST = "LATEST"
LOCK = ".lock"
PLANS, CLOCK = "plans.jsonl", "clock.txt"


@dataclass(frozen=True)
class RunDirectory:
    path: Path
    config: dict[str, Any]
    whole: Path | None = None  # the whole run, if this is a part of one

    @property
    def root(self) -> Path:
        return self.whole or self.path

    @property
    def result(self) -> dict[str, Any] | None:
        path = self.path / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finish(self, result: dict[str, Any]) -> None:
        write_json(self.path / "result.json", result)

    def log(self, **metrics: Any) -> None:
        append_line(self.path / "metrics.jsonl", metrics)

    def log_plan(self, **plan: Any) -> None:
        append_line(self.path / PLANS, plan)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    def cut(self, step: int) -> None:
        """Deletes the metrics after a step, and temporary files."""
        for folder in (self.path, self.checkpoints):
            remove_leftovers(folder, "*")
        write_lines(self.path / "metrics.jsonl", [line for line in self.metrics() if line["step"] <= step])
        if (self.path / PLANS).exists():  # all of them count; a kill may have truncated the last one
            write_lines(self.path / PLANS, self.plans())

    def flush(self) -> None:
        for name in ("metrics.jsonl", PLANS):
            if (self.path / name).exists():
                flush_file(self.path / name)

    def part(self, name: str) -> "RunDirectory":
        """A run inside this one."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return RunDirectory(path, self.config, self.root)

    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "metrics.jsonl")

    def plans(self) -> list[dict[str, Any]]:
        return read_lines(self.path / PLANS)

    def sum_seconds(self) -> float:
        """Of the whole run, in all processes that trained it: by its clock, or by the plans of its parts."""
        used = [float(line["used_s"]) for path in self.root.rglob(PLANS) for line in read_lines(path)]
        clock = self.root / CLOCK
        text = clock.read_text() if clock.exists() else ""  # a kill may have left it empty
        return max([float(text or 0), *used])

    def write_clock(self, seconds: float) -> None:
        (self.root / CLOCK).write_text(f"{seconds:.3f}")


def append_line(path: Path, values: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    write_bytes(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every complete line; a kill may have truncated the last one."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def new_folder(path: Path) -> Path:
    """Creates `path`, or path-2, path-3, ... if it exists: no two processes get the same folder."""
    for number in itertools.count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")


@contextmanager
def lock_run(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a run. Creates its folder, and removes it at the end if it is still empty."""
    make_folder(path)
    try:
        with hold_lock(path / LOCK, warn):
            yield
    except Held as owner:
        raise OutputExists(f"{path}: {owner} is training this run; wait until it ends, or stop it") from None
    finally:
        with suppress(OSError):
            path.rmdir()


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be created ({error.strerror}); choose another path") from error


def create_run(
    path: Path,
    command: str,
    config: dict[str, Any],
    program: str,
    overwrite: bool = False,
    *,
    newest: bool = True,
    inputs: Iterable[Input] = (),
) -> RunDirectory:
    """A new run, which LATEST then names if `newest`. With `overwrite`, the run in this folder is deleted first."""
    remove_leftovers(path, "config.json")
    make_folder(path)
    old = [file for file in path.iterdir() if file.name != LOCK]
    if old and not (overwrite and path / "config.json" in old):
        raise OutputExists(f"{path}: is not empty; use --overwrite to replace a run, or another --out")
    if old:
        check_inputs_outside(path, inputs)
    for file in sorted(old, key=lambda file: file.name == "config.json"):  # last: it marks the folder as a run
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    facts: dict[str, Any] = {"command": command, "version": program, "argv": sys.argv[1:]}
    facts |= {"python": platform.python_version(), "libraries": library_versions(), "config": config}
    write_json(path / "config.json", facts)
    if newest:
        point_to(path.parent, path.name)
    return RunDirectory(path, facts)


def point_to(folder: Path, run: str) -> None:
    """Makes a run the newest of its folder."""
    write_bytes(folder / LATEST, f"{run}\n".encode())


def newest_run(folder: Path) -> Path:
    """The run that LATEST names."""
    check_regular_file(folder / LATEST)
    name = (folder / LATEST).read_bytes().decode("utf-8", "replace").strip()
    path = folder / name
    if not name.isprintable() or not name or not path.is_dir() or folder.resolve() not in path.resolve().parents:
        raise DataError(f"{folder / LATEST}: does not name a run in this folder; pass a run, or remove this file")
    return path


def resolve_run(path: Path) -> Path:
    """The newest run, if this is a folder of runs or its LATEST; otherwise the path itself."""
    if path.name == LATEST and path.is_file():
        path = path.parent
    return newest_run(path) if (path / LATEST).exists() and not (path / "config.json").exists() else path


def is_run(path: Path) -> bool:
    """Whether this folder is a run, or a folder of runs."""
    if (path / LATEST).is_file():
        return True
    try:
        return "command" in read_config(path)
    except (OSError, ValueError, TypeError, DataError):
        return False


def read_config(path: Path) -> dict[str, Any]:
    check_regular_file(path / "config.json")
    content: dict[str, Any] = json.loads((path / "config.json").read_text())
    return content


def open_run(path: Path) -> RunDirectory:
    """An existing run; a folder of runs means its newest."""
    path = resolve_run(path)
    try:
        config = read_config(path)
        return RunDirectory(path, {"command": config["command"], "version": config["version"]} | config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a run directory (no readable config.json)") from error


def library_versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
