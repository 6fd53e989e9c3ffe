"""The stages of the demo: each runs one command and describes its result."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitctl.config.demo import FIRST, SECOND, DemoConfig
from vitctl.config.evaluate import EvaluateConfig
from vitctl.config.export import ExportConfig
from vitctl.config.features import FeaturesConfig
from vitctl.config.fewshot import FewshotConfig
from vitctl.config.inspect import InspectConfig
from vitctl.config.interpolate import InterpolateConfig
from vitctl.config.overrides import override
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.predict import PredictConfig
from vitctl.config.res import Res
from vitctl.config.train import FinetuneConfig, PretrainConfig, SelfsupConfig
from vitctl.data.loader import load_images
from vitctl.errors import DataError
from vitctl.io.hdf5 import is_hdf5
from vitctl.io.patch_file import PatchFile, Split
from vitctl.reporting import Reporter, format_count
from vitctl.workflows.evaluate import EvaluateResult, evaluate
from vitctl.workflows.export import export
from vitctl.workflows.fewshot import fewshot
from vitctl.workflows.inputs.data import choose_judge_split
from vitctl.workflows.inputs.samples import HELD_OUT
from vitctl.workflows.inspect import inspect
from vitctl.workflows.interpolate import interpolate_positions
from vitctl.workflows.patchify import patchify
from vitctl.workflows.predict import predict
from vitctl.workflows.sheets import contact_sheet
from vitctl.workflows.subcommands import Training, command_line

SHOTS = (1, 5, 10)
SHOWN = 24  # images for the exported model to predict
HELD = "0.2"  # share of the images to hold out, if no split is


@dataclass(frozen=True)
class Demo:
    config: DemoConfig
    folder: Path
    reporter: Reporter

    @property
    def data(self) -> Path:
        return self.folder / "data.h5"

    @property
    def model(self) -> str:
        return f"{self.config.model}/{self.config.pixels}"

    @property
    def sizes(self) -> tuple[Res, Res]:
        """The image sizes of pretraining and fine-tuning, in pixels."""
        return Res(FIRST * self.config.pixels), Res(SECOND * self.config.pixels)

    @property
    def held_out(self) -> Split:
        file = PatchFile(self.data)
        return file.split(choose_judge_split(file))

    @property
    def val_setting(self) -> tuple[str, ...]:
        """The setting that names the split to evaluate on, if it is not val."""
        name = self.held_out.name
        return () if name == "val" else (f"val={name}",)

    def common(self, share: float) -> dict[str, Any]:
        """Fields of every training. `share`: its steps, relative to pretraining."""
        config, device = self.config, {} if self.config.device == "auto" else {"device": self.config.device}
        steps = {"steps": int(config.steps * share), "batch": config.batch, "seed": config.seed}
        return {"data": str(self.data), **steps, **device}


@dataclass(frozen=True)
class Stage:
    name: str  # of the command
    summary: str  # the result in a line
    line: str  # the command that does the same
    file: Path
    text: str  # an explanation for newcomers
    figures: tuple[Path, ...] = ()


def patchify_stage(demo: Demo) -> Stage:
    config, out = demo.config, demo.data
    if Path(config.data).is_file() and is_hdf5(Path(config.data)):
        raise DataError(f"{config.data}: is a patch file; the demo needs the images themselves, name their folder")
    limit = None if config.embedded else config.limit
    options = PatchifyConfig(source=config.data, out=str(out), res=demo.sizes[1], patch=config.pixels, limit=limit)
    result = patchify(options, demo.reporter, overwrite=True)
    if not any(name in result.data.splits for name in HELD_OUT):
        options = replace(options, split=(f"val={HELD}",))
        result = patchify(options, demo.reporter, overwrite=True)
    labels = PatchFile(out).split("train").labels()
    if len(np.unique(labels[labels >= 0])) < 2:
        raise DataError(f"{config.data}: has images of fewer than two classes; the demo needs one folder per class")
    sheet = demo.folder / "data.png"
    contact_sheet(PatchFile(out), "train", sheet)
    parts = ", ".join(f"{each.pictures:,} {name}" for name, each in result.data.splits.items())
    line = command_line(
        "patchify", config.data, out, res=options.res, patch=options.patch, limit=limit, split=options.split
    )
    text = (
        "Every image is decoded once and stored as the patches that the model reads. Copies of an image, leaks "
        f"between splits and unreadable files are reported: {format_count(result.data.rejects, 'file')} rejected."
    )
    return Stage("patchify", f"{parts}; {result.images_per_s:,.0f} img/s", line, out, text, (sheet,))


def selfsup_stage(demo: Demo) -> Stage:
    config = SelfsupConfig(
        model=demo.model, res=demo.sizes[0], objective="pixels", recipe="masked-small", **demo.common(1 / 3)
    )
    upright = ("augment.flip=0",) if demo.config.embedded else ()
    run = Training(override(config, (*demo.val_setting, *upright)), demo.folder / "selfsup")
    result = run.train(demo.reporter)
    probe = f"{result.probe_top1:.1%} by a {result.probe_shots}-shot probe" if result.probe_top1 is not None else ""
    text = (
        f"{result.hidden} of {result.patches} patches are hidden, and the model learns to fill them in, without "
        "labels. From above: the images, the visible patches, and the reconstruction."
    )
    pictures = sorted((run.out / "reconstructions").glob("*.png"))[-1:]
    return Stage("selfsup", probe or f"loss {result.loss:.3f}", run.line(), run.out, text, tuple(pictures))


def pretrain_stage(demo: Demo) -> Stage:
    recipe = "digits" if demo.config.embedded else "small"
    config = PretrainConfig(model=demo.model, res=demo.sizes[0], recipe=recipe, **demo.common(1))
    learned = "positions=1d"  # a table to interpolate later
    run = Training(override(config, (*demo.val_setting, learned)), demo.folder / "pretrain")
    result = run.train(demo.reporter)
    text = (
        f"A fresh model of {result.parameters:,} parameters learns the classes at {demo.sizes[0]} pixels, "
        f"{FIRST * FIRST} patches an image: {result.epochs:.3g} epochs at {result.images_per_s:,.0f} "
        f"images a second, {result.ceiling_share:.0%} of what this machine's matrix products allow."
    )
    return Stage("pretrain", f"{format_share(result.top1)} at {demo.sizes[0]} px", run.line(), run.out, text,
                 (run.out / "curves.png",))  # fmt: skip


def format_share(value: float | None) -> str:
    return "nothing held out" if value is None else f"{value:.1%}"


def interpolate_stage(demo: Demo) -> Stage:
    source, out, plot = (
        demo.folder / "pretrain",
        demo.folder / "interpolated.safetensors",
        demo.folder / "positions.png",
    )
    size = demo.sizes[1]
    interpolate_positions(
        InterpolateConfig(res=size, source=str(source), out=str(out), plot=str(plot)), demo.reporter, overwrite=True
    )
    scored = evaluate(EvaluateConfig(source=str(out), data=str(demo.data), device=demo.config.device), demo.reporter)
    assert isinstance(scored, EvaluateResult)
    text = (
        f"The same weights for images of {size} pixels: the table of positions grows from {FIRST}x{FIRST} to "
        f"{SECOND}x{SECOND}, as the paper's authors do it. Each tile shows how similar one position is to all others, "
        f"before and after. Untrained at this size, the model is right on {scored.top1:.1%}."
    )
    line = command_line("interpolate-pos", res=size, source=source, out=out, plot=plot)
    return Stage("interpolate-pos", f"{scored.top1:.1%} at {size} px, untrained there", line, out, text, (plot,))


def finetune_stage(demo: Demo) -> Stage:
    own = demo.config.embedded
    recipe = "digits-finetune" if own else "small-finetune"
    config = FinetuneConfig(
        source=str(demo.folder / "pretrain"), res=demo.sizes[1], recipe=recipe, **demo.common(1 / 2)
    )
    gentle = () if own else ("optim.lr=0.0003", "optim.layer_decay=1")
    run = Training(override(config, (*demo.val_setting, *gentle)), demo.folder / "finetune")
    result = run.train(demo.reporter)
    text = (
        f"A new head, and {result.steps} steps at {demo.sizes[1]} pixels, {SECOND * SECOND} patches an image: what was "
        f"learned on small images carries over to larger ones. {format_share(result.top1)} of the held out "
        "images are right."
    )
    return Stage("finetune", f"{format_share(result.top1)} at {demo.sizes[1]} px", run.line(), run.out, text,
                 (run.out / "curves.png",))  # fmt: skip


def fewshot_stage(demo: Demo) -> Stage:
    sources = (*(str(demo.folder / name) for name in ("selfsup", "pretrain", "finetune")), "pixels")
    plot = demo.folder / "fewshot.png"
    extract = FeaturesConfig(device=demo.config.device)
    labels = PatchFile(demo.data).split("train").labels()
    largest_class = int(np.bincount(labels[labels >= 0]).max())
    shots = tuple(each for each in SHOTS if each <= largest_class)
    config = FewshotConfig(sources=sources, data=str(demo.data), shots=shots, extract=extract)
    result = fewshot(config, demo.reporter, plot=str(plot))
    most = max(each.shots or 0 for each in result.results)
    best = max((each for each in result.results if each.shots == most), key=lambda each: each.mean)
    line = command_line("fewshot", source=sources, data=demo.data, shots=shots, plot=plot)
    text = (
        "Models are frozen, and a linear probe is fitted to a few labeled images of each class, the same ones for "
        "all models. Raw pixels are the baseline. Bars are 95% over seeds."
    )
    summary = f"{best.mean:.1%} with {format_count(most, 'shot')}, by {Path(best.weights).name}"
    return Stage("fewshot", summary, line, plot, text, (plot,))


def inspect_stage(demo: Demo) -> Stage:
    source, out = demo.folder / "finetune", demo.folder / "inspect"
    config = InspectConfig(source=str(source), data=str(demo.data), device=demo.config.device)
    result = inspect(config, demo.reporter, out=str(out), overwrite=True)
    figures = [name for name in ("rollout.png", "distance.png", "layers.png") if str(out / name) in result.figures]
    best = max(range(len(result.layer_top1)), key=result.layer_top1.__getitem__) if result.layer_top1 else None
    summary = f"{len(result.figures)} figures" + ("" if best is None else f"; a probe works best on layer {best}")
    text = (
        "Where the model looks, how far each head looks, and the accuracy of a probe on each layer. The rest, with "
        f"all numbers, is on its own page: {result.page}."
    )
    line = command_line("inspect", source=source, data=demo.data, out=out)
    return Stage("inspect", summary, line, Path(result.page), text, tuple(out / name for name in figures))


def export_stage(demo: Demo) -> Stage:
    source, out = demo.folder / "finetune", demo.folder / "model.onnx"
    config = ExportConfig(source=str(source), out=str(out), data=str(demo.data), with_preprocessing=True)
    result = export(config, demo.reporter, overwrite=True)
    text = (
        f"One file for other runtimes, with cropping, resizing and normalization included. It was loaded in "
        f"{result.runtime} and compared: {result.comparison.summary()}. In Python: {result.load}."
    )
    line = command_line("export", source=source, data=demo.data, out=out, with_preprocessing=True)
    agreement = f"top-1 agrees on {result.comparison.agreement:.0%}"
    return Stage("export", f"{agreement}, {result.bytes / 1e6:.1f} MB", line, out, text)


def predict_stage(demo: Demo) -> Stage:
    pictures, sheet = demo.folder / "pictures", demo.folder / "predictions.png"
    write_images(demo.held_out, PatchFile(demo.data).class_names, pictures)
    config = PredictConfig(pictures=(str(pictures),), source=str(demo.folder / "model.onnx"), sheet=str(sheet))
    result = predict(config, demo.reporter)
    text = f"Predictions of the exported file on {format_count(result.pictures, 'held-out image')}, as PNG files."
    summary = (
        f"{round(result.top1 * result.labelled)} of {result.labelled} correct"
        if result.top1 is not None
        else f"{result.pictures} images"
    )
    line = command_line("predict", pictures, source=demo.folder / "model.onnx", sheet=sheet)
    return Stage("predict", summary, line, sheet, text, (sheet,))


def write_images(split: Split, names: tuple[str, ...], folder: Path) -> None:
    """Write some held-out images as PNG files, in a folder per class."""
    rows = balance_classes(split.labels(), SHOWN)
    for row, pixels, label in zip(rows.tolist(), load_images(split, rows), split.labels(rows).tolist(), strict=True):
        class_name = names[label] if 0 <= label < len(names) else "others"
        name = class_name if Path(class_name).name == class_name and class_name != ".." else "others"
        (folder / name).mkdir(parents=True, exist_ok=True)
        with Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)) as image:
            image.save(folder / name / f"{row:05d}.png")


def balance_classes(labels: Any, count: int) -> Any:
    """The rows of `count` images, spread evenly over the classes."""
    place = np.empty(len(labels), np.int64)  # of an image within its class
    for label in np.unique(labels):
        place[labels == label] = np.arange((labels == label).sum())
    return np.sort(np.lexsort((np.arange(len(labels)), place))[:count])


STAGES: tuple[Callable[[Demo], Stage], ...] = (
    patchify_stage, selfsup_stage, pretrain_stage, interpolate_stage, finetune_stage, fewshot_stage, inspect_stage,
    export_stage, predict_stage)  # fmt: skip
