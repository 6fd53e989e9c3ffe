"""What must be settled before the first step of a run: its config, its data, its place on the disk."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import torch

from vitctl import __version__
from vitctl.config.earlier import CONFIG_VERSION, rename_settings, restore_meaning
from vitctl.config.model import ModelSpec
from vitctl.config.option import as_dict
from vitctl.config.recipes import ANY_WEIGHTS, PAPER_TRANSFER, Recipe, choose, for_data, recipe
from vitctl.config.res import Res
from vitctl.config.train import FREE, LENGTHS, Best, LabeledConfig, RunOptions, TrainConfig
from vitctl.data.balance import describe_skew
from vitctl.errors import ConfigError, DataError, UsageError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.patch_format import TRAINED
from vitctl.io.run_directory import RunDirectory, create_run, is_run, lock_run, new_folder, open_run
from vitctl.io.weights import Weights
from vitctl.models.adapt_timm import can_resize
from vitctl.reporting import Reporter, format_count
from vitctl.training.device import choose_precision
from vitctl.training.environment import describe_length
from vitctl.training.feed import check_every_class, check_split_labels
from vitctl.training.ranks import Ranks
from vitctl.workflows.inputs.data import LABEL_WORDS, choose_data
from vitctl.workflows.inputs.weights import RUNS

GRID = 7  # patches a side, at least, where a smaller resolution is chosen
LOSSES = {"classes": ("softmax", "sigmoid"), "sets": ("sigmoid",), "numbers": ("squared",)}
BEST = {"classes": get_args(Best), "sets": ("top1", "macro_f1", "loss"), "numbers": ("top1", "loss")}
UNDECIDED = 0.5  # a threshold that no val split has chosen
Config = TypeVar("Config", bound=TrainConfig)


@dataclass(frozen=True)
class Data:
    path: Path
    file: PatchFile
    train: Split
    val: Split | None


@dataclass(frozen=True)
class Base:
    """The model that is trained: a new one, or that of the weights."""

    spec: ModelSpec
    is_paper: bool = False  # weights of the paper's own code


@dataclass(frozen=True)
class Started(Generic[Config]):
    config: Config
    data: Data
    run: RunDirectory | None  # None: nothing is saved
    weights: Weights  # of step 0


@contextmanager
def start(
    request: Config,
    options: RunOptions,
    base: Base,
    ranks: Ranks,
    device: torch.device,
    reporter: Reporter,
    begin: Callable[[Config, Data], Weights],
) -> Iterator[Started[Config] | RunDirectory]:
    """The run, locked for this process while this lasts; only its directory if it has finished before.

    `begin` makes the weights of step 0. It fails where model and data do not fit, before a run is created or replaced.
    """
    with ExitStack() as stack:

        def lock(path: Path) -> None:
            if ranks.first and not options.dry_run:
                stack.enter_context(lock_run(path, reporter.warn))

        if options.out:
            lock(Path(options.out))  # before looking into it: another process may be starting the same run
        old = find_resumable(options, request.command)
        if old:
            if not options.out:
                lock(old.path)
            config, data = resume_config(request, old, ranks, device, reporter)
            if old.result and not options.dry_run:
                yield old
            else:
                yield Started(*dry_run(config, data, old, options), begin(config, data))
            return
        named = find_named_recipe(request)
        draft = request.over(named.config if named else type(request)())
        size = draft.res
        if request.command == "finetune" and not size:
            size = affordable_res(base, named, device, Res(TRAINED))
        data = open_data(draft, ranks, reporter, size)
        config = settle_device(build_config(request, named, base, data, device, reporter), device)
        weights = begin(config, data)
        check_batch(config, ranks)
        if options.dry_run:
            yield Started(*dry_run(config, data, None, options), weights)
            return
        path = Path(
            ranks.broadcast(options.out or (str(new_path(request.command, base.spec.name)) if ranks.first else ""))
        )
        if not options.out:
            lock(path)
        if ranks.first:
            record, inputs = config_record(config, base.spec, data), (data.path, getattr(config, "source", None))
            create_run(path, request.command, record, __version__, options.overwrite, inputs=inputs)
        ranks.barrier()
        reporter.note(f"run: {path}")
        yield Started(config, data, open_run(path), weights)


def settle_device(config: Config, device: torch.device) -> Config:
    """What auto means here: a run that is resumed elsewhere is computed as before."""
    return dataclasses.replace(config, precision=choose_precision(config.precision, device))


def dry_run(
    config: Config, data: Data, run: RunDirectory | None, options: RunOptions
) -> tuple[Config, Data, RunDirectory | None]:
    """One step that writes nothing, if that is asked for."""
    return (
        (dataclasses.replace(config, steps=1, epochs=None, minutes=None), data, None)
        if options.dry_run
        else (config, data, run)
    )


def resume_config(
    request: Config, run: RunDirectory, ranks: Ranks, device: torch.device, reporter: Reporter
) -> tuple[Config, Data]:
    if run.config["command"] != request.command:
        raise UsageError(f"{run.path}: is a run of vitctl {run.config['command']}, not of {request.command}")
    version = run.config["config"].get("config_version", 1)
    then = restore_meaning(type(request).from_dict(run.config["config"]), version)
    request = rename_settings(request, version)
    config = request.over(then)
    data = open_data(config, ranks, reporter)
    config = settle_device(fit_warmup(config, data.train.rows, reporter), device)
    check_same(run, config, then, data)
    check_batch(config, ranks)
    return config, data


def check_batch(config: TrainConfig, ranks: Ranks) -> None:
    if config.batch % ranks.world:
        raise UsageError(
            f"a batch of {config.batch} cannot be split over {ranks.world} ranks; choose a multiple of {ranks.world}"
        )


def open_data(config: TrainConfig, ranks: Ranks, reporter: Reporter, size: Res | None = None) -> Data:
    """The first rank patchifies what must be patchified, for images of this size; the others wait for it."""
    if not ranks.first:
        ranks.barrier()
    path = choose_data(config.data, reporter, size=size)
    if ranks.first:
        ranks.barrier()
    file = PatchFile(path)
    train = file.split(config.split)
    if not train.rows:
        raise DataError(f"{path}: split {config.split} is empty")
    if isinstance(config, LabeledConfig):
        check_class_count(file)
    val = file.splits.get(config.val)
    if val is None or not val.rows:
        if config.patience:
            raise ConfigError(f"{path}: has no images in split {config.val}, which patience needs; leave it out")
        reporter.warn(
            f"{path}: has no images in split {config.val}, so nothing is evaluated during training; vitctl patchify "
            f"--split {config.val}=0.1 holds some out"
        )
        val = None
    if isinstance(config, LabeledConfig):
        check_labels(config, file, train, val, reporter)
    return Data(path, file, train, val)


def check_class_count(file: PatchFile) -> None:
    task, count = file.header.task, len(file.class_names)
    if count < {"classes": 2, "sets": 1, "numbers": 0}[task]:
        needed = "at least two" if task == "classes" else "at least one"
        raise DataError(f"{file.path}: has {format_count(count, 'class')}; training needs {needed}")


def check_labels(config: LabeledConfig, file: PatchFile, train: Split, val: Split | None, reporter: Reporter) -> None:
    names, task = file.class_names, file.header.task
    if config.correction and (task == "numbers" or (task == "sets" and config.balance == "none")):
        raise ConfigError(f"{file.path}: has {LABEL_WORDS[task]} per image; {config.correction} needs one class")
    if val:
        check_split_labels(val, count_outputs(file))
    counts = check_split_labels(train, count_outputs(file))
    check_every_class(train, config, counts, names)
    skew = describe_skew(train.name, counts, names) if names else ""
    advice = config.correction or "--balance sqrt or full draws small classes more often"
    if skew:
        reporter.note(f"{skew}; {advice}")


def count_outputs(file: PatchFile) -> int:
    """Of a model that is trained on these labels: one per class, or a number."""
    return 1 if file.header.task == "numbers" else len(file.class_names)


def answer_fields(config: LabeledConfig, data: Data) -> dict[str, Any]:
    """What weights say about their answers before training: of sets, each threshold is in the middle."""
    task, names = data.file.header.task, data.file.class_names
    thresholds = (UNDECIDED,) * len(names) if task == "sets" else ()
    target = measure_targets(data.train) if task == "numbers" else ()
    loss = "sigmoid" if config.loss == "sigmoid" and task == "classes" else "softmax"
    return {"task": task, "class_names": names, "thresholds": thresholds, "target": target, "loss": loss}


def measure_targets(train: Split) -> tuple[float, float]:
    """Mean and deviation of the numbers of a split; 1 where they are all equal."""
    values = train.targets()
    return float(values.mean()), float(values.std()) or 1.0


def find_named_recipe(request: TrainConfig) -> Recipe | None:
    row = recipe(request.recipe) if request.recipe else None
    if row and row.purpose != request.command:
        raise ConfigError(f"recipe {row.name} is for {row.purpose}; vitctl recipes lists those for {request.command}")
    return row


def affordable_res(base: Base, named: Recipe | None, device: torch.device, most: Res) -> Res:
    """The resolution of the weights. On a CPU, the recipe that suits any weights takes no more pixels than the data
    have, in whole patches, at least GRID of them."""
    spec, is_open = base.spec, named.name == ANY_WEIGHTS if named else not base.is_paper
    if not is_open or device.type != "cpu":
        return spec.res
    reach = spec.reach
    least = GRID * reach
    size = Res(*(min(own, max(limit // reach * reach, least)) for own, limit in zip(spec.res, most, strict=True)))
    return size if spec.family != "timm" or can_resize(spec, size) else spec.res


def build_config(
    request: Config, named: Recipe | None, base: Base, data: Data, device: torch.device, reporter: Reporter
) -> Config:
    """The recipe that was named, or the one for the model and the data; then what was requested."""
    rows = min(data.train.rows, request.limit or data.train.rows)
    if named:
        row, reason = for_data(named, base.spec, rows), "--recipe"
    else:
        objective, is_digits = getattr(request, "objective", None), data.file.header.is_digits
        row = choose(request.command, base.spec, rows, objective, digits=is_digits, paper=base.is_paper)
        reason = f"for {format_count(rows, 'image')}"
    config = dataclasses.replace(request.over(row.config), recipe=row.name)
    config = settle_loss(config, request, data.file, reporter)
    reporter.note(f"recipe: {row.name} ({reason}){describe_choice(config)}")
    config = settle_hidden(scale_lr(config, request, row, reporter), request, base.spec, reporter)
    if row.name == ANY_WEIGHTS and not config.res:
        size = affordable_res(base, row, device, Res(*data.file.header.training_res))
        if size != base.spec.res:
            reporter.note(f"resolution: {size} on a CPU; --res {base.spec.res} is that of the weights")
            config = dataclasses.replace(config, res=size)
    return fit_warmup(config, rows, reporter)


def scale_lr(config: Config, request: Config, row: Recipe, reporter: Reporter) -> Config:
    """The lr of a recipe whose source has a rule per batch, for another batch. What was requested stays."""
    share, optim, schedule = config.batch / row.config.batch, config.optim, config.schedule
    if not row.follows_batch or share == 1 or "lr" in request.optim.named or getattr(request, "lrs", None):
        return config
    optim = dataclasses.replace(optim, lr=optim.lr * share)
    if "end" not in request.schedule.named:  # a share of the lr, which the source states as an lr
        schedule = dataclasses.replace(schedule, end=min(1.0, schedule.end / share))
    reporter.note(
        f"lr: {optim.lr:g} for a batch of {config.batch:,}, as the recipe has {row.config.optim.lr:g} for "
        f"{row.config.batch:,}"
    )
    return dataclasses.replace(config, optim=optim, schedule=schedule)


def settle_hidden(config: Config, request: Config, spec: ModelSpec, reporter: Reporter) -> Config:
    """Heads without a hidden layer: one that was requested is an error, and that of a recipe is left out."""
    if not getattr(config, "hidden", False) or spec.family in ("vit", "hybrid"):
        return config
    if "hidden" in request.named:
        raise ConfigError(f"hidden: the head of {spec.name} has no hidden layer; leave it out by --set hidden=false")
    reporter.warn(f"hidden: the head of {spec.name} has no hidden layer; that of recipe {config.recipe} is left out")
    return dataclasses.replace(config, hidden=False)  # type: ignore[call-arg]


def settle_loss(config: Config, request: Config, file: PatchFile, reporter: Reporter) -> Config:
    """Sets of classes and numbers have one loss each, in place of the recipe's."""
    if not isinstance(config, LabeledConfig) or not isinstance(request, LabeledConfig):
        return config
    task = file.header.task
    if config.best not in BEST[task]:
        raise ConfigError(f"{file.path}: has {LABEL_WORDS[task]} per image; best is {' or '.join(BEST[task])}")
    fitting = LOSSES[task]
    if config.loss in fitting:
        return config
    if "loss" in request.named:
        raise ConfigError(
            f"{file.path}: has {LABEL_WORDS[task]} per image, which loss={config.loss} is not for; "
            f"use loss={' or '.join(fitting)}"
        )
    reporter.note(f"loss: {fitting[0]}, as labels are {LABEL_WORDS[task]} per image")
    return dataclasses.replace(config, loss=fitting[0])  # type: ignore[arg-type]


