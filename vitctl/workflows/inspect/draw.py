"""Draws the findings as figures, and writes the numbers and the page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitctl import __version__
from vitctl.inspection.page import Section, write_page
from vitctl.inspection.representations import (
    SimilarityPanel,
    draw_alignments,
    draw_distances,
    draw_filters,
    draw_worth,
    similarities,
)
from vitctl.inspection.representations import draw_similarities as draw_similarity
from vitctl.inspection.sheets import draw_heads, draw_rollout
from vitctl.io.atomic import atomic_write
from vitctl.io.weights import Weights
from vitctl.models.resize import patch_positions
from vitctl.workflows.inspect.images import InspectedImages
from vitctl.workflows.inspect.measure import Measured, Worth

PAGE, NUMBERS = "index.html", "numbers.npz"
HEADS_SHOWN = 4  # images
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Findings:
    weights: Weights
    original: Weights | None  # at their own resolution; None without --res
    pictures: InspectedImages
    filters: tuple[Array, Array] | None = None  # components, and the share of variance that each explains
    measured: Measured | None = None
    cka: Array | None = None
    worth: Worth | None = None
    skipped: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Model, data and step."""
        weights, images = self.weights, self.pictures
        spec, step = weights.spec, weights.about.training.get("step")
        data = f"{Path(images.data).name} {images.split}".strip() if images.file else "images of one's own"
        parts = [f"{spec.name} at {spec.height}x{spec.width}", data, *([f"step {step:,}"] if step else [])]
        return "  ·  ".join(parts)


def draw_all(findings: Findings, folder: Path) -> list[Path]:
    """Write all figures that have data, the numbers and the page; return the figures."""
    sections = [section for draw in DRAWINGS for section in draw(findings, folder)]
    write_numbers(findings, folder / NUMBERS)
    write_page(
        folder / PAGE,
        f"What {findings.weights.spec.name} looks at",
        findings.title,
        findings_facts(findings),
        sections,
        f"Made by vitctl {__version__}. The numbers behind the figures are in {NUMBERS} and result.json.",
    )
    return [figure for section in sections for figure in section.figures]


def findings_facts(findings: Findings) -> dict[str, str]:
    weights, images, spec = findings.weights, findings.pictures, findings.weights.spec
    training = weights.about.training
    made_by = [
        f"{key} {training[key]}" for key in ("command", "recipe", "seed", "step") if training.get(key) not in (None, "")
    ]
    facts = {
        "weights": weights.path,
        "digest": weights.digest()[:16],
        "model": f"{spec.name}, {weights.parameters:,} parameters, {spec.grid[0]}x{spec.grid[1]} patches, {spec.head}",
        "made by": ", ".join(made_by),
        "images": f"{len(images.pixels):,} of {images.data} {images.split}".strip(),
        "data digest": images.digest[:16],
        "left out": "; ".join(findings.skipped),
    }
    return {name: value for name, value in facts.items() if value}


# --- the figures, in their order on the page -------------------------------------------------------------------------


def draw_rollout_section(findings: Findings, folder: Path) -> Iterator[Section]:
    measured, images = findings.measured, findings.pictures
    if measured is None or measured.rollout is None or measured.heads is None:
        return
    pictures = [images.pixels[index] for index in images.figure_indices]
    names = [images.names[index] for index in images.figure_indices]
    query = "the class token" if findings.weights.spec.head == "cls" else "the mean of all patches"
    path = folder / "rollout.png"
    draw_rollout(pictures, measured.rollout, names, path, f"Attention rollout of {query}", findings.title)
    yield Section(
        "Where it looks",
        f"Attention of {query}, rolled out through all layers (Abnar and Zuidema): the mean over heads with the "
        "residual path, multiplied from the first layer to the last; as in Figure 6. Dark patches get no attention.",
        (path,),
    )
    path = folder / "heads.png"
    draw_heads(
        pictures[:HEADS_SHOWN],
        measured.heads[:HEADS_SHOWN],
        path,
        f"Heads of the last layer, from {query}",
        findings.title,
    )
    yield Section("Heads of the last layer", f"The attention of each head from {query}.", (path,))


