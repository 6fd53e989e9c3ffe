from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import Overwrite
from vitctl.config.export import ExportConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.export import ExportResult


@command(ExportConfig, "vitctl.workflows.export:export", Overwrite)
def export(result: "ExportResult") -> "list[Table]":
    """Write a model for another runtime, load it there again, and compare it with the model on real images.

    The comparison is saved beside the file, as FILE.json. A file that differs is kept, and the exit code is 4.

    Example: [bold]vitctl export --format onnx --with-preprocessing[/bold]
    """
    from vitctl.cli.console import facts_table
    from vitctl.reporting import format_size
    from vitctl.workflows.export.files import OWN

    compared, prepared = result.comparison, result.preprocessing
    answer = "a number" if compared.answers == "numbers" else f"{result.classes:,} classes"
    facts = {
        "written": f"{result.out}, {format_size(result.bytes)}",
        "model": f"{result.model} at {result.res[0]}x{result.res[1]}, {answer}, {result.precision}",
        "takes": result.input,
        "compared": f"by {result.runtime}, on {compared.pictures:,} images of {result.data}",
        compared.answers: f"up to {compared.max_difference:.2g} apart, {compared.mean_difference:.2g} on average; "
        f"the largest is {compared.largest_logit:.3g}; {compared.describe_agreement()}",
        "accuracy": compared.accuracy(),
        "files": prepared.summary() if prepared and (prepared.by != OWN or not prepared.agrees) else "",
        "report": result.report,
        "load": result.load,
        **({"pushed": result.pushed} if result.pushed else {}),
    }
    return [facts_table({name: value for name, value in facts.items() if value})]
