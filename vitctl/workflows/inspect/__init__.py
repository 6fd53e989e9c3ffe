"""`vitctl inspect`: what a model has learned, measured and drawn (section 4.5 of the paper, appendices D.7 and D.8)."""

import dataclasses
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vitctl import __version__
from vitctl.config.inspect import InspectConfig
from vitctl.inspection.representations import alignments, components
from vitctl.io.run_directory import RunDirectory, create_run
from vitctl.io.weights import Weights
from vitctl.models.adapt import FIRST, adapt_weights
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

FEWEST = 16  # images by which layers can be compared


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
    numbers: str  # an .npz with all that is drawn
    explained_variance: list[float]  # of the components of the filters
    uniform_distance: float | None  # pixels
    distances: list[list[float]]  # layer by layer, of each head
    cka: list[list[float]]
    layer_top1: list[float]
    shots: int | None
    left_out: list[str]  # and why
    device: str
    elapsed_s: float


def inspect(
    config: InspectConfig, reporter: Reporter | None = None, *, out: str | None = None, overwrite: bool = False
) -> InspectResult:
    reporter, began = reporter or SilentReporter(), time.perf_counter()
    before = choose_weights(config.source, reporter, config.allow_missing, config.mean, config.std)
    weights = adapt_weights(before, *config.res) if config.res else before
    pictures = open_images(config, weights, reporter)
    device = choose_device(config.device, Ranks())
    path = Path(out) if out else new_path("inspect", weights.spec.name)
    read = (before.path, config.data, *config.images)
    run = create_run(path, "inspect", dataclasses.asdict(config), __version__, overwrite, newest=False, inputs=read)
    try:
        findings = measure_all(config, before, weights, pictures, device, reporter)
        figures = draw_all(findings, run.path)
        result = make_inspect_result(findings, run, figures, device, time.perf_counter() - began)
        run.finish(dataclasses.asdict(result))
    except BaseException:
        shutil.rmtree(run.path)  # half of it is of no use, and would be in the way of the next one
        raise
    return result


def measure_all(
    config: InspectConfig,
    before: Weights,
    weights: Weights,
    pictures: InspectedImages,
    device: torch.device,
    reporter: Reporter,
) -> Findings:
    """All that can be measured of this architecture; what cannot is named."""
    found, spec = of_weights(Findings(weights, before if config.res else None, pictures)), weights.spec
    if spec.family in ("bit", "timm"):
        found.left_out.append(
            f"attention and layers: vitctl reads them of its own Vision Transformers, not of {spec.name}"
        )
        return found
    if spec.family == "axial":
        found.left_out.append("rollout and heads: attention goes along rows and columns, never over the whole image")
    model = load_model(weights, allow_missing=config.allow_missing).to(device)
    normalize = Normalizer(spec, weights.about)
    seen_by_it = measure_model(model, spec, normalize, pictures, device, reporter)
    found = replace(found, measured=seen_by_it)
    if len(pictures.pixels) >= FEWEST:
        found = replace(found, cka=alignments(seen_by_it.features))
    else:
        found.left_out.append(f"likeness of layers: needs {FEWEST} images at least")
    found = replace(found, worth=measure_worth(model, spec, normalize, pictures, config, device, reporter))
    if found.worth is None:
        found.left_out.append("value of layers: needs shots, and a labeled train split with two classes")
    return found


def of_weights(found: Findings) -> Findings:
    """What needs no images."""
    weights, spec = found.weights, found.weights.spec
    if patch_positions(weights) is None:
        why = "only timm knows them" if spec.family == "timm" else f"this model has no table of them ({spec.positions})"
        found.left_out.append(f"positions: {why}")
    kernels = next((weights.tensors[name] for name in FIRST if name in weights.tensors), None)
    if kernels is None:
        found.left_out.append("filters: the first layer of this architecture is unknown")
        return found
    return replace(found, filters=components(kernels.float().permute(0, 2, 3, 1).numpy()))


def make_inspect_result(
    found: Findings, run: RunDirectory, figures: list[Path], device: torch.device, elapsed: float
) -> InspectResult:
    weights, pictures, measured_ = found.weights, found.pictures, found.measured
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
        explained_variance=found.filters[1].tolist() if found.filters else [],
        uniform_distance=measured_.uniform if measured_ else None,
        distances=measured_.distances.tolist() if measured_ else [],
        cka=found.cka.tolist() if found.cka is not None else [],
        layer_top1=found.worth.scores if found.worth else [],
        shots=found.worth.shots if found.worth else None,
        left_out=found.left_out,
        device=device.type,
        elapsed_s=elapsed,
    )
