"""`vitctl inspect`: measures and draws what a model has learned (the paper's section 4.5, appendices D.7 and D.8)."""

import dataclasses
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vitctl import __version__
from vitctl.config.inspect import InspectConfig
from vitctl.errors import UsageError
from vitctl.inspection.representations import alignments, components
from vitctl.io.run_directory import RunDirectory, create_run
from vitctl.io.weights import Weights
from vitctl.models.adapt import adapt_weights, find_first_kernels
from vitctl.models.input import Normalizer
from vitctl.models.resize import patch_positions
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.device import choose_device
from vitctl.training.ranks import Ranks
from vitctl.workflows.inputs.weights import choose_weights, load_model
from vitctl.workflows.inspect.draw import NUMBERS, PAGE, Findings, draw_all
from vitctl.workflows.inspect.images import InspectedImages, open_images
from vitctl.workflows.inspect.measure import measure_model, measure_worth
from vitctl.workflows.train.start import new_path

FEWEST = 16  # images needed to compare layers


@dataclass(frozen=True)
class InspectResult:
    run: str
    page: str
    weights: str
    weights_digest: str
    model: str
    res: list[int]
    step: int | None
    data: str
    data_digest: str
    split: str
    pictures: int
    figures: list[str]
    numbers: str  # an .npz with the numbers behind the figures
    explained_variance: list[float]  # of the components of the filters
    uniform_distance: float | None  # pixels
    distances: list[list[float]]  # [layers][heads]
    cka: list[list[float]]
    layer_top1: list[float]
    shots: int | None
    left_out: list[str]  # skipped measurements, and why
    device: str
    elapsed_s: float


def inspect(
    config: InspectConfig, reporter: Reporter | None = None, *, out: str | None = None, overwrite: bool = False
) -> InspectResult:
    reporter, start_time = reporter or SilentReporter(), time.perf_counter()
    original = choose_weights(config.source, reporter, config.allow_missing, config)
    weights = adapt_weights(original, *config.res) if config.res else original
    pictures = open_images(config, weights, reporter)
    device = choose_device(config.device, Ranks())
    path = Path(out) if out else new_path("inspect", weights.spec.name)
    inputs = (original.path, config.data, *config.images)
    run = create_run(path, "inspect", dataclasses.asdict(config), __version__, overwrite, newest=False, inputs=inputs)
    try:
        findings = measure_all(config, original, weights, pictures, device, reporter)
        figures = draw_all(findings, run.path)
        result = make_inspect_result(findings, run, figures, device, time.perf_counter() - start_time)
        run.finish(dataclasses.asdict(result))
    except BaseException:
        shutil.rmtree(run.path)  # an unfinished page would only block the next run
        raise
    return result


def measure_all(
    config: InspectConfig,
    original: Weights,
    weights: Weights,
    pictures: InspectedImages,
    device: torch.device,
    reporter: Reporter,
) -> Findings:
    """Measure what this architecture supports; list the rest as skipped."""
    findings, spec = inspect_weights(Findings(weights, original if config.res else None, pictures)), weights.spec
    if spec.family in ("bit", "timm"):
        findings.skipped.append(
            f"attention and layers: only available for vitctl's own Vision Transformers, not for {spec.name}"
        )
        return findings
    if spec.family == "axial":
        findings.skipped.append("rollout and heads: attention goes along rows and columns, never over the whole image")
    model = load_model(weights, allow_missing=config.allow_missing).to(device)
    normalize = Normalizer(spec, weights.about)
    measured = measure_model(model, spec, normalize, pictures, device, reporter)
    findings = replace(findings, measured=measured)
    if len(pictures.pixels) >= FEWEST:
        findings = replace(findings, cka=alignments(measured.features))
    else:
        findings.skipped.append(f"similarity of layers: needs at least {FEWEST} images")
    findings = replace(findings, worth=measure_worth(model, spec, normalize, pictures, config, device, reporter))
    if findings.worth is None:
        findings.skipped.append("value of layers: needs shots, and a train split with one class per image, of two")
    return findings


def inspect_weights(findings: Findings) -> Findings:
    """The findings that need no images."""
    weights, spec = findings.weights, findings.weights.spec
    if patch_positions(weights) is None:
        why = "only timm knows them" if spec.family == "timm" else f"this model has no table of them ({spec.positions})"
        findings.skipped.append(f"positions: {why}")
    try:
        kernels = weights.tensors[find_first_kernels(weights)[0]]
    except UsageError as error:
        findings.skipped.append(f"filters: {error}")
        return findings
    return replace(findings, filters=components(kernels.float().permute(0, 2, 3, 1).numpy()))


def make_inspect_result(
    findings: Findings, run: RunDirectory, figures: list[Path], device: torch.device, elapsed: float
) -> InspectResult:
    weights, pictures, measured = findings.weights, findings.pictures, findings.measured
    return InspectResult(
        run=str(run.path),
        page=str(run.path / PAGE),
        weights=weights.path,
        weights_digest=weights.digest(),
        model=weights.spec.name,
        res=[weights.spec.height, weights.spec.width],
        step=weights.about.training.get("step"),
        data=pictures.data,
        data_digest=pictures.digest,
        split=pictures.split,
        pictures=len(pictures.pixels),
        figures=[str(each) for each in figures],
        numbers=str(run.path / NUMBERS),
        explained_variance=findings.filters[1].tolist() if findings.filters else [],
        uniform_distance=measured.uniform if measured else None,
        distances=measured.distances.tolist() if measured else [],
        cka=findings.cka.tolist() if findings.cka is not None else [],
        layer_top1=findings.worth.scores if findings.worth else [],
        shots=findings.worth.shots if findings.worth else None,
        left_out=findings.skipped,
        device=device.type,
        elapsed_s=elapsed,
    )
