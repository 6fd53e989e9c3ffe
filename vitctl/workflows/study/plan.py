"""A study made to fit: into the time that there is, and to the images that there are."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vitctl.config.recipes import recipe
from vitctl.config.study import StudyConfig
from vitctl.errors import UsageError
from vitctl.io.run_directory import open_run
from vitctl.reporting import Reporter, format_count, format_duration
from vitctl.workflows.inputs.weights import load_weights
from vitctl.workflows.study.cells import Cell
from vitctl.workflows.study.grids import HYBRID, LARGE, STUDIES, Setting, Study
from vitctl.workflows.study.price import Price, Prices, guess_from_ceiling, time_models
from vitctl.workflows.train.start import Data

SHORT, LONG = 100, 200  # steps by which the price of one is found
FEWEST = 20  # steps of a run that says anything
FREE = ("cells", "keep", "device")  # fields that may differ when a study goes on


@dataclass(frozen=True)
class StudyPlan:
    """A study made to fit."""

    setting: Setting
    cells: list[Cell]
    price: Price
    prices: Prices
    scaled_down: list[str]


def plan_study(
    config: StudyConfig, row: Study, data: Data, folder: Path, device: torch.device, reporter: Reporter, overwrite: bool
) -> StudyPlan:
    begun = load_weights(config.source).spec if config.source else None
    seconds = guess_from_ceiling(device) if config.scale == "paper" else time_models(data, device)
    prices = Prices(data, begun, seconds, device)
    setting, told = make_setting(config, data, folder)
    then = None if overwrite else earlier(folder, config, data.file.digest)
    with reporter.progress("time its models", None, "models"):
        if then:
            told, setting = then.pop("scaled_down"), replace(setting, **then)
        else:
            setting, more = fit_to_budget(setting, row, prices)
            told += more
        cells = list({cell.name: cell for cell in row.grid(setting)}.values())
        return StudyPlan(setting, cells, prices.total(cells), prices, told)


def make_setting(config: StudyConfig, data: Data, folder: Path) -> tuple[Setting, list[str]]:
    """The images are taken as squares whose sides all patches divide; what that changes is told."""
    geometry = data.file.geometry
    side = min(geometry.height, geometry.width)
    unit = HYBRID if side >= LARGE else 8
    side = max(unit, round(side / unit) * unit)
    told = []
    if (geometry.height, geometry.width) != (side, side) and config.scale != "paper":
        told.append(f"images of {geometry.height}x{geometry.width} are resized to {side}x{side}")
    judged = () if data.val is None or data.val.name == "val" else (f"val={data.val.name}",)
    setting = Setting(
        config=config,
        folder=folder,
        data=str(config.data) if config.name == "vtab" else str(data.path),
        digest=data.file.digest,
        side=side,
        channels=geometry.channels,
        rows=data.train.rows,
        classes=len(data.file.class_names),
        steps=config.steps or SHORT,
        seeds=config.seeds,
        embedded=data.file.header.is_digits,
        judged=judged,
    )
    return setting, told


def fit_to_budget(setting: Setting, row: Study, prices: Prices) -> tuple[Setting, list[str]]:
    """As many steps as the budget has time for, and no more than its recipe has; with fewer seeds if these are few."""
    config = setting.config
    small = "models and images are small; --scale paper has the paper's own"
    if config.scale == "paper" or config.steps or row.score != "top1":
        return setting, [] if config.scale == "paper" else [small]
    most, told = longest_recipe(setting, row), []
    steps = affordable(setting, row, prices)
    little = replace(setting, little=True)
    if steps < most / 3 and affordable(little, row, prices) > 1.5 * steps:
        setting, steps = little, affordable(little, row, prices)
        told.append("a model of 6 layers, 96 wide")
    while steps < FEWEST and setting.seeds > 1:
        setting = replace(setting, seeds=setting.seeds - 1)
        steps = affordable(setting, row, prices)
    if setting.seeds < config.seeds:
        told.append(f"{format_count(setting.seeds, 'seed')} in place of {config.seeds}")
    if steps < most:
        told.append(f"{max(steps, FEWEST):,} steps of {config.batch} in place of {most:,}, the recipe's")
    if steps < FEWEST:
        told.append(f"fewer than {FEWEST} steps say nothing: this takes longer than the budget")
    told.append(small)
    return replace(setting, steps=min(most, max(steps, FEWEST))), told


def affordable(setting: Setting, row: Study, prices: Prices) -> int:
    """Time goes in a straight line with the number of steps, but for the steps that shares are rounded to."""

    def seconds(steps: int) -> float:
        return prices.total(list(row.grid(replace(setting, steps=steps)))).seconds

    budget, each = 60 * setting.config.budget, (seconds(LONG) - seconds(SHORT)) / (LONG - SHORT)
    steps = max(0, int((budget - (seconds(SHORT) - SHORT * each)) / each))
    while steps and seconds(steps) > budget:
        steps -= 1
    return steps


def longest_recipe(setting: Setting, row: Study) -> int:
    """Steps of the recipe by which these cells begin."""
    config = recipe(next(iter(row.grid(setting))).trainings[0].config.recipe).config
    return config.steps or max(FEWEST, round((config.epochs or 1) * setting.rows / setting.config.batch))


def print_plan(plan: StudyPlan, reporter: Reporter) -> None:
    setting, price = plan.setting, plan.price
    steps = find_step_limit(setting)
    length = f" of up to {steps:,} steps" if steps else ""
    reporter.note(
        f"study {setting.config.name}: {format_count(len(plan.cells), 'cell')}{length}, {price.flops:.3g} FLOPs, about "
        f"{format_duration(price.seconds)} on this device"
    )
    for line in plan.scaled_down:
        reporter.note(f"scaled down: {line}")


def earlier(folder: Path, config: StudyConfig, digest: str) -> dict[str, Any] | None:
    """What the study in this folder settled on, where it is this one."""
    if not (folder / "config.json").exists():
        return None
    then = open_run(folder).config
    if then["command"] != "study":
        return None
    now = {name: value for name, value in json.loads(json.dumps(vars(config))).items() if name not in FREE}
    known = {name: value for name, value in then["config"].items() if name in now}
    changed = [f"{name} was {known.get(name)!r}" for name in now if now[name] != known.get(name)]
    if then["config"]["data_digest"] != digest:
        changed.append(f"its data were others, with digest {then['config']['data_digest'][:12]}")
    if changed:
        raise UsageError(
            f"{folder}: was started with another config: {'; '.join(changed)}. Use the same, another --out, "
            "or --overwrite"
        )
    return dict(then["config"]["settled"])


def find_step_limit(setting: Setting) -> int | None:
    """Of the longest run of a cell; None where its recipe says it, or nothing is trained."""
    is_said = setting.config.steps or (not setting.paper and STUDIES[setting.config.name].score == "top1")
    return setting.steps if is_said else None
