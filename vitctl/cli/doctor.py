from typing import Annotated

import typer

from vitctl.cli.options import Json


def doctor(
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="The folder for results, to check whether it is writable.")
    ] = ".",
    json: Json = False,
) -> None:
    """Describe this machine and this installation, and report problems.

    The exit code is 0 without problems, 4 otherwise. Example: [bold]vitctl doctor --json[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table, print_result
    from vitctl.reporting import format_size
    from vitctl.workflows.doctor import examine

    result = examine(out)
    access = "writable" if result.writable else "NOT writable"
    about = {
        "python": f"{result.python} on {result.platform}",
        "device": f"{result.device}: {', '.join(result.devices)}",
        "precisions": ", ".join(f"{name} {how}" for name, how in result.precisions.items()),
        "cores": f"{result.cores}, torch uses {result.threads} threads",
        "memory": format_size(result.memory) if result.memory else "unknown",
        "disk": f"{format_size(result.free_disk)} free, {access}: {result.folder}",
        "libraries": ", ".join(f"{name} {version}" for name, version in result.libraries.items()),
        "extras": ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in result.extras.items()),
        "workers": f"started by {result.start_method}",
    }
    advice = columns_table("to fix", ["advice"], [[line] for line in result.advice]) if result.advice else None
    print_result("doctor", result, json, [facts_table(about), *([advice] if advice else [])])
    if not result.ok:
        raise typer.Exit(4)
