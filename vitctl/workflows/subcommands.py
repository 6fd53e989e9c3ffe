"""Commands that a demo or a study runs, and the command lines that do the same."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.config.option import option_fields
from vitctl.config.overrides import as_setting
from vitctl.config.train import RunOptions, TrainConfig
from vitctl.errors import Interrupted, NoSpace, Terminated
from vitctl.reporting import Reporter
from vitctl.workflows.finetune import finetune
from vitctl.workflows.pretrain import pretrain
from vitctl.workflows.selfsup import selfsup

FLAG_NAMES = {"source": "from", "settings": "set"}  # flags that are not named after their field


@dataclass(frozen=True)
class Training:
    """A run that is resumed if it was stopped, and not repeated if it is finished."""

    config: TrainConfig
    out: Path

    def line(self) -> str:
        return shlex.join(["vitctl", self.config.command, *flag_words(self.config), "--out", str(self.out)])

    def train(self, reporter: Reporter) -> Any:
        trainers: dict[str, Callable[..., Any]] = {"pretrain": pretrain, "finetune": finetune, "selfsup": selfsup}
        return trainers[self.config.command](self.config, RunOptions(out=str(self.out), resume="auto"), reporter)


def flag_words(config: TrainConfig) -> Iterator[str]:
    """The flags that produce this config; --set for fields without a flag."""
    for field in option_fields(type(config)):
        values: list[Any] = [config]
        for name in field.path:
            values.append(getattr(values[-1], name))
        if all(name in holder.named for name, holder in zip(field.path, values, strict=False)):
            text = as_setting(values[-1])
            is_flag = field.flag and not field.flag.const and values[-1] is not None
            name = (field.flag and field.flag.name) or field.path[-1].replace("_", "-")
            yield from (f"--{name}", text) if is_flag else ("--set", f"{field.name}={text}")


@contextmanager
def stoppable(message: str = "", run: str | None = None) -> Iterator[None]:
    """A stop inside a step stops the whole command; the error says how to resume the command, not the step."""
    try:
        yield
    except NoSpace as error:
        again = f"vitctl demo --resume {shlex.quote(run)}" if run else "the same command"
        raise NoSpace(
            f"no space left on the disk. What is done is saved: free some space, then continue with {again}"
        ) from error
    except Interrupted as stopped:
        raise Interrupted(message or str(stopped), stopped.exit_code, run) from stopped
    except KeyboardInterrupt as stopped:
        code = 143 if isinstance(stopped, Terminated) else 130
        raise Interrupted(message or "stopped", code, run) from stopped


def command_line(command: str, *arguments: str | Path, **flags: Any) -> str:
    """`vitctl pretrain --model vit-s/16`, quoted for a shell."""
    words = ["vitctl", command, *map(str, arguments)]
    for name, value in flags.items():
        words += flag(FLAG_NAMES.get(name, name).replace("_", "-"), value)
    return shlex.join(words)


def flag(name: str, value: Any) -> Iterator[str]:
    """No words for None and False, one word for True, a name and a value for each value of a sequence."""
    if value is True:
        yield f"--{name}"
    elif value is not None and value is not False:
        for each in value if isinstance(value, (tuple, list)) else [value]:
            yield from (f"--{name}", str(each))
