"""A command of ours as a part of something larger: it runs here, and is told as the line that does the same."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitctl.config.recipes import Purpose
from vitctl.errors import Interrupted, NoSpace, Terminated
from vitctl.reporting import Reporter
from vitctl.workflows.finetune import finetune
from vitctl.workflows.pretrain import pretrain
from vitctl.workflows.selfsup import SelfsupResult, selfsup
from vitctl.workflows.train.conclude import TrainResult

OTHERWISE = {"source": "from", "settings": "set"}  # flags that are not named as the field that they fill


@dataclass(frozen=True)
class Training:
    """A run that goes on where it stands, and is left alone where it is done."""

    command: Purpose
    out: Path
    flags: dict[str, Any]
    recipe: str | None = None
    settings: tuple[str, ...] = field(default=())

    def line(self) -> str:
        return command_line(self.command, **self.flags, recipe=self.recipe, settings=self.settings, out=self.out)

    @property
    def fields(self) -> dict[str, Any]:
        """As the command line would have them: a run goes on only if it is asked for alike."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in self.flags.items()}

    def train(self, reporter: Reporter) -> TrainResult:
        run = {"pretrain": pretrain, "finetune": finetune}[self.command]
        return run(self.fields, reporter, recipe=self.recipe, settings=self.settings, out=str(self.out),
                   resume="auto")  # fmt: skip

    def train_unlabeled(self, reporter: Reporter) -> SelfsupResult:
        return selfsup(self.fields, reporter, recipe=self.recipe, settings=self.settings, out=str(self.out),
                       resume="auto")  # fmt: skip


@contextmanager
def stoppable(told: str = "", run: str | None = None) -> Iterator[None]:
    """What stops a part stops the whole, and is gone on with by way of it."""
    try:
        yield
    except NoSpace as error:
        again = f"vitctl demo --resume {shlex.quote(run)}" if run else "the same command"
        raise NoSpace(f"no room left on the disk; what is done is kept. Free some, then go on with {again}") from error
    except Interrupted as stopped:
        raise Interrupted(told or str(stopped), stopped.exit_code, run) from stopped
    except KeyboardInterrupt as stopped:
        code = 143 if isinstance(stopped, Terminated) else 130
        raise Interrupted(told or "stopped", code, run) from stopped


def command_line(command: str, *arguments: str | Path, **flags: Any) -> str:
    """`vitctl pretrain --model vit-s/16`, as a shell takes it."""
    words = ["vitctl", command, *map(str, arguments)]
    for name, value in flags.items():
        words += flag(OTHERWISE.get(name, name).replace("_", "-"), value)
    return shlex.join(words)


def flag(name: str, value: Any) -> Iterator[str]:
    """Nothing for what is not said, a word for what is on, and one pair for each of several values."""
    if value is True:
        yield f"--{name}"
    elif value is not None and value is not False:
        for each in value if isinstance(value, (tuple, list)) else [value]:
            yield from (f"--{name}", str(each))
