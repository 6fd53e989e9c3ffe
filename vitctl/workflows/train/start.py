"""What must be settled before the first step of a run: its config, its data, its place on the disk, its device."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

import torch

from vitctl import __version__
from vitctl.config.checks import parse_resolution
from vitctl.config.model import ModelSpec
from vitctl.config.overrides import override
from vitctl.config.recipes import Purpose, choose, recipe
from vitctl.config.train import FREE, UNUSED, TrainConfig
from vitctl.errors import ConfigError, DataError, UsageError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.run_directory import RunDirectory, create_run, is_run, lock_run, new_folder, open_run
from vitctl.reporting import Reporter, format_count
from vitctl.training.feed import check_split_labels
from vitctl.training.precision import choose_precision
from vitctl.training.ranks import Ranks
from vitctl.workflows.choose import choose_data
from vitctl.workflows.load import RUNS

WARM_AT_MOST = 0.1  # of a run that is shorter than its recipe's warm-up


class Ways(TypedDict, total=False):
    """How a run is asked for, beside what it is to be."""

    settings: Sequence[str]  # as --set takes them
    recipe: str | None
    out: str | None
    resume: str | None  # a run, or auto
    overwrite: bool
    dry_run: bool


@dataclass(frozen=True)
class Request:
    """What somebody asked for."""

    command: Purpose
    flags: dict[str, Any]
    settings: Sequence[str] = ()
    recipe: str | None = None
    out: str | None = None
    resume: str | None = None
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Data:
    path: Path
    file: PatchFile
    train: Split
    val: Split | None


@dataclass(frozen=True)
class Started:
    config: TrainConfig
    data: Data
    run: RunDirectory | None  # None: nothing is kept


@contextmanager
def start(
    request: Request,
    model: ModelSpec,
    ranks: Ranks,
    device: torch.device,
    reporter: Reporter,
    check: Callable[[TrainConfig, Data], object],
) -> Iterator[Started]:
    """The run, which is this process's alone while this lasts.

    `check` fails where model and data do not fit: before there is a run, or one is overwritten.
    """
    with ExitStack() as stack:

        def lock(path: Path) -> None:
            if ranks.first and not request.dry_run:
                stack.enter_context(lock_run(path, reporter.warn))

        if request.out:
            lock(Path(request.out))  # before looking into it: another process may be starting the same run
        old = find_resumable(request.resume, request.out, request.command)
        if old:
            if not request.out:
                lock(old.path)
            yield resume_run(request, old, ranks, device, reporter)
            return
        size = choose_training_size(request, model)
        data = open_data(about_data(request), ranks, reporter, request.command != "selfsup", size)
        config = settle_device(build_config(request, model, data, reporter), device)
        check(config, data)
        check_batch(config, ranks)
        if request.dry_run:
            yield Started(dataclasses.replace(config, steps=1, epochs=None), data, None)
            return
        path = Path(
            ranks.broadcast(request.out or (str(new_path(request.command, config.model)) if ranks.first else ""))
        )
        if not request.out:
            lock(path)
        if ranks.first:
            create_run(
                path, request.command, config_record(config, data), __version__, request.overwrite,
                inputs=(data.path, config.source),
            )  # fmt: skip
        ranks.barrier()
        reporter.note(f"run: {path}")
        yield Started(config, data, open_run(path))


def choose_training_size(request: Request, model: ModelSpec) -> tuple[int, int] | None:
    """Height and width of the images that training will ask for; None leaves them to the data."""
    said = about_data(request).get("res") or (recipe(request.recipe).config.res if request.recipe else None)
    if said and said.lower() != "none":
        return parse_resolution(said)
    return (model.height, model.width) if request.command == "finetune" else None


def settle_device(config: TrainConfig, device: torch.device) -> TrainConfig:
    """What auto means here: a run that goes on elsewhere is computed as it began."""
    return dataclasses.replace(config, precision=choose_precision(config.precision, device))


def resume_run(request: Request, run: RunDirectory, ranks: Ranks, device: torch.device, reporter: Reporter) -> Started:
    if run.config["command"] != request.command:
        raise UsageError(f"{run.path}: is a run of vitctl {run.config['command']}, not of {request.command}")
    then = TrainConfig.from_dict(run.config["config"])
    config = override(with_flags(then, request.flags | {"recipe": request.recipe}), request.settings)
    data = open_data(vars(config), ranks, reporter, request.command != "selfsup")
    config = settle_device(fit_warmup(config, data.train.rows, reporter), device)
    check_same(run, config_record(config, data))
    check_batch(config, ranks)
    if request.dry_run:
        return Started(dataclasses.replace(config, steps=1, epochs=None), data, None)
    return Started(config, data, run)


def about_data(request: Request) -> dict[str, Any]:
    """The flags, and what --set says of the data, which is opened before the rest is settled."""
    pairs = [each.partition("=") for each in request.settings]
    named = {name.strip(): value.strip() for name, _, value in pairs}
    return request.flags | {name: named[name] for name in ("data", "split", "val", "objective", "res") if name in named}


def check_batch(config: TrainConfig, ranks: Ranks) -> None:
    if config.batch % ranks.world:
        raise UsageError(
            f"a batch of {config.batch} cannot be shared by {ranks.world} ranks; choose a multiple of {ranks.world}"
        )


def open_data(
    flags: dict[str, Any], ranks: Ranks, reporter: Reporter, with_labels: bool, size: tuple[int, int] | None = None
) -> Data:
    """The first rank makes what must be made, for images of this size; the others wait for it."""
    if not ranks.first:
        ranks.barrier()
    path = choose_data(flags.get("data"), reporter, size=size)
    if ranks.first:
        ranks.barrier()
    file = PatchFile(path)
    train_name, val_name = flags.get("split") or "train", flags.get("val") or "val"
    train = file.split(train_name)
    if not train.rows:
        raise DataError(f"{path}: split {train_name} is empty")
    if with_labels and len(file.class_names) < 2:
        raise DataError(f"{path}: has {format_count(len(file.class_names), 'class')}; two are needed to tell apart")
    val = file.splits.get(val_name)
    if val is None or not val.rows:
        reporter.warn(
            f"{path}: has no images in split {val_name}: nothing is evaluated on the way; vitctl patchify --split "
            f"{val_name}=0.1 holds some out"
        )
        val = None
    for split in (train, val) if with_labels else ():
        if split:
            check_split_labels(split, len(file.class_names))
    return Data(path, file, train, val)


def build_config(request: Request, model: ModelSpec, data: Data, reporter: Reporter) -> TrainConfig:
    """A recipe by its name, or by model and data; then the flags; then --set."""
    name, purpose, rows = request.recipe, request.command, data.train.rows
    row = (
        recipe(name)
        if name
        else choose(purpose, model, rows, about_data(request).get("objective"), digits=data.file.header.is_digits)
    )
    if row.purpose != purpose:
        raise ConfigError(f"recipe {row.name} is one to {row.purpose} with; vitctl recipes lists those to {purpose}")
    reporter.note(f"recipe: {row.name} ({'--recipe' if name else 'for ' + format_count(rows, 'image')})")
    config = dataclasses.replace(row.config, recipe=row.name)
    check_used(request)
    config = override(with_flags(config, request.flags), request.settings)
    if purpose != "selfsup" and config.objective != "labels":
        raise ConfigError(f"objective {config.objective} is one without labels; vitctl selfsup trains with it")
    return fit_warmup(config, rows, reporter)


def check_used(request: Request) -> None:
    names = {assignment.partition("=")[0].strip().split(".")[0] for assignment in request.settings}
    unread = [name for name in UNUSED[request.command] if name in names]
    if unread:
        raise ConfigError(f"--set {unread[0]}: vitctl {request.command} does not use it; leave it out")


def with_flags(config: TrainConfig, flags: dict[str, Any]) -> TrainConfig:
    given = {name: value for name, value in flags.items() if value is not None}
    optim = {name: given.pop(name) for name in ("lr", "weight_decay") if name in given}
    if "steps" in given and "epochs" in given:
        raise UsageError("both --steps and --epochs are given; give one of them")
    for name, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(name) is not None:
            given[other] = None
    if "ratio" in given:
        given["masking"] = dataclasses.replace(config.masking, ratio=given.pop("ratio"))
    if optim:
        given["optim"] = dataclasses.replace(config.optim, **optim)
    return dataclasses.replace(config, **given)


def fit_warmup(config: TrainConfig, rows: int, reporter: Reporter) -> TrainConfig:
    """A recipe's warm-up is counted in steps, and a run may be shorter than that."""
    steps = config.steps or max(1, math.ceil((config.epochs or 1) * rows / config.batch))
    warm = config.schedule.warmup_steps(steps)
    if warm < steps or not warm:
        return config
    new = max(1, round(WARM_AT_MOST * steps))
    reporter.note(f"schedule: a warm-up of {warm:,} steps is longer than the run of {steps:,}: {new:,} are taken")
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, warmup=new))


