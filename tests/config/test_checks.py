"""Numbers: how they are written, and how large they may be."""

import dataclasses
import importlib
import math
import pkgutil
import re
import typing
from typing import Annotated, Any

import pytest

import vitctl.config
from vitctl.config.bench import TrainCase
from vitctl.config.checks import Range, check_config, limits_of, parse_number, whole_number
from vitctl.config.export import ExportConfig
from vitctl.config.fewshot import FewshotConfig
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.config.study import StudyConfig
from vitctl.config.train import FinetuneConfig, OptimConfig, PretrainConfig, ScheduleConfig
from vitctl.errors import ConfigError

NAMES = [each.name for each in pkgutil.iter_modules(vitctl.config.__path__)]
MODULES = [importlib.import_module(f"vitctl.config.{name}") for name in NAMES]
CONFIGS = {
    each.__name__: each
    for module in MODULES
    for each in vars(module).values()
    if dataclasses.is_dataclass(each) and each.__module__ == module.__name__ and hasattr(each, "__post_init__")
}
OTHER_DIGITS = ["1_000", "１０", "٣", "1٠", "०", "1e1_0", "²", "½"]


def ranged(kind: Any) -> set[str]:
    return {name for name, limits in limits_of(kind).items() if limits.allowed}


def holds_numbers(hint: Any) -> bool:
    return hint in (int, float) or any(holds_numbers(each) for each in typing.get_args(hint))


@pytest.mark.parametrize("kind", CONFIGS.values(), ids=list(CONFIGS))
def test_every_number_of_every_config_has_a_range(kind: Any) -> None:
    numbers = {name for name, hint in typing.get_type_hints(kind).items() if holds_numbers(hint)}
    assert ranged(kind) == numbers


@pytest.mark.parametrize("kind", CONFIGS.values(), ids=list(CONFIGS))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, 10**400, -(10**18)], ids="abcdef")
def test_no_config_takes_a_number_that_is_none_or_out_of_proportion(kind: Any, value: float) -> None:
    needed = {
        "source": "x",
        "res": Res(32),
        "name": "data-size",
        "pictures": ("x",),
        "model": "vit-b/16",
        "batch": 1,
        "height": 32,
    }
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given = {name: needed[name] for name, field in fields.items() if field.default is dataclasses.MISSING
             and field.default_factory is dataclasses.MISSING}  # fmt: skip
    if kind is TrainCase:
        given["res"] = 32
    kind(**given)
    for name in ranged(kind):
        is_tuple = isinstance(getattr(kind(**given), name), tuple)
        with pytest.raises(ConfigError, match=rf"{name} is -?(nan|inf|1e\+308|10+|\d+); it must "):
            kind(**given | {name: (value, value) if is_tuple else value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimConfig(lr=math.inf), "optim.lr is inf; it must be above 0 and at most 1,000"),
        (lambda: OptimConfig(weight_decay=math.nan), "optim.weight_decay is nan; it must lie between 0 and 1,000"),
        (lambda: OptimConfig(beta2=1), "optim.beta2 is 1; it must be at least 0 and under 1"),
        (lambda: ScheduleConfig(end=-0.1), "schedule.end is -0.1; it must lie between 0 and 1"),
        (lambda: PretrainConfig(seed=-1), "seed is -1; it must lie between 0 and 4,294,967,295"),
        (lambda: FinetuneConfig(lrs=(0.1, math.nan)), "lrs is nan; it must be above 0"),
        (lambda: PretrainConfig(micro_batch="2000000"), "micro-batch is 2000000; it must lie between 1 and 1,000,000"),
        (lambda: PretrainConfig(freeze="-1"), "freeze is -1; it must lie between 0"),
        (lambda: FewshotConfig(shots=(5, None, 0)), "shots is 0; it must lie between 1"),
        (lambda: StudyConfig(name="data-size", seeds=10**10), "seeds is 10000000000; it must lie between 1 and 100"),
        (lambda: StudyConfig(name="data-size", cells="1/9999999"), "cells is 9999999; it must lie between 1"),
        (lambda: PatchifyConfig(source="x", workers=5000), "workers is 5000; it must lie between 1 and 1,024"),
        (lambda: ExportConfig(tolerance=math.nan), "tolerance is nan"),
    ],
)
def test_the_range_is_in_the_message(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda text: PretrainConfig(micro_batch=text), "write auto, or a number of images"),
        (lambda text: PretrainConfig(freeze=text), "write backbone, or a number of blocks"),
        (Res.parse, "resolution .* is not understood"),
        (lambda text: PatchifyConfig(source="x", shards=2000, shard=text), "write index, or the number of a shard"),
        (lambda text: PatchifyConfig(source="x", split=(f"val=0.{text}",)), "is not a number"),
        (lambda text: StudyConfig(name="data-size", cells=f"{text}/10000"), "is not understood"),
        (lambda text: TrainCase.parse(f"vit-b/16@{text}x4"), "is not understood"),
    ],
)
@pytest.mark.parametrize("text", OTHER_DIGITS)
def test_digits_are_plain(make: Any, message: str, text: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(text)


@pytest.mark.parametrize("text", OTHER_DIGITS)
def test_reading_refuses_what_python_takes(text: str) -> None:
    for read in (whole_number, parse_number):
        with pytest.raises(ValueError, match=text):
            read(text)


def test_reading_keeps_what_people_write() -> None:
    assert [whole_number(text) for text in ("7", " +7 ", "-07")] == [7, 7, -7]
    assert [parse_number(text) for text in ("3e-4", ".5", "1.", "-2")] == [3e-4, 0.5, 1.0, -2.0]


def test_choices_are_checked_wherever_they_are_declared() -> None:
    for make, message in (
        (lambda: OptimConfig(name="adm"), "optim.name 'adm' is unknown; did you mean 'adam'?"),
        (lambda: FewshotConfig(probes=("lsr", "lsrr")), "probes 'lsrr' is unknown; did you mean 'lsr'?"),
        (lambda: FinetuneConfig(keep_head="sometimes"), "keep_head 'sometimes' is unknown"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            make()


def test_a_range_is_found_inside_unions_and_tuples() -> None:
    @dataclasses.dataclass(frozen=True)
    class Some:
        one: Annotated[int, Range(1, 2)] | None = None
        more: tuple[Annotated[float, Range(0, 1, above=True)] | None, ...] = ()
        text: str = "x"

    check_config(Some())
    check_config(Some(2, (1.0, None)))
    with pytest.raises(ConfigError, match=r"inner.more is 0; it must be above 0 and at most 1"):
        check_config(Some(2, (0, None)), "inner.")
