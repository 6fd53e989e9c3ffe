from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import Overwrite
from vitctl.config.interpolate import InterpolateConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.interpolate import InterpolateResult


@command(InterpolateConfig, "vitctl.workflows.interpolate:interpolate_positions", Overwrite)
def interpolate_pos(result: "InterpolateResult") -> "list[Table]":
    """Turn weights for one resolution into weights for another, by interpolating their position embeddings.

    Needs no data and no GPU. Everything else stays as it is; the new file says what was done.

    Example: [bold]vitctl interpolate-pos --from vit_b16.npz --res 384[/bold]
    """
    from vitctl.cli.console import facts_table

    before, after = (
        f"{res[0]}x{res[1]}, {grid[0]}x{grid[1]} patches, {tokens:,} tokens"
        for res, grid, tokens in (
            (result.res_before, result.grid_before, result.tokens_before),
            (result.res_after, result.grid_after, result.tokens_after),
        )
    )
    facts = {
        "model": f"{result.model}, {result.parameters:,} parameters",
        "before": before,
        "after": after,
        "positions": f"{result.positions}, {result.method}",
        "there and back": f"{result.round_trip_error:.2%} of the norm of the positions is lost",
        "written": result.out,
        "digest": result.digest,
        "took": f"{result.elapsed_s:.1f} s",
        **({"plot": result.plot} if result.plot else {}),
    }
    return [facts_table({name: value for name, value in facts.items() if value})]
