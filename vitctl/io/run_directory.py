"""The run directory: everything that makes a printed number traceable.

    config.json            the whole resolved config, command, version, argv, library versions
    metrics.jsonl          one object a logged step; cut back to the checkpoint that a run goes on from
    checkpoints/           where it stands: the last two
    best.safetensors       the weights that were best on val so far
    weights.safetensors    the last ones
    curves.png             loss and accuracy
    result.json            what --json printed; its presence means finished

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
from vitctl.io.outputs import Input, check_kept

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "h5py", "pillow", "scikit-learn")
LATEST = "LATEST"
LOCK = ".lock"


@dataclass(frozen=True)
class RunDirectory:
    path: Path
    config: dict[str, Any]
    whole: Path | None = None  # of a part: the run that it is of

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
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")

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
        """Leaves what was logged up to a step, and nothing half written."""
        for folder in (self.path, self.checkpoints):
            remove_leftovers(folder, "*")
        kept = [line for line in self.metrics() if line["step"] <= step]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept)
        write_bytes(self.path / "metrics.jsonl", text.encode())

    def flush(self) -> None:
        if (self.path / "metrics.jsonl").exists():
            flush_file(self.path / "metrics.jsonl")

    def part(self, name: str) -> "RunDirectory":
        """A run inside this one."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return RunDirectory(path, self.config, self.root)

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line; one that a kill cut short does not count."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]


def new_folder(wanted: Path) -> Path:
    """`wanted`, or the same with a number behind it; made here, so that it is nobody else's."""
    for number in itertools.count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("numbers do not end")


@contextmanager
def lock_run(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """The run for this process alone; the folder is made where it is missing, and goes if nothing comes into it."""
    make_folder(path)
    try:
        with hold_lock(path / LOCK, warn):
            yield
    except Held as owner:
        raise OutputExists(f"{path}: {owner} is training this run; wait for it, or stop it first") from None
    finally:
        with suppress(OSError):
            path.rmdir()


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be made ({error.strerror}); choose another place") from error


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
    """A new run; a folder that holds something is refused unless it may be overwritten, and is none of the inputs.

    LATEST then names it, where it is of the newest: the next command finds it there.
    """
    remove_leftovers(path, "config.json")
    make_folder(path)
    old = [each for each in path.iterdir() if each.name != LOCK]
    if old and not (overwrite and path / "config.json" in old):
        raise OutputExists(
            f"{path}: is not empty; --overwrite starts over in a run directory, or name another with --out"
        )
    if old:
        check_kept(path, inputs)
    for each in sorted(old, key=lambda each: each.name == "config.json"):  # last: until then it is known as a run
        shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    whole = {
        "command": command,
        "version": program,
        "argv": sys.argv[1:],
        "python": platform.python_version(),
        "libraries": library_versions(),
        "config": config,
    }
    write_json(path / "config.json", whole)
    if newest:
        point_to(path.parent, path.name)
    return RunDirectory(path, whole)


def point_to(folder: Path, run: str) -> None:
    """The newest run of a folder: where weights are looked for that nobody names."""
    write_bytes(folder / LATEST, f"{run}\n".encode())


def newest_run(folder: Path) -> Path:
    """The run that LATEST names."""
    check_regular_file(folder / LATEST)
    name = (folder / LATEST).read_bytes().decode("utf-8", "replace").strip()
    path = folder / name
    if not name.isprintable() or not name or not path.is_dir() or folder.resolve() not in path.resolve().parents:
        raise DataError(f"{folder / LATEST}: names no run of this folder; name one yourself, or remove this file")
    return path


def is_run(path: Path) -> bool:
    """Whether this folder is a run, or the folder of runs."""
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
    """A run that is there; `runs/` itself means its newest."""
    if path.name == LATEST and path.is_file():
        path = path.parent
    if (path / LATEST).exists() and not (path / "config.json").exists():
        path = newest_run(path)
    try:
        config = read_config(path)
        return RunDirectory(path, {"command": config["command"], "version": config["version"]} | config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a run directory (no readable config.json)") from error


def library_versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
