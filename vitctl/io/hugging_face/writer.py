"""Our weights to a folder that `from_pretrained` takes."""

from dataclasses import replace
from pathlib import Path

from vitctl.config.model import ModelSpec
from vitctl.errors import OutputExists, UsageError, WeightsError
from vitctl.io.atomic import replacing, write_json
from vitctl.io.hugging_face.checks import Config, check_tensor
from vitctl.io.hugging_face.config import config_of
from vitctl.io.hugging_face.names import CLASSIC, rows
from vitctl.io.hugging_face.preprocessor import preprocessor_of
from vitctl.io.weights import Tensors, Weights, differences
from vitctl.reporting import counted


def write(weights: Weights) -> tuple[Tensors, Config, Config]:
    """Tensors, config.json and preprocessor_config.json; what is not of the encoder and its head stays behind."""
    spec = weights.spec
    check_writable(spec)
    table = list(rows(spec, replace(CLASSIC, prefix="vit." if spec.classes else "")))
    wanted, given = {row.ours for row in table}, set(weights.tensors)
    found = differences(wanted - given, given - wanted)
    if found:
        raise WeightsError(f"{spec.name}: the model {found}; such weights cannot be written for Hugging Face")
    tensors: Tensors = {}
    for row in table:
        tensor, (first, *others) = weights.tensors[row.ours], row.shape
        check_tensor(row.ours, tensor, (first * len(row.theirs), *others))
        for name, part in zip(row.theirs, tensor.chunk(len(row.theirs)), strict=True):
            tensors[name] = part.detach().cpu().contiguous()
    return tensors, config_of(weights), preprocessor_of(weights)


def check_writable(spec: ModelSpec) -> None:
    divides = not (spec.height % spec.patch or spec.width % spec.patch)
    fits = {
        f"its family ({spec.family})": spec.family == "vit",
        f"head {spec.head}": spec.head == "cls",
        f"positions {spec.positions}": spec.positions in ("1d", "sincos", "sincos-mae"),
        f"positions added to {spec.added}": spec.added == "stem",
        "a class token without a position": spec.class_position or not spec.class_token,
        counted(spec.registers, "register"): not spec.registers,
        "layer scale": not spec.layer_scale,
        "a norm behind the pooling": spec.norm == "tokens",
        "a layer between pooling and classifier": not (spec.hidden and spec.classes),
        "padded pictures": divides or spec.family != "vit",
    }
    wrong = [what for what, good in fits.items() if not good]
    if wrong:
        raise UsageError(
            f"{spec.name}: Hugging Face's ViT has no place for {', '.join(wrong)}; write .safetensors instead"
            + (", or train with --set head=cls" if spec.head == "gap" else "")
        )


def save(weights: Weights, folder: Path) -> None:
    """A folder that `from_pretrained` takes."""
    from safetensors.torch import save_file

    tensors, config, preprocessor = write(weights)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExists(f"{folder}: is there and not an empty folder; name another, or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    # The weights take their name last: a folder that a kill cut short has none, and nobody can read it wrongly.
    with replacing(folder / "model.safetensors") as aside:
        save_file(tensors, aside, {"format": "pt"})
        write_json(folder / "config.json", config)
        write_json(folder / "preprocessor_config.json", preprocessor)