def draw_distance_section(findings: Findings, folder: Path) -> Iterator[Section]:
    measured = findings.measured
    if measured is None:
        return
    path = folder / "distance.png"
    draw_distances(measured.distances, measured.uniform, measured.labels, path, findings.title)
    low, high = measured.distances[0].min(), measured.distances[-1].mean()
    yield Section(
        "How far it looks",
        "The distance in pixels from a patch to those that it looks at, weighed by attention: the mean over images "
        f"and patches, for each head (Figure 7, right). The first layer begins at {low:.1f} px, the last has "
        f"{high:.1f} px on average. "
        f"A head that looks everywhere alike would have {measured.uniform:.1f} px.",
        (path,),
    )


def draw_filters_section(findings: Findings, folder: Path) -> Iterator[Section]:
    if findings.filters is None:
        return
    parts, shares = findings.filters
    path = folder / "filters.png"
    draw_filters(parts, shares, path, findings.title)
    yield Section(
        "What the first layer looks for",
        f"The first {len(parts)} principal components of its filters, each with the share of the variance that it "
        f"explains; together {shares.sum():.1%} (Figure 7, left). Filters of three channels are shown in color.",
        (path,),
    )


def draw_positions(findings: Findings, folder: Path) -> Iterator[Section]:
    panels = []
    for word, weights in (("before", findings.original), ("after" if findings.original else "", findings.weights)):
        table = patch_positions(weights) if weights else None
        if weights and table is not None:
            grid, size = weights.spec.grid, f"{weights.spec.height}x{weights.spec.width}"
            text = f"{grid[0]}x{grid[1]} patches at {size}"
            panels.append(SimilarityPanel(f"{word}: {text}" if word else text, table.float().numpy(), grid))
    if not panels:
        return
    path = folder / "positions.png"
    draw_similarity(panels, path, f"Similarity of position embeddings  ·  {findings.title}")
    kind = findings.weights.spec.positions
    learned = "learned" if kind in ("1d", "2d") else "fixed waves, not learned"
    yield Section(
        "What it knows about positions",
        f"Cosine similarity of the position embeddings ({kind}, {learned}): a tile for each patch, in its place, shows "
        "how alike its embedding is to those of all others (Figure 7, middle).",
        (path,),
    )


def draw_layers(findings: Findings, folder: Path) -> Iterator[Section]:
    worth = findings.worth
    if worth:
        path = folder / "layers.png"
        draw_worth(worth.scores, path, findings.title, worth.shots, worth.chance)
        best = int(np.argmax(worth.scores))
        yield Section(
            "What each layer is worth",
            f"Top-1 on {worth.tested:,} images of the paper's least-squares probe with {worth.shots} shots per class, "
            f"on the mean of the patches behind each block; layer {best} is best, {worth.scores[best]:.1%}.",
            (path,),
        )
    if findings.cka is not None:
        path = folder / "cka.png"
        draw_alignments(findings.cka, path, findings.title)
        yield Section(
            "How alike layers are",
            "Linear CKA between the means of the patches behind each block, without the bias of few images: 1 where "
            "two layers tell images apart in the same way.",
            (path,),
        )


DRAWINGS: tuple[Callable[[Findings, Path], Iterator[Section]], ...] = (
    draw_rollout_section,
    draw_distance_section,
    draw_filters_section,
    draw_positions,
    draw_layers,
)


# --- numbers ---------------------------------------------------------------------------------------------------------


def write_numbers(findings: Findings, path: Path) -> None:
    arrays: dict[str, Any] = {}
    if findings.filters:
        arrays |= {"filters": findings.filters[0], "explained_variance": findings.filters[1]}
    for name, weights in (("", findings.weights), ("_before", findings.original)):
        table = patch_positions(weights) if weights else None
        if table is not None:
            arrays[f"position_similarity{name}"] = similarities(table.float().numpy())
    if findings.measured:
        measured = findings.measured
        arrays |= {"distances": measured.distances, "uniform_distance": measured.uniform}
        arrays |= {"layers": np.stack(measured.features)}
        if measured.rollout is not None:
            arrays |= {"rollout": measured.rollout, "heads": measured.heads, "shown": findings.pictures.figure_indices}
    if findings.cka is not None:
        arrays["cka"] = findings.cka
    if findings.worth:
        arrays["layer_top1"] = findings.worth.scores
    with atomic_write(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
