"""`vitctl models`: model names, and the size and cost of each model."""

from dataclasses import dataclass
from fnmatch import fnmatch

from vitctl.config.model import EXAFLOPS, LISTED, ModelSpec, model_spec
from vitctl.config.res import Res
from vitctl.errors import ConfigError, did_you_mean
from vitctl.models.adapt_timm import meta_module
from vitctl.models.count import count
from vitctl.models.create import import_timm
from vitctl.reporting import Reporter, SilentReporter

SHOWN = 8  # names of timm in an error
COUNTED = 100  # models of timm, each of which is built to count it


@dataclass(frozen=True)
class ModelRow:
    name: str
    family: str
    res: list[int]
    tokens: int
    parameters: int
    gflops: float  # of one image forward, two for each multiply-add
    exaflops: str | None  # of the paper's pretraining, Table 6


@dataclass(frozen=True)
class ModelsResult:
    models: list[ModelRow]


@dataclass(frozen=True)
class TimmRow:
    name: str
    parameters: int | None  # None: one of more than COUNTED, which are not built
    res: list[int]
    classes: int  # of the pretrained head; 0: features only
    license: str | None


@dataclass(frozen=True)
class TimmResult:
    models: list[TimmRow]


def list_timm_models(pattern: str | None = None, reporter: Reporter | None = None) -> TimmResult:
    """timm's pretrained models whose name, with its tag, contains `pattern` or matches it as a glob."""
    timm, reporter = import_timm(), reporter or SilentReporter()
    part = (pattern or "").removeprefix("timm:").lower()
    names = timm.list_models(part if "*" in part else f"*{part}*", pretrained=True)
    if not names:
        hint = did_you_mean(part, timm.list_models(pretrained=True))
        raise ConfigError(f"no pretrained model of timm matches {part!r}; {hint}")
    if len(names) > COUNTED:
        reporter.note(f"{len(names):,} models match; parameters are counted for up to {COUNTED}")
    rows = []
    with reporter.progress("count", len(names), "models") as bar:
        for name in names:
            rows.append(make_timm_row(name, is_counted=len(names) <= COUNTED))
            bar.advance()
    return TimmResult(rows)


def make_timm_row(name: str, is_counted: bool) -> TimmRow:
    stated = import_timm().get_pretrained_cfg(name)
    channels, height, width = stated.input_size
    spec = model_spec(f"timm:{name}", height=height, width=width, channels=channels, classes=stated.num_classes)
    parameters = None
    if is_counted:
        parameters = sum(value.numel() for value in meta_module(spec).parameters())
    return TimmRow(spec.name, parameters, [height, width], stated.num_classes, stated.license)


def list_models(pattern: str | None = None, res: Res | None = None, reporter: Reporter | None = None) -> ModelsResult:
    """The listed models whose name contains `pattern` or matches it as a glob; else the model of that name."""
    res, reporter = res or Res(224), reporter or SilentReporter()
    part = (pattern or "").lower()
    names = [name for name in LISTED if part in name or fnmatch(name, part)]
    specs = [model_spec(name, height=res.height, width=res.width, pad=True) for name in names]
    specs = specs or [resolve_name(str(pattern), res)]
    rows = []
    with reporter.progress("count", len(specs), "models") as bar:
        for spec in specs:
            rows.append(make_model_row(spec, res, reporter))
            bar.advance()
    return ModelsResult(rows)


def resolve_name(name: str, res: Res) -> ModelSpec:
    """The model of this name; the error lists the models of timm whose names contain it."""
    try:
        return model_spec(name, height=res.height, width=res.width, pad=True)
    except ConfigError:
        names = import_timm().list_models(name if "*" in name else f"*{name}*")
        if not names or name in names:
            raise
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        shown = ", ".join(f"timm:{each}" for each in names[:SHOWN])
        text = (
            f"models of timm are named timm:NAME: {shown}{more}; vitctl models {name} --timm lists the pretrained ones"
        )
        raise ConfigError(f"no listed model matches {name!r}; {text}") from None


def make_model_row(spec: ModelSpec, res: Res, reporter: Reporter) -> ModelRow:
    has_tokens = spec.family not in ("bit", "timm")
    if has_tokens and (res.height % spec.reach or res.width % spec.reach):
        padded = "x".join(str(cells * spec.reach) for cells in spec.grid)
        size = f"{res.height}x{res.width}"
        reporter.note(f"{spec.name}: patches of {spec.reach} do not divide {size}; counted as padded to {padded}")
    cost = count(spec)
    return ModelRow(
        spec.name, spec.family, list(res), spec.tokens if has_tokens else 0, cost.parameters, cost.flops / 1e9,
        EXAFLOPS.get(spec.name),
    )  # fmt: skip
