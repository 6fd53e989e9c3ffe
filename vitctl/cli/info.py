import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitctl.cli.options import Json, Quiet
from vitctl.config.overrides import as_setting

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.info import FeatureFileInfo, Info, PatchFileInfo, RunInfo, WeightsInfo

SHARES = ("top1", "top5", "balanced", "macro_f1")


def info(
    path: Annotated[
        str | None,
        typer.Argument(
            help="A patch file, weights of any format (timm:NAME too), a run directory or a feature file. Default: the "
            "data that other commands would use."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every image again and compare it with its digest.")
    ] = False,
    rejects: Annotated[
        bool,
        typer.Option(
            "--rejects", help="List the images that could not be read, with reasons, and leaks between splits."
        ),
    ] = False,
    sheet: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw a contact sheet: one row of images per class.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Draw the sheet with this augmentation applied.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="The split that the sheet shows. Default: the first.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Describe a patch file, a feature file, a run directory or weights of any format. --verify checks its contents.

    Example: [bold]vitctl info data.h5 --sheet sheet.png[/bold] or [bold]vitctl info vit_b16.npz[/bold]
    """
    from pathlib import Path

    from vitctl.cli.console import print_result, reporter
    from vitctl.errors import UsageError
    from vitctl.io.outputs import check_output
    from vitctl.io.patch_file import PatchFile
    from vitctl.workflows.info import PatchFileInfo, describe
    from vitctl.workflows.inputs.data import choose_data
    from vitctl.workflows.sheets import KINDS, augmentation_sheet, contact_sheet

    log = reporter(quiet)
    path = path or str(choose_data(None, log))
    if augment and not sheet:
        raise UsageError("--augment needs --sheet FILE.png")
    check_output(sheet, path, ending=tuple(KINDS))
    result = describe(path, log, verify=verify)
    if sheet and not isinstance(result, PatchFileInfo):
        raise UsageError(f"--sheet draws the images of a patch file; {path} is not a patch file")
    if sheet:
        if augment:
            augmentation_sheet(PatchFile(Path(path)), split, augment, Path(sheet))
        else:
            contact_sheet(PatchFile(Path(path)), split, Path(sheet))
        log.note(f"sheet: {sheet}")
    print_result("info", result, json, info_tables(result, rejects))


def info_tables(result: "Info", rejects: bool) -> "list[Table]":
    from vitctl.workflows.info import FeatureFileInfo, RunInfo, WeightsInfo

    if isinstance(result, WeightsInfo):
        return weights_tables(result)
    if isinstance(result, FeatureFileInfo):
        return feature_tables(result)
    return run_tables(result) if isinstance(result, RunInfo) else file_tables(result, rejects)


def file_tables(result: "PatchFileInfo", rejects: bool) -> "list[Table]":
    from vitctl.cli.console import columns_table
    from vitctl.cli.patchify import patch_file_tables
    from vitctl.workflows.info import name_in_split

    tables = patch_file_tables(result, {})
    if rejects:
        rows = [[reject["name"], reject["reason"]] for reject in result.rejected]
        if result.rejects > len(rows):
            rows.append([f"and {result.rejects - len(rows):,} more", ""])
        tables.append(columns_table("rejects", ["name", "reason"], rows))
        rows = [
            [name_in_split(leak["split"], leak["name"]), name_in_split(leak["other_split"], leak["other_name"])]
            for leak in result.leaks
        ]
        tables.append(columns_table("leaks", ["image", "same as"], rows))
    return tables


def run_tables(result: "RunInfo") -> "list[Table]":
    from vitctl.cli.console import columns_table, facts_table

    about = {"run": result.path, "command": result.command, "version": result.version}
    about |= {"finished": "yes" if result.finished else "no"} | config_rows(result.config)
    answer = result.result or {}
    numbers = {
        name: f"{value:.2%}" if name.endswith(SHARES) else f"{value:,.6g}"
        for name, value in answer.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in result.config
    }
    stages = [[each["stage"], each["result"], each["file"]] for each in answer.get("stages", [])]
    return [
        facts_table(about),
        *([facts_table(numbers)] if numbers else []),
        *([columns_table("stages", ["stage", "result", "file"], stages)] if stages else []),
        *(weights_tables(result.weights) if result.weights else []),
    ]


def config_rows(config: "dict[str, Any]") -> dict[str, str]:
    """The settings of a config as NAME=VALUE, one row per inner config; class names are left out."""
    rows: dict[str, list[str]] = {"config": []}
    for name, value in config.items():
        is_inner = isinstance(value, dict)
        for inner, each in value.items() if is_inner else [(name, value)]:
            if each is not None and inner != "class_names":
                setting = f"{name}.{inner}" if is_inner else name
                rows.setdefault(name if is_inner else "config", []).append(f"{setting}={shlex.quote(as_setting(each))}")
    return {name: "  ".join(settings) for name, settings in rows.items()}


def feature_tables(result: "FeatureFileInfo") -> "list[Table]":
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.cli.patchify import join_names
    from vitctl.reporting import format_size

    rows = [[name, f"{shape[0]:,}", sizes(shape[1:])] for name, shape in result.splits.items()]
    about = {
        "features": f"{result.path}, {result.dtype}, computed in {result.precision}",
        "model": f"{result.model} at {sizes(result.res)}, weights {result.weights_digest[:12]}",
        "features of": f"the last {result.layers} blocks, {result.pool}"
        if result.pool != "auto"
        else "the head's input",
        "classes": "none: a label is a number" if result.task == "numbers" else join_names(result.class_names),
        "data": f"digest {result.data_digest}",
        "size": f"{format_size(result.bytes)}, by {result.created_by}",
    }
    return [
        columns_table("splits", ["split", "images", "features"], rows, ["images", "features"]),
        facts_table(about),
    ]


def weights_tables(result: "WeightsInfo") -> "list[Table]":
    from vitctl.cli.console import facts_table
    from vitctl.cli.patchify import join_names
    from vitctl.reporting import format_size

    about = {
        "weights": result.path,
        "format": "vitctl weights" if result.ours else result.format,
        "model": f"{result.model}, {result.parameters:,} parameters",
    }
    about |= architecture(result)
    if result.class_names:
        about["classes"] = join_names(result.class_names)
    if result.task == "sets":
        low, high = min(result.thresholds), max(result.thresholds)
        about["answer"] = f"a set of classes, at thresholds of {low:.3f} to {high:.3f}"
    if result.task == "numbers":
        about["answer"] = "a number, of mean {:.6g} and deviation {:.6g} in training".format(*result.target)
    about["mean, std"] = "  ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in zip(result.mean, result.std, strict=True))
    if result.ours and result.source:
        about["source"] = f"{result.source}, {result.format}"
    for number, step in enumerate(result.history, 1):
        before, after = (sizes(step.get(key)) for key in ("from", "to"))
        about[f"change {number}"] = f"{step.get('step')}: {before} to {after}, {step.get('method')}"
    if result.apart:
        about["not in model"] = f"{len(result.apart)} tensors: {', '.join(result.apart[:4])}"
    about["size"] = f"{format_size(result.bytes)} of {', '.join(result.dtypes)}"
    about["digest"] = result.digest
    return [facts_table(about | {f"note {number}": note for number, note in enumerate(result.notes, 1)})]


def sizes(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def architecture(result: "WeightsInfo") -> dict[str, str]:
    """The rows that depend on the model's family."""
    spec = result.spec
    res = f"{spec['height']}x{spec['width']}x{spec['channels']}"
    classes = f"{result.classes:,} classes" if result.classes else "no head: features only"
    if spec["family"] in ("bit", "timm"):
        return {"images": res, "head": classes}
    hidden = f", hidden layer of {spec['hidden']}" if spec["hidden"] else ""
    added = "" if spec["added"] == "stem" else f", added at {spec['added']} layer"
    front = f" and {spec['registers']} registers" if spec["registers"] else ""
    return {
        "images": f"{res}, {result.grid[0]}x{result.grid[1]} patches, {result.tokens:,} tokens{front}",
        "blocks": f"{spec['depth']} of width {spec['dim']}, {spec['heads']} heads, MLP {spec['mlp']}",
        "head": f"{spec['head']}{hidden}, {classes}",
        "positions": f"{spec['positions']}{added}",
        "GELU, eps": f"{spec['gelu']}, {spec['norm_eps']:g}",
    }