# --- the place of a run ----------------------------------------------------------------------------------------------


def new_path(command: str, model: str) -> Path:
    """runs/<date-time>-<command>-<model>, made now."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{command}-{model.replace('/', '-').replace(':', '-')}"
    return new_folder(RUNS / name)


def find_resumable(resume: str | None, out: str | None, command: Purpose) -> RunDirectory | None:
    """The run that --resume means. None where a new one is to begin: where there is none, or one of another kind."""
    if resume is None:
        return None
    if resume != "auto":
        return open_run(Path(resume))
    path = Path(out) if out else RUNS
    run = open_run(path) if is_run(path) else None
    return run if run and (out or run.config["command"] == command) else None


def config_record(config: TrainConfig, data: Data) -> dict[str, Any]:
    """What config.json says: everything that decides what a run ends in."""
    return {
        **dataclasses.asdict(config),
        "data": str(data.path),
        "data_digest": data.file.digest,
        "class_names": list(data.file.class_names),
    }


def check_same(run: RunDirectory, now: dict[str, Any]) -> None:
    """A run goes on as it began; what only decides how fast it goes may change."""
    then = run.config["config"]
    then = {**then, **dataclasses.asdict(TrainConfig.from_dict(then))}  # fields that are younger than the run
    ignored = {*FREE, "data"}
    changed = [
        f"{name} is {now_value!r} now and was {then_value!r}"
        for name, now_value, then_value in diff_configs(now, then)
        if name.split(".")[0] not in ignored
    ]
    if changed:
        longer = any(each.startswith(("steps ", "epochs ")) for each in changed)
        raise UsageError(
            f"{run.path}: began otherwise: {'; '.join(changed[:4])}. Start a new run, or leave it as it was"
            + (f"; vitctl finetune --from {run.path} trains its weights further" if longer else "")
        )


def diff_configs(now: dict[str, Any], then: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*now, *then}):
        one, other = (to_plain(values.get(name)) for values in (now, then))
        if isinstance(one, dict) and isinstance(other, dict):
            yield from diff_configs(one, other, f"{above}{name}.")
        elif one != other:
            yield f"{above}{name}", one, other


def to_plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