def describe_choice(config: TrainConfig) -> str:
    """What a recipe that depends on the data has chosen."""
    if config.recipe != ANY_WEIGHTS:
        return ""
    optimizer = "AdamW" if config.optim.name == "adam" else config.optim.name
    return (
        f": {optimizer}, lr {config.optim.lr:g}, layer decay {config.optim.layer_decay:g}, batch {config.batch}, "
        f"{describe_length(config)}; the paper's own is --recipe {PAPER_TRANSFER}"
    )


def fit_warmup(config: Config, rows: int, reporter: Reporter) -> Config:
    """The warm-up of a recipe is a number of steps, and a run may be shorter than that."""
    if config.minutes:  # the steps are not known yet
        return config
    steps = config.total_steps(rows)
    schedule, warmup = config.schedule.fit_to(steps), config.schedule.warmup_steps(steps)
    if schedule.warmup == config.schedule.warmup:
        return config
    reporter.note(
        f"schedule: a warm-up of {warmup:,} steps is longer than the run of {steps:,}; using {schedule.warmup:,}"
    )
    return dataclasses.replace(config, schedule=schedule)


def new_path(command: str, model: str) -> Path:
    """runs/<date-time>-<command>-<model>, which is created."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{command}-{model.replace('/', '-').replace(':', '-')}"
    return new_folder(RUNS / name)


def find_resumable(options: RunOptions, command: str) -> RunDirectory | None:
    """The run that --resume means; None where a new one starts because there is none, or one of another command."""
    if options.resume is None:
        return None
    if options.resume != "auto":
        return open_run(Path(options.resume))
    path = Path(options.out) if options.out else RUNS
    run = open_run(path) if is_run(path) else None
    return run if run and (options.out or run.config["command"] == command) else None


def config_record(config: TrainConfig, model: ModelSpec, data: Data) -> dict[str, Any]:
    """What config.json says: everything that decides what a run ends in."""
    return {
        "config_version": CONFIG_VERSION,
        "model": model.name,
        **as_dict(config),
        "data": str(data.path),
        "data_digest": data.file.digest,
        "class_names": list(data.file.class_names),
    }


def check_same(run: RunDirectory, config: TrainConfig, then: TrainConfig, data: Data) -> None:
    """A run is resumed with the config that it started with; only what decides its speed may change."""
    now = as_dict(config) | {"data_digest": data.file.digest, "class_names": list(data.file.class_names)}
    before = as_dict(then) | {name: run.config["config"][name] for name in ("data_digest", "class_names")}
    changed = [
        f"{name} is {new!r} now and was {old!r}"
        for name, new, old in diff_configs(now, before)
        if name.split(".")[0] not in (*FREE, "data")
    ]
    if changed:
        longer = any(each.split()[0] in LENGTHS for each in changed)
        raise UsageError(
            f"{run.path}: was started with another config: {'; '.join(changed[:4])}. Start a new run, or resume "
            "without these changes"
            + (f"; vitctl finetune --from {run.path} trains its weights further" if longer else "")
        )


def diff_configs(now: dict[str, Any], then: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*now, *then}):
        new, old = now.get(name), then.get(name)
        if isinstance(new, dict) and isinstance(old, dict):
            yield from diff_configs(new, old, f"{above}{name}.")
        elif new != old:
            yield f"{above}{name}", new, old
