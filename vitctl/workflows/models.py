"""`vitctl models`: model names, and the size and cost of each model."""

from dataclasses import dataclass
from fnmatch import fnmatch

from vitctl.config.model import EXAFLOPS, LISTED, ModelSpec, model_spec
from vitctl.config.res import Res
from vitctl.errors import ConfigError
from vitctl.models.count import count
from vitctl.models.create import import_timm
from vitctl.reporting import Reporter, SilentReporter

SHOWN = 8  # names of timm in an error


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
        text = f"models of timm are named timm:NAME: {', '.join(f'timm:{each}' for each in names[:SHOWN])}{more}"
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
