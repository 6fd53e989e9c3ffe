"""The flags that mean the same in every command."""

from typing import Annotated, Literal

import typer

DEVICE = typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")
PRECISION = typer.Option(help="auto takes bf16 where the device has it.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes; warnings stay.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set any other field of the config; repeatable.")
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N,N]",
        help="Mean of the training pixels, from 0 to 1: one number, or one per channel; default: what the weights say.",
    ),
]
Std = Annotated[
    str | None, typer.Option(metavar="N[,N,N]", help="Standard deviation of the training pixels, in the same way.")
]
Device = Annotated[str, DEVICE]
Precision = Annotated[Literal["auto", "float32", "bf16"], PRECISION]
Data = Annotated[
    str | None, typer.Option(metavar="DATA", help="A patch file, digits, or any source that patchify takes.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a build that was stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
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
