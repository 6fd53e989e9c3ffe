"""The model card of an exported folder: what the model is, how it was trained, how good it is, and how to load it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitctl import __version__
from vitctl.io.atomic import atomic_write
from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import RunDirectory, is_run, open_run
from vitctl.io.run_weights import split_reference
from vitctl.io.weights import Weights
from vitctl.training.tally import wilson

CARD = "README.md"
LIBRARIES = {"timm": "timm", "hf": "transformers"}
HUB_LICENSES = ("apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-4.0", "bsd-3-clause")  # identifiers that the hub knows
SHOWN = 20  # class names


def write_card(folder: Path, weights: Weights, format: str, load: str, takes: str) -> None:
    with atomic_write(folder / CARD) as aside:
        aside.write_text("\n".join(card_lines(folder.name, weights, format, load, takes)) + "\n", encoding="utf-8")


def card_lines(title: str, weights: Weights, format: str, load: str, takes: str) -> Iterator[str]:
    spec, chain = weights.spec, list(list_trainings(weights.about.training))
    license = next((each["license"] for each in chain if each.get("license")), None)
    yield from front_matter(LIBRARIES[format], bool(spec.classes), license)
    yield f"# {title}"
    yield f"\nModel: {spec.name} at {spec.res}, {weights.parameters:,} parameters, written by vitctl {__version__}."
    yield f"\n## Use\n\n```python\nimport {LIBRARIES[format]}\n\nmodel = {load}.eval()\n```\n"
    yield f"Input: {takes}. Output: {'logits' if spec.classes else 'features'}."
    if spec.classes:
        names = weights.about.class_names
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"\nClasses: {spec.classes}" + (f": {', '.join(names[:SHOWN])}{more}." if names else ".")
    yield "\n## Training\n"
    for step in chain:
        yield f"- {describe_step(step)}"
    yield f"- License of the starting weights: {license}" if license else "- License of the starting weights: not known"
    run = find_run(weights)
    if run and (accuracy := describe_accuracy(run, weights)):
        yield f"\n## Accuracy\n\n{accuracy}"
    yield f"\nDigest of the weights: `{weights.digest()}`"


def front_matter(library: str, classifies: bool, license: str | None) -> Iterator[str]:
    yield f"---\nlibrary_name: {library}"
    yield f"pipeline_tag: {'image-classification' if classifies else 'image-feature-extraction'}"
    if license:
        known = license in HUB_LICENSES
        yield f"license: {license}" if known else f"license: other\nlicense_name: {license}"
    yield "---\n"


def list_trainings(training: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The last training first, then what it started from."""
    while training:
        yield training
        training = training.get("before") or {}


def describe_step(step: dict[str, Any]) -> str:
    if "from" in step:
        return f"starting weights: {step['from']}"
    words = [f"vitctl {step.get('command', 'training')}"]
    for name in ("recipe", "objective", "seed", "step"):
        if step.get(name) not in (None, ""):
            words.append(f"{name} {step[name]}")
    if step.get("data_digest"):
        words.append(f"data of digest `{step['data_digest']}`")
    if step.get("lora"):
        words.append(f"LoRA of rank {step['lora']['rank']}")
    return ", ".join(words)


def find_run(weights: Weights) -> RunDirectory | None:
    """The run of these weights, if they were named by it."""
    path = split_reference(weights.path)[0]
    return next((open_run(each) for each in (path, path.parent) if is_run(each)), None)


def describe_accuracy(run: RunDirectory, weights: Weights) -> str:
    """Top-1 on the validation split, with its 95% interval where the number of images is known. Only the best weights
    of a run, at their own resolution, have the accuracy that the run reports."""
    result = run.result or {}
    best, is_best = result.get("best_top1"), weights.about.training.get("step") == result.get("best_step")
    if best is None or not is_best or list(weights.spec.res) != result["res"]:
        return ""
    text = f"Top-1 {best:.2%} on the validation split, at the step that was best on it"
    data, config = Path(result["data"]), run.config["config"]
    if not data.is_file():
        return f"{text}."
    file = PatchFile(data)
    if file.digest != result["data_digest"] or config["val"] not in file.splits:
        return f"{text}."
    images = file.split(config["val"]).rows
    low, high = wilson(round(best * images), images)
    return f"{text} (95% interval {low:.2%} to {high:.2%}, {images:,} images)."
