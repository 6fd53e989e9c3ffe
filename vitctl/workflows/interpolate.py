"""`vitctl interpolate-pos`: adapts weights to another resolution."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from vitctl.config.interpolate import InterpolateConfig
from vitctl.errors import OutputExists, UsageError
from vitctl.inspection.representations import SimilarityPanel, draw_similarities
from vitctl.io.outputs import check_output
from vitctl.io.save import save_as
from vitctl.io.weights import Weights
from vitctl.models.adapt import adapt_weights, round_trip_error
from vitctl.models.resize import describe_method, patch_positions
from vitctl.reporting import Reporter, SilentReporter
from vitctl.workflows.inputs.weights import choose_weights, choose_weights_flag, weight_files


@dataclass(frozen=True)
class InterpolateResult:
    out: str
    source: str
    model: str
    positions: str
    method: str
    res_before: list[int]
    res_after: list[int]
    grid_before: list[int]
    grid_after: list[int]
    tokens_before: int
    tokens_after: int
    round_trip_error: float  # of the positions, after resizing there and back: relative root mean square
    parameters: int
    digest: str
    plot: str | None
    elapsed_s: float


def interpolate_positions(
    config: InterpolateConfig, reporter: Reporter | None = None, *, overwrite: bool = False
) -> InterpolateResult:
    reporter = reporter or SilentReporter()
    started = time.perf_counter()
    before = choose_weights(config.source, reporter, config.allow_missing, config)
    if config.pad:
        before = replace(before, spec=before.spec.replace(pad=True))
    height, width = config.res
    out = Path(config.out or f"{short_name(before.spec.name)}-{config.res}.safetensors")
    check_outputs(before, out, config, overwrite)
    after = adapt_weights(before, height, width, method=config.method)
    if before.spec.grid == after.spec.grid:
        reporter.note(f"the grid of {grid(before)} patches is unchanged")
    if config.plot:  # before the weights: if the disk is full, a plot does not block a second run
        plot(before, after, Path(config.plot))
    digest = save_as(after, out)
    steps = after.about.history[len(before.about.history) :]
    return InterpolateResult(
        out=str(out),
        source=choose_weights_flag(config.source)[0],
        model=before.spec.name,
        positions=before.spec.positions if before.spec.family != "timm" else "of timm",
        method=steps[-1]["method"] if steps else describe_method(before.spec, config.method),
        res_before=[before.spec.height, before.spec.width],
        res_after=[height, width],
        grid_before=list(before.spec.grid),
        grid_after=list(after.spec.grid),
        tokens_before=before.spec.tokens,
        tokens_after=after.spec.tokens,
        round_trip_error=round_trip_error(before, height, width, config.method),
        parameters=after.parameters,
        digest=digest,
        plot=config.plot,
        elapsed_s=time.perf_counter() - started,
    )


def check_outputs(before: Weights, out: Path, config: InterpolateConfig, overwrite: bool) -> None:
    """Raise an error for invalid outputs before anything is written."""
    if out.is_dir() or (out.exists() and not overwrite):
        hint = (
            "is a folder; name a file" if out.is_dir() else "exists already; --overwrite replaces it, or name another"
        )
        raise OutputExists(f"{out}: {hint} with --out")
    check_output(out, *weight_files(before.path), ending=(".safetensors", ".npz"))
    check_output(config.plot, ending=".png")
    if config.plot and patch_positions(before) is None:
        raise UsageError(f"--plot draws a table of positions, and {before.spec.name} has none: {before.spec.positions}")


def short_name(name: str) -> str:
    return name.replace("/", "-").replace(":", "-")


def grid(weights: Weights) -> str:
    return f"{weights.spec.grid[0]}x{weights.spec.grid[1]}"


def plot(before: Weights, after: Weights, path: Path) -> None:
    panels = []
    for label, weights in (("before", before), ("after", after)):
        table = patch_positions(weights)
        assert table is not None  # ensured by check_outputs
        size = f"{weights.spec.height}x{weights.spec.width}"
        panels.append(
            SimilarityPanel(f"{label}: {grid(weights)} patches at {size}", table.float().numpy(), weights.spec.grid)
        )
    draw_similarities(panels, path, f"Similarity of position embeddings, {before.spec.name}")
