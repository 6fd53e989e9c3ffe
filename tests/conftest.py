"""What many tests need: images on the disk, and the real command."""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core: threads would only get in each other's way

import hypothesis
import numpy as np
import pytest
from PIL import Image

hypothesis.settings.register_profile("no-clock", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("no-clock")

Folder = Callable[..., Path]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that an error is; more than one, or a traceback, fails here."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err, self.err
        return lines[0]


@pytest.fixture
def vitctl(tmp_path: Path) -> Callable[..., Answer]:
    """Runs the command in a process of its own in `tmp_path`, as a shell would."""

    def run(*arguments: str | Path, code: int | None = 0, env: dict[str, str] | None = None,
            before: Sequence[str] = ()) -> Answer:  # fmt: skip
        whole = clean_environment(tmp_path) | (env or {})
        begins_anew = before or any(name.startswith("PYTHON") for name in env or ())
        answer = (started if begins_anew else forked)([*map(str, arguments)], tmp_path, whole, before)
        assert code is None or answer.code == code, f"{answer.code}\n{answer.out}\n{answer.err}"
        return answer

    return run


def started(arguments: list[str], place: Path, env: dict[str, str], before: Sequence[str] = ()) -> Answer:
    """From nothing: an interpreter, and seconds of imports."""
    command = [*before, sys.executable, "-m", "vitctl", *arguments]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True)
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


COMMAND = str(Path(__file__).with_name("forked_command.py"))
CONTEXT = multiprocessing.get_context("forkserver")
HEAVY = ("torch", "timm", "h5py", "sklearn", "PIL.Image", "vitctl.workflows.patchify", "vitctl.training.fit")
CONTEXT.set_forkserver_preload([*HEAVY, "vitctl.data.patchifier.pool", "vitctl.cli"])


def forked(arguments: list[str], place: Path, env: dict[str, str], _before: Sequence[str] = ()) -> Answer:
    """From a process that has imported what is heavy, which is all that a start takes long for."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        order = {"arguments": arguments, "place": str(place), "env": env, "out": str(out), "err": str(err)}
        process = CONTEXT.Process(target=runpy.run_path, args=(COMMAND, {"order": order}))
        process.start()
        process.join()
        assert process.exitcode is not None
        return Answer(process.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))


def clean_environment(cache: Path) -> dict[str, str]:
    dropped = ("VITCTL_", "COLUMNS", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"XDG_CACHE_HOME": str(cache / "cache"), "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}


def picture(seed: int, height: int = 40, width: int = 48, channels: int = 3) -> np.ndarray[Any, Any]:
    """Something smooth with a little noise, so that JPEG keeps it and resizing has something to do."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(x / random.uniform(4, 12) + random.uniform(0, 6)) * np.cos(y / random.uniform(4, 12))
             for _ in range(channels)]  # fmt: skip
    return (np.stack(waves, -1) + random.normal(0, 6, (height, width, channels))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes class folders: `folder({"train/cat": 3, "val/cat": 1})`; every image is another."""

    def make(counts: dict[str, int], root: str = "pictures", ending: str = "png", scale: int = 1) -> Path:
        seed = 0
        for place, count in counts.items():
            where = tmp_path / root / place
            where.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = Image.fromarray(picture(seed))
                image.resize((image.width * scale, image.height * scale)).save(where / f"{number:03d}.{ending}")
                seed += 1
        return tmp_path / root

    return make
