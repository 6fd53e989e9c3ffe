"""`vitctl export`: writes a model for another runtime, loads it there and compares it."""

import dataclasses
import glob
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from vitctl import __version__
from vitctl.config.export import ENDINGS, FOLDERS, ExportConfig
from vitctl.errors import OutputExists, RunError, is_no_space
from vitctl.io.atomic import remove_leftovers, write_json
from vitctl.io.outputs import check_output
from vitctl.io.weights import Weights
from vitctl.models.adapt import adapt_weights
from vitctl.models.create import weights_of
from vitctl.reporting import Reporter, SilentReporter
from vitctl.workflows.export.card import CARD, write_card
from vitctl.workflows.export.compare import Comparison, LoadedExport, compare_export
from vitctl.workflows.export.examples import ExampleImages, choose_examples
from vitctl.workflows.export.files import Preprocessing, compare_preprocessing
from vitctl.workflows.export.formats import Written, check_format, write_export
from vitctl.workflows.export.push import check_push, push_folder
from vitctl.workflows.inputs.weights import choose_weights, load_model, weight_files
from vitctl.workflows.interpolate import short_name


@dataclass(frozen=True)
class ExportResult:
    out: str
    report: str  # a file with this result, next to `out`
    format: str
    weights: str
    weights_digest: str
    model: str
    res: list[int]
    classes: int
    precision: str
    mean: list[float]  # of the pixels, from 0 to 1, as in training
    std: list[float]
    input: str
    opset: int | None
    products_in_8_bits: int | None
    runtime: str  # that loaded the file for the comparison
    data: str
    comparison: Comparison
    preprocessing: Preprocessing | None  # of image files; None unless the model has 1 or 3 channels
    bytes: int
    pushed: str | None  # the page of the uploaded folder
    load: str  # the line of Python that loads it
    elapsed_s: float


def export(config: ExportConfig, reporter: Reporter | None = None, *, overwrite: bool = False) -> ExportResult:
    reporter, start_time = reporter or SilentReporter(), time.perf_counter()
    weights = choose_weights(config.source, reporter, config.allow_missing, config)
    weights = fit_to_export(fill_missing(weights, config), config)
    check_format(weights, config)
    check_push(config.push)
    out = Path(config.out or default_name(weights, config))
    report = out.with_name(out.name + ".json")
    make_room(out, report, overwrite, weights.path)
    pictures = choose_examples(weights, config, reporter)
    written = write_export(weights, config, out, pictures, reporter)
    try:
        exported = LoadedExport(written.load(), weights, config)
        comparison = compare_export(weights, exported, pictures, config, reporter)
        preprocessing = compare_preprocessing(weights, exported, written, pictures, config, reporter)
        seconds = time.perf_counter() - start_time
        result = make_export_result(config, weights, out, report, written, pictures, comparison, preprocessing, seconds)
        if config.format in FOLDERS:
            write_card(out, weights, config.format, written.line, written.input)
        write_json(report, {"command": "export", "version": __version__} | dataclasses.asdict(result))
    except Exception as error:
        if is_no_space(error):
            remove(out, report)
        raise
    if not comparison.agrees:
        raise RunError(
            f"{out}: {comparison.summary()}, more than allowed; the file is kept for inspection, with {report}"
        )
    if config.push:
        return dataclasses.replace(result, pushed=push_folder(result.out, config.push, reporter))
    return result


def fit_to_export(weights: Weights, config: ExportConfig) -> Weights:
    """Adapt the weights to --res, and drop tensors that the classifier does not have."""
    height, width = config.res or (None, None)
    if config.pad:
        weights = replace(weights, spec=weights.spec.replace(pad=True))
    return replace(adapt_weights(weights, height, width), extra={}, notes=())


def fill_missing(weights: Weights, config: ExportConfig) -> Weights:
    """Initialize missing tensors once, so that they are the same in the model and its export."""
    if not config.allow_missing:
        return weights
    return replace(weights_of(load_model(weights, allow_missing=True)), path=weights.path, notes=weights.notes)


def default_name(weights: Weights, config: ExportConfig) -> str:
    spec = weights.spec
    precision = "" if config.precision == "float32" else f"-{config.precision}"
    return f"{short_name(spec.name)}-{spec.res}{precision}{ENDINGS[config.format]}"


def make_room(out: Path, report: Path, overwrite: bool, source: str) -> None:
    for path in (out, report):
        check_output(path, *weight_files(source))
    for path in (out, report, external_data_path(out)):
        remove_leftovers(path.parent, glob.escape(path.name))
        if path.exists() and not overwrite:
            raise OutputExists(f"{path}: exists already; --overwrite replaces it, or name another with --out")
    if out.is_dir():
        check_replaceable_folder(out)
        shutil.rmtree(out)
    report.unlink(missing_ok=True)  # it describes the old file


def remove(out: Path, report: Path) -> None:
    """Remove the written files, so that the same command can run again."""
    if out.is_dir():
        shutil.rmtree(out)
    for path in (out, report, external_data_path(out)):
        path.unlink(missing_ok=True)


def external_data_path(out: Path) -> Path:
    """The file of weights that are too large for the ONNX file itself."""
    return out.with_name(f"{out.name}.data")


def check_replaceable_folder(folder: Path) -> None:
    """Only a model folder written by this command may be replaced, never a run."""
    names = {path.name for path in folder.iterdir()}
    if not names <= {"config.json", "preprocessor_config.json", "model.safetensors", CARD}:
        raise OutputExists(f"{folder}: is not a model folder; name another with --out")


def make_export_result(
    config: ExportConfig,
    weights: Weights,
    out: Path,
    report: Path,
    written: Written,
    pictures: ExampleImages,
    comparison: Comparison,
    preprocessing: Preprocessing | None,
    elapsed_s: float,
) -> ExportResult:
    spec = weights.spec
    files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
    files += [path for path in [external_data_path(out)] if path.exists()]
    return ExportResult(
        out=str(out),
        report=str(report),
        format=config.format,
        weights=weights.path,
        weights_digest=weights.digest(),
        model=spec.name,
        res=[spec.height, spec.width],
        classes=spec.classes,
        precision=config.precision,
        mean=list(weights.about.mean),
        std=list(weights.about.std),
        input=written.input,
        opset=config.opset if config.format == "onnx" else None,
        products_in_8_bits=written.in_8_bits,
        runtime=written.runtime,
        data=f"{pictures.path}, {pictures.split}",
        comparison=comparison,
        preprocessing=preprocessing,
        bytes=sum(path.stat().st_size for path in files),
        pushed=None,
        load=written.line,
        elapsed_s=elapsed_s,
    )
