"""The config of `vitctl study`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, get_args

from vitctl.config.checks import COUNT, Count, Range, Steps, check_config, require, within
from vitctl.config.common import DATA
from vitctl.config.option import option, setting
from vitctl.config.overrides import override
from vitctl.config.train import CONFIGS, PretrainConfig

Name = Literal[
    "data-size", "scaling", "positions", "head", "shape", "optimizer", "selfsup", "axial", "speed", "resolution", "vtab"
]


NAMES: tuple[str, ...] = get_args(Name)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    name: Name = option(..., "Which table or figure of the paper to repeat.", metavar="NAME", argument=True)
    data: str | None = option(None, DATA, metavar="DATA")  # vtab: a folder of patch files, in folders of their groups
    source: str | None = option(None, "vtab: the weights that are fine-tuned.", "from", metavar="WEIGHTS")
    budget: Annotated[float, Range(0, 1_000_000, above=True)] = option(
        10.0, "Time for all cells together, on this machine.", metavar="MINUTES", default="10"
    )
    scale: Literal["budget", "paper"] = option("budget", "paper: its own models, recipes and resolutions.")
    seeds: Annotated[int, Range(1, 100)] = option(3, "Seeds per cell.", metavar="N")
    steps: Steps | None = option(None, "Steps of a cell, in place of what the budget allows.", metavar="N")
    cells: str = option("1/1", "The I-th of N parts, for several machines with one --out or their own.", metavar="I/N")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
    target: str | None = setting(None, "optimizer: another data set to transfer to")
    size: str = setting("ti", "of the models, where the paper's are too large")
    batch: Count = setting(64, "batch size")
    keep: bool = setting(False, "keep the weights of every cell")
    settings: tuple[str, ...] = setting((), "fields of training such as augment.flip=0, for every run")

    def __post_init__(self) -> None:
        check_config(self)
        for flag, value, name in (("--from", self.source, "vtab"), ("target", self.target, "optimizer")):
            require(value is None or self.name == name, f"{flag} is for the study {name}, not for {self.name}")
        match = re.fullmatch(r"[1-9][0-9]{0,17}/[1-9][0-9]{0,17}", self.cells)
        require(
            match is not None and self.part[0] <= self.part[1], f"cells {self.cells!r} is not understood; write 2/4"
        )
        within("cells", self.part[1], COUNT)

    @property
    def part(self) -> tuple[int, int]:
        part, parts = self.cells.split("/")
        return int(part), int(parts)


def override_study(config: StudyConfig, assignments: Iterable[str]) -> StudyConfig:
    """Fields of training are set in every run whose command has them."""
    assignments = tuple(assignments)
    own = tuple(each for each in assignments if each.partition("=")[0].strip() in vars(config))
    others = tuple(each for each in assignments if each not in own)
    for each in others:  # raise an error for a wrong one before anything runs
        override(next((kind() for kind in CONFIGS.values() if has_setting(kind, each)), PretrainConfig()), [each])
    return replace(override(config, own), settings=(*config.settings, *others))


def has_setting(kind: type, assignment: str) -> bool:
    """Whether a config has the field of the assignment, or the nested config of that field."""
    return re.split(r"[.=]", assignment)[0].strip() in {field.name for field in fields(kind)}
