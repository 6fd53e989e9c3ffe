from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import FeaturesOptions
from vitctl.config.features import FeaturesConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.features import FeaturesResult


@command(FeaturesConfig, "vitctl.workflows.features:features", FeaturesOptions)
def features(result: "FeaturesResult") -> "list[Table]":
    """Extract frozen features, the input of the head, for every image, once.

    The file has features, labels and names of each split. A run that was killed is resumed.

    Example: [bold]vitctl features --from runs/ --data photos.h5 --out features.h5[/bold]
    """
    from vitctl.cli.console import facts_table
    from vitctl.reporting import format_duration

    speed = f"{result.images_per_s:,.0f} img/s, {format_duration(result.elapsed_s)}" if result.computed else "cached"
    facts = {
        "features": result.out,
        "of": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "data": result.data,
        **{name: " x ".join(f"{size:,}" for size in shape) for name, shape in result.splits.items()},
        "exported": ", ".join(result.exported),
        "in": speed,
    }
    return [facts_table({name: value for name, value in facts.items() if value})]
