"""Plans a study: fits its grid to the time budget and to the images."""

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

SHORT, LONG = 100, 200  # numbers of steps from which the time per step is computed
FEWEST = 20  # steps of a meaningful run
FREE = ("cells", "keep", "device")  # fields that may change when a study is resumed


@dataclass(frozen=True)
class StudyPlan:
    """A study fitted to the budget and the images."""

    study: Study
    setting: Setting
    cells: list[Cell]
    price: Price
    prices: Prices
    scaled_down: list[str]


def plan_study(
    config: StudyConfig, study: Study, data: Data, folder: Path, device: torch.device, reporter: Reporter,
    overwrite: bool,
) -> StudyPlan:  # fmt: skip
    source_spec = load_weights(config.source).spec if config.source else None
    seconds = guess_from_ceiling(device) if config.scale == "paper" else time_models(data, device)
    prices = Prices(data, source_spec, seconds, device)
    setting, notes = make_setting(config, data, folder)
    earlier = None if overwrite else load_earlier(folder, config, data.file.digest)
    with reporter.progress("time models", None, "models"):
        if earlier:
            notes, setting = earlier.pop("scaled_down"), replace(setting, **earlier)
        else:
            setting, more = fit_to_budget(setting, study, prices)
            notes += more
        cells = list({cell.name: cell for cell in study.grid(setting)}.values())
        return StudyPlan(study, setting, cells, prices.total(cells), prices, notes)


def make_setting(config: StudyConfig, data: Data, folder: Path) -> tuple[Setting, list[str]]:
    """The setting before it is fitted to the budget, and notes. Images become squares that all patch sizes divide."""
    geometry = data.file.geometry
    height, width = data.file.header.training_res
    side = min(height, width)
    unit = HYBRID if side >= LARGE else 8
    side = max(unit, round(side / unit) * unit)
    notes = []
    if (height, width) != (side, side) and config.scale != "paper":
        notes.append(f"images of {height}x{width} are resized to {side}x{side}")
    val_setting = () if data.val is None or data.val.name == "val" else (f"val={data.val.name}",)
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
        val_setting=val_setting,
    )
    return setting, notes


def fit_to_budget(setting: Setting, study: Study, prices: Prices) -> tuple[Setting, list[str]]:
    """As many steps as the budget allows, at most the recipe's; with fewer seeds if too few steps fit."""
    config = setting.config
    small = "models and images are small; --scale paper uses the paper's own"
    if config.scale == "paper" or config.steps or study.score != "top1":
        return setting, [] if config.scale == "paper" else [small]
    most, notes = longest_recipe(setting, study), []
    steps = affordable(setting, study, prices)
    little = replace(setting, little=True)
    if steps < most / 3 and affordable(little, study, prices) > 1.5 * steps:
        setting, steps = little, affordable(little, study, prices)
        notes.append("a model of 6 layers, 96 wide")
    while steps < FEWEST and setting.seeds > 1:
        setting = replace(setting, seeds=setting.seeds - 1)
        steps = affordable(setting, study, prices)
    if setting.seeds < config.seeds:
        notes.append(f"{format_count(setting.seeds, 'seed')} instead of {config.seeds}")
    if steps < most:
        notes.append(f"{max(steps, FEWEST):,} steps of {config.batch} instead of the recipe's {most:,}")
    if steps < FEWEST:
        notes.append(f"fewer than {FEWEST} steps are meaningless: this takes longer than the budget")
    notes.append(small)
    return replace(setting, steps=min(most, max(steps, FEWEST))), notes


def affordable(setting: Setting, study: Study, prices: Prices) -> int:
    """The number of steps that fits the budget. Time is linear in steps, except for the rounding of shares."""

    def seconds(steps: int) -> float:
        return prices.total(list(study.grid(replace(setting, steps=steps)))).seconds

    budget, each = 60 * setting.config.budget, (seconds(LONG) - seconds(SHORT)) / (LONG - SHORT)
    steps = max(0, int((budget - (seconds(SHORT) - SHORT * each)) / each))
    while steps and seconds(steps) > budget:
        steps -= 1
    return steps


def longest_recipe(setting: Setting, study: Study) -> int:
    """Steps of the recipe of the first training."""
    config = recipe(next(iter(study.grid(setting))).trainings[0].config.recipe).config
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


def load_earlier(folder: Path, config: StudyConfig, digest: str) -> dict[str, Any] | None:
    """The steps, seeds and notes of the study in this folder, if it is the same study."""
    if not (folder / "config.json").exists():
        return None
    run = open_run(folder).config
    if run["command"] != "study":
        return None
    old: dict[str, Any] = run["config"]
    new = {name: value for name, value in json.loads(json.dumps(vars(config))).items() if name not in FREE}
    changed = [f"{name} was {old.get(name)!r}" for name in new if new[name] != old.get(name)]
    if old["data_digest"] != digest:
        changed.append(f"its data had the digest {old['data_digest'][:12]}")
    if changed:
        raise UsageError(
            f"{folder}: was started with another config: {'; '.join(changed)}. Use the same, another --out, "
            "or --overwrite"
        )
    return dict(old["settled"])


def find_step_limit(setting: Setting) -> int | None:
    """Steps of the longest run of a cell; None if the recipe sets them, or nothing is trained."""
    is_limited = setting.config.steps or (not setting.paper and STUDIES[setting.config.name].score == "top1")
    return setting.steps if is_limited else None
