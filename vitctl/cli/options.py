"""The flags that mean the same in every command."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes; warnings stay.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other field of the config; repeatable.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a stopped run left off.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where something is already.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="WEIGHTS",
        help="A file or folder of weights, or timm:NAME; else $VITCTL_FROM, else the newest run.",
    ),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Take the tensors that fit, where some are missing or unknown.")
]
