from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import DemoOptions
from vitctl.config.demo import DemoConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.demo import DemoResult


@command(DemoConfig, "vitctl.workflows.demo:demo", DemoOptions)
def demo(result: "DemoResult") -> "list[Table]":
    """Show the whole chain in a few minutes, ending in one page to keep.

    Patches, training without and with labels, fine-tuning at another resolution, a few-shot probe, a look inside, an
    export, and its predictions; on embedded handwritten digits, or on your own images. The page has the command of each
    stage.

    Example: [bold]vitctl demo[/bold] or [bold]vitctl demo --data photos/[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.reporting import format_duration

    rows = [[each.stage, each.result, format_duration(each.elapsed_s), each.file] for each in result.stages]
    facts = {
        "page": result.page,
        "took": format_duration(result.elapsed_s),
        "next": "open the page; it has the command of each stage, for your own images. vitctl inspect, evaluate and "
        "predict now use its model",
    }
    columns = ["stage", "result", "took", "file"]
    return [columns_table(f"{result.model} on {result.data}", columns, rows, ["took"]), facts_table(facts)]
