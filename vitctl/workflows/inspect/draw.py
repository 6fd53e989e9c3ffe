"""From findings to figures, numbers and one page."""

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
    before: Weights | None  # at the resolution that they came in, where another one was asked for
    pictures: InspectedImages
    filters: tuple[Array, Array] | None = None  # components, and what each explains
    measured: Measured | None = None
    cka: Array | None = None
    worth: Worth | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Model, data and step."""
        weights, seen = self.weights, self.pictures
        spec, step = weights.spec, weights.about.training.get("step")
        data = f"{Path(seen.data).name} {seen.split}".strip() if seen.file else "images of one's own"
        parts = [f"{spec.name} at {spec.height}x{spec.width}", data, *([f"step {step:,}"] if step else [])]
        return "  ·  ".join(parts)


def draw_all(found: Findings, folder: Path) -> list[Path]:
    """Every figure that there is something to draw of; the numbers beside them; the page."""
    sections = [section for draw in DRAWINGS for section in draw(found, folder)]
    write_numbers(found, folder / NUMBERS)
    write_page(
        folder / PAGE,
        f"What {found.weights.spec.name} looks at",
        found.title,
        findings_facts(found),
        sections,
        f"Made by vitctl {__version__}. The numbers behind the figures are in {NUMBERS} and result.json.",
    )
    return [figure for section in sections for figure in section.figures]


def findings_facts(found: Findings) -> dict[str, str]:
    weights, seen, spec = found.weights, found.pictures, found.weights.spec
    training = weights.about.training
    made = [
        f"{key} {training[key]}" for key in ("command", "recipe", "seed", "step") if training.get(key) not in (None, "")
    ]
    told = {
        "weights": weights.path,
        "digest": weights.digest()[:16],
        "model": f"{spec.name}, {weights.parameters:,} parameters, {spec.grid[0]}x{spec.grid[1]} patches, {spec.head}",
        "made by": ", ".join(made),
        "images": f"{len(seen.pixels):,} of {seen.data} {seen.split}".strip(),
        "data digest": seen.digest[:16],
        "left out": "; ".join(found.left_out),
    }
    return {name: value for name, value in told.items() if value}


# --- the drawings, in their order on the page ------------------------------------------------------------------------


def draw_rollout_section(found: Findings, folder: Path) -> Iterator[Section]:
    measured, seen = found.measured, found.pictures
    if measured is None or measured.rollout is None or measured.heads is None:
        return
    pictures, names = [seen.pixels[place] for place in seen.shown], [seen.names[place] for place in seen.shown]
    query = "the class token" if found.weights.spec.head == "cls" else "the mean of all patches"
    path = folder / "rollout.png"
    draw_rollout(pictures, measured.rollout, names, path, f"Attention rollout of {query}", found.title)
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
        found.title,
    )
    yield Section("Heads of the last layer", f"What each head gives to {query}.", (path,))


def draw_distance_section(found: Findings, folder: Path) -> Iterator[Section]:
    measured = found.measured
    if measured is None:
        return
    path = folder / "distance.png"
    draw_distances(measured.distances, measured.uniform, measured.labels, path, found.title)
    low, high = measured.distances[0].min(), measured.distances[-1].mean()
    yield Section(
        "How far it looks",
        "The distance in pixels from a patch to those that it looks at, weighed by attention: the mean over images "
        f"and patches, for each head (Figure 7, right). The first layer begins at {low:.1f} px, the last has "
        f"{high:.1f} px on average. "
        f"A head that looks everywhere alike would have {measured.uniform:.1f} px.",
        (path,),
    )


def draw_filters_section(found: Findings, folder: Path) -> Iterator[Section]:
    if found.filters is None:
        return
    parts, shares = found.filters
    path = folder / "filters.png"
    draw_filters(parts, shares, path, found.title)
    yield Section(
        "What the first layer looks for",
        f"The first {len(parts)} principal components of its filters, each with the share of the variance that it "
        f"explains; together {shares.sum():.1%} (Figure 7, left). Color is shown where there are three channels.",
        (path,),
    )


def draw_positions(found: Findings, folder: Path) -> Iterator[Section]:
    panels = []
    for word, weights in (("before", found.before), ("after" if found.before else "", found.weights)):
        table = patch_positions(weights) if weights else None
        if weights and table is not None:
            grid, size = weights.spec.grid, f"{weights.spec.height}x{weights.spec.width}"
            text = f"{grid[0]}x{grid[1]} patches at {size}"
            panels.append(SimilarityPanel(f"{word}: {text}" if word else text, table.float().numpy(), grid))
    if not panels:
        return
    path = folder / "positions.png"
    draw_similarity(panels, path, f"Similarity of position embeddings  ·  {found.title}")
    kind = found.weights.spec.positions
    learned = "learned" if kind in ("1d", "2d") else "fixed waves, not learned"
    yield Section(
        "What it knows of places",
        f"Cosine similarity of the position embeddings ({kind}, {learned}): a tile for each patch, in its place, shows "
        "how alike its embedding is to those of all others (Figure 7, middle).",
        (path,),
    )


def draw_layers(found: Findings, folder: Path) -> Iterator[Section]:
    if found.worth:
        path = folder / "layers.png"
        draw_worth(found.worth.scores, path, found.title, found.worth.shots, found.worth.chance)
        best = int(np.argmax(found.worth.scores))
        yield Section(
            "What each layer is worth",
            f"Top-1 on {found.worth.judged:,} images of the paper's least-squares probe with {found.worth.shots} "
            f"shots per class, on the mean of the patches behind each block; layer {best} is best, "
            f"{found.worth.scores[best]:.1%}.",
            (path,),
        )
    if found.cka is not None:
        path = folder / "cka.png"
        draw_alignments(found.cka, path, found.title)
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


def write_numbers(found: Findings, path: Path) -> None:
    arrays: dict[str, Any] = {}
    if found.filters:
        arrays |= {"filters": found.filters[0], "explained_variance": found.filters[1]}
    for name, weights in (("", found.weights), ("_before", found.before)):
        table = patch_positions(weights) if weights else None
        if table is not None:
            arrays[f"position_similarity{name}"] = similarities(table.float().numpy())
    if found.measured:
        measured = found.measured
        arrays |= {"distances": measured.distances, "uniform_distance": measured.uniform}
        arrays |= {"layers": np.stack(measured.features)}
        if measured.rollout is not None:
            arrays |= {"rollout": measured.rollout, "heads": measured.heads, "shown": found.pictures.shown}
    if found.cka is not None:
        arrays["cka"] = found.cka
    if found.worth:
        arrays["layer_top1"] = found.worth.scores
    with atomic_write(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
