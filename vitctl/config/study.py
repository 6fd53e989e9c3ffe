"""What `vitctl study` repeats of the paper, and how much of it there is time for."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from vitctl.config.checks import COUNT, Count, Range, Steps, check_numbers, one_of, require, within
from vitctl.config.overrides import override
from vitctl.config.recipes import recipe

Name = Literal[
    "data-size", "scaling", "positions", "head", "shape", "optimizer", "selfsup", "axial", "speed", "resolution", "vtab"
]
NAMES: tuple[str, ...] = get_args(Name)


@dataclass(frozen=True)
class StudyConfig:
    name: Name
    data: str | None = None  # vtab: a folder of patch files, in folders of their groups
    source: str | None = None  # vtab: the weights that are transferred
    target: str | None = None  # optimizer: another data set to transfer to
    budget: Annotated[float, Range(0, 1_000_000, above=True)] = 10.0  # minutes, of all cells together
    scale: Literal["budget", "paper"] = "budget"  # paper: its own models, recipes and resolutions
    size: str = "ti"  # of the models, where the paper's are too large
    seeds: Annotated[int, Range(1, 100)] = 3
    steps: Steps | None = None  # of a cell, in place of what the budget allows
    batch: Count = 64
    cells: str = "1/1"  # "2/4": the second quarter, for a machine of four
    keep: bool = False  # the weights of every cell
    device: str = "auto"
    settings: tuple[str, ...] = ()  # fields of training, "augment.flip=0": for every run, over what its recipe says

    def __post_init__(self) -> None:
        one_of("study", self.name, NAMES)
        one_of("scale", self.scale, ("budget", "paper"))
        for flag, value, name in (("--from", self.source, "vtab"), ("target", self.target, "optimizer")):
            require(value is None or self.name == name, f"{flag} is for the study {name}, not for {self.name}")
        check_numbers(self)
        good = re.fullmatch(r"[1-9][0-9]{0,17}/[1-9][0-9]{0,17}", self.cells)
        require(good is not None and self.part[0] <= self.part[1], f"cells {self.cells!r} is not understood; write 2/4")
        within("cells", self.part[1], COUNT)

    @property
    def part(self) -> tuple[int, int]:
        which, of = self.cells.split("/")
        return int(which), int(of)


def with_settings(config: StudyConfig, assignments: Iterable[str]) -> StudyConfig:
    """A name that is not of a study is one of training, and is set in every run."""
    given = tuple(assignments)
    own = tuple(each for each in given if each.partition("=")[0].strip() in vars(config))
    others = tuple(each for each in given if each not in own)
    override(recipe("small").config, others)  # a wrong one is told before anything runs
    return replace(override(config, own), settings=(*config.settings, *others))
