"""`vitctl models`: the names, and what stands behind them."""

import fnmatch
from dataclasses import dataclass

from vitctl.config.model import EXAFLOPS, LISTED, model_spec
from vitctl.config.res import Res
from vitctl.models.count import count
from vitctl.reporting import Reporter, SilentReporter


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
    """Those whose name has `pattern` in it, or fits it as a glob; a name that is not listed stands for itself."""
    names = [
        name for name in LISTED if not pattern or pattern.lower() in name or fnmatch.fnmatch(name, pattern.lower())
    ]
    reporter = reporter or SilentReporter()
    rows = []
    with reporter.progress("count", len(names) or 1, "models") as bar:
        for name in names or [str(pattern)]:
            rows.append(make_model_row(name, res or Res(224), reporter))
            bar.advance()
    return ModelsResult(rows)


def make_model_row(name: str, res: Res, reporter: Reporter) -> ModelRow:
    spec = model_spec(name, height=res.height, width=res.width, pad=True)
    has_tokens = spec.family not in ("bit", "timm")
    if has_tokens and (res.height % spec.reach or res.width % spec.reach):
        covered = "x".join(str(cells * spec.reach) for cells in spec.grid)
        reporter.note(
            f"{name}: patches of {spec.reach} do not divide {res.height}x{res.width}; counted as padded to {covered}"
        )
    counted = count(spec)
    return ModelRow(
        spec.name,
        spec.family,
        list(res),
        spec.tokens if has_tokens else 0,
        counted.parameters,
        counted.flops / 1e9,
        EXAFLOPS.get(spec.name),
    )
