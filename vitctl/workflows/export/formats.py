"""The export formats: whether each supports a model, how it is written, and how users load it."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from vitctl.config.export import GRAPHS, ExportConfig
from vitctl.config.model import ModelSpec
from vitctl.data.patchifier.image_file import open_image
from vitctl.errors import UsageError
from vitctl.io import official, timm_folder
from vitctl.io.atomic import atomic_write
from vitctl.io.capabilities import check_supported
from vitctl.io.eva import needs_eva
from vitctl.io.hugging_face import writer as hugging_face
from vitctl.io.save import save_as
from vitctl.io.weights import HALF, About, Weights
from vitctl.models.adapt import renormalize
from vitctl.models.exports.graph import check_any_size, graph_of
from vitctl.models.exports.labels import export_labels
from vitctl.models.exports.onnx_file import OnnxModel, check_opset, write_onnx
from vitctl.models.exports.quantize import quantize
from vitctl.models.exports.torch_file import TorchProgram, write_program
from vitctl.models.input import normalize
from vitctl.reporting import Reporter, mute_loggers
from vitctl.workflows.export.examples import ExampleImages
from vitctl.workflows.inputs.weights import load_model

CAPABILITIES = {
    "safetensors": timm_folder.CAPABILITIES, "timm": timm_folder.CAPABILITIES, "hf": hugging_face.CAPABILITIES,
    "npz": official.CAPABILITIES,
}  # fmt: skip

FORGETFUL = ("timm", "hf", "npz")  # formats without vitctl's metadata


class Preprocessor(Protocol):
    """A runtime's own preprocessing: image files to model inputs."""

    name: str

    def __call__(self, files: list[bytes]) -> torch.Tensor: ...


@dataclass(frozen=True)
class Written:
    """An exported file, and how to load it."""

    load: Callable[[], nn.Module]
    runtime: str
    line: str  # of Python
    input: str
    in_8_bits: int | None = None
    preprocessor: Callable[[], Preprocessor] | None = None  # None if the runtime has none


def check_format(weights: Weights, config: ExportConfig) -> None:
    """Checks everything that can fail before anything is written."""
    if config.format == "onnx":
        check_opset(config.opset)
    if config.dynamic_size:
        check_any_size(weights.spec)
    if weights.about.task == "numbers" and config.format in FORGETFUL:
        raise UsageError(
            f"{config.format} cannot store the scale of the numbers that these weights answer with; "
            "write onnx, torch or .safetensors"
        )
    is_own = config.format == "safetensors" and needs_eva(weights.spec)  # timm reads no such file
    if config.format not in GRAPHS and not is_own:
        check_supported(fold_for_npz(weights) if config.format == "npz" else weights, CAPABILITIES[config.format])


def write_export(
    weights: Weights, config: ExportConfig, out: Path, pictures: ExampleImages, reporter: Reporter
) -> Written:
    reporter.note(f"export: {out}, {config.format}, {config.precision}")
    if config.format in GRAPHS:
        return write_graph(weights, config, out, pictures, reporter)
    if weights.about.task == "sets" and config.format in FORGETFUL:
        reader = "at 0.5" if config.format == "hf" else "as one class per image"
        reporter.note(
            f"{config.format} stores no thresholds: the outputs need a sigmoid, and vitctl reads them {reader}"
        )
    stored = weights_to_store(weights, config)
    return WRITERS[config.format](stored, out)


def write_for_timm(weights: Weights, out: Path) -> Written:
    save_as(weights, out, "vitctl")
    spec = weights.spec
    if needs_eva(spec):  # timm has other names for its tensors; --format timm writes those
        return own_format(weights, out)
    return Written(lambda: load_timm(spec, out), TIMM, timm_line(spec, out), describe_input(weights))


def write_timm_folder(weights: Weights, out: Path) -> Written:
    save_as(weights, out, "timm")
    line = f"timm.create_model({f'local-dir:{out}'!r}, pretrained=True)"
    return Written(lambda: load_timm_folder(out), TIMM, line, describe_input(weights))


def write_hf_folder(weights: Weights, out: Path) -> Written:
    save_as(weights, out, "hf")
    spec, takes = weights.spec, describe_input(weights)
    line = transformers_line(spec, out)
    if not find_spec("transformers"):
        return Written(lambda: load_model(out), OWN_READER, line, takes)
    name = f"transformers {version('transformers')}"
    return Written(lambda: load_transformers(spec, out), name, line, takes, preprocessor=lambda: FromFolder(out))


def write_npz(weights: Weights, out: Path) -> Written:
    save_as(weights, out, "npz")
    return own_format(weights, out)


def own_format(weights: Weights, out: Path) -> Written:
    """A file that vitctl itself reads."""
    return Written(lambda: load_model(out), OWN_READER, f"vitctl.load_model({str(out)!r})", describe_input(weights))


OWN_READER = "vitctl's own reader of the format"
TIMM = f"timm {version('timm')}"
WRITERS: dict[str, Callable[[Weights, Path], Written]] = {
    "safetensors": write_for_timm, "timm": write_timm_folder, "hf": write_hf_folder, "npz": write_npz
}  # fmt: skip


def describe_input(weights: Weights) -> str:
    spec, about = weights.spec, weights.about
    mean, std = ("[" + ", ".join(f"{value:.4g}" for value in values) + "]" for values in (about.mean, about.std))
    return f"float32 [B, {spec.channels}, {spec.height}, {spec.width}], (pixels / 255 - {mean}) / {std}"


def weights_to_store(weights: Weights, config: ExportConfig) -> Weights:
    """The weights in the requested precision, folded for the official layout if needed."""
    if config.precision == "fp16":
        tensors = {name: each.half() if each.is_floating_point() else each for name, each in weights.tensors.items()}
        weights = replace(weights, tensors=tensors)
    return fold_for_npz(weights) if config.format == "npz" else weights


def fold_for_npz(weights: Weights) -> Weights:
    """Fold the normalization into the first layer, for pixels from -1 to 1, and store fixed positions as a table."""
    weights = renormalize(weights, *HALF)
    if weights.spec.added == "stem" and weights.spec.positions in ("sincos", "sincos-mae"):
        weights = replace(weights, spec=weights.spec.replace(positions="1d"))
    return weights


# --- graphs ----------------------------------------------------------------------------------------------------------


def write_graph(
    weights: Weights, config: ExportConfig, out: Path, pictures: ExampleImages, reporter: Reporter
) -> Written:
    spec = weights.spec
    options = {"any_size": config.dynamic_size, "preprocessing": config.with_preprocessing}
    graph = graph_of(load_model(weights), weights.about, half=config.precision == "fp16", **options)
    labels = export_labels(weights, precision=config.precision, **options)
    example, free = example_of(spec, config), free_axes(spec, config)
    if config.format == "torch":
        write_program(graph, example, free, out, labels)
        line = f"torch.export.load({str(out)!r}).module()"
        return Written(lambda: TorchProgram(out), f"torch {torch.__version__}", line, labels["input"])
    count = None
    if config.precision == "int8":
        with (
            atomic_write(out) as aside,
            tempfile.TemporaryDirectory(prefix=".vitctl-export-", dir=out.parent) as folder,
        ):
            unquantized = Path(folder) / "float32.onnx"
            write_onnx(graph, example, free, unquantized, config.opset, labels)
            reporter.note(f"int8: calibrated with up to {config.calibration} images of {pictures.path}")
            count = quantize(unquantized, aside, prepare_graph_inputs(weights, pictures, config))
    else:
        write_onnx(graph, example, free, out, config.opset, labels)
    line = f"onnxruntime.InferenceSession({str(out)!r})"
    return Written(lambda: OnnxModel(out), f"onnxruntime {version('onnxruntime')}", line, labels["input"], count)


def prepare_graph_inputs(weights: Weights, pictures: ExampleImages, config: ExportConfig) -> Iterator[Any]:
    for batch in pictures.calibration(config.calibration):
        yield batch if config.with_preprocessing else images_of(weights.about, torch.from_numpy(batch)).numpy()


def images_of(about: About, pixels: torch.Tensor) -> torch.Tensor:
    """Bytes [B, H, W, C] to normalized images [B, C, H, W]."""
    return normalize(pixels, about.mean, about.std).permute(0, 3, 1, 2).contiguous()


def example_of(spec: ModelSpec, config: ExportConfig) -> torch.Tensor:
    """A batch to trace the graph with. Free sizes are odd, so that none is mistaken for a constant."""
    if config.with_preprocessing:
        return torch.zeros(2, spec.height + 7, spec.width + 5, spec.channels, dtype=torch.uint8)
    return torch.zeros(2, spec.channels, spec.height, spec.width)


def free_axes(spec: ModelSpec, config: ExportConfig) -> dict[int, Any]:
    dim = torch.export.Dim
    if config.with_preprocessing:
        return dict.fromkeys((0, 1, 2), dim.DYNAMIC)
    if not config.dynamic_size:
        return {0: dim.DYNAMIC}
    if spec.family == "bit":
        return dict.fromkeys((0, 2, 3), dim.DYNAMIC)
    return {0: dim("batch"), 2: spec.patch * dim("rows"), 3: spec.patch * dim("columns")}


# --- loading ---------------------------------------------------------------------------------------------------------


def timm_options(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """timm's name of the architecture, and its arguments."""
    config = timm_folder.timm_config(Weights(spec, {}, About("vitctl")))
    return config["architecture"], {"num_classes": spec.classes} | config["model_args"]


def load_timm(spec: ModelSpec, path: Path) -> nn.Module:
    import timm

    name, options = timm_options(spec)
    model: nn.Module = timm.create_model(name, checkpoint_path=str(path), **options)
    return model.eval()


def load_timm_folder(path: Path) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True)
    return model.eval()


def timm_line(spec: ModelSpec, path: Path) -> str:
    name, options = timm_options(spec)
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"timm.create_model({name!r}, checkpoint_path={str(path)!r}, {arguments})"


class PlainOutput(nn.Module):
    """A Hugging Face model that returns its logits or features as a tensor."""

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: Any = self.model(images)
        if self.spec.classes:
            return output.logits  # type: ignore[no-any-return]
        return output.pooler_output if self.spec.hidden else output.last_hidden_state[:, 0]  # type: ignore[no-any-return]


def load_transformers(spec: ModelSpec, path: Path) -> nn.Module:
    import transformers

    with quiet_transformers():
        if spec.classes:
            model = transformers.ViTForImageClassification.from_pretrained(path)
        else:
            model = transformers.ViTModel.from_pretrained(path, add_pooling_layer=bool(spec.hidden))
    return PlainOutput(model, spec).eval()


def transformers_line(spec: ModelSpec, path: Path) -> str:
    if spec.classes:
        return f"transformers.ViTForImageClassification.from_pretrained({str(path)!r})"
    return f"transformers.ViTModel.from_pretrained({str(path)!r}, add_pooling_layer={bool(spec.hidden)})"


class FromFolder:
    """The default image processor of a Hugging Face folder."""

    def __init__(self, path: Path) -> None:
        import transformers

        with quiet_transformers():
            self.processor = transformers.AutoImageProcessor.from_pretrained(path)
        self.name = f"transformers' {type(self.processor).__name__}"

    def __call__(self, files: list[bytes]) -> torch.Tensor:
        images = [open_image(io.BytesIO(content)) for content in files]
        with quiet_transformers():
            return self.processor(images, return_tensors="pt")["pixel_values"]  # type: ignore[no-any-return]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without its progress bars and remarks."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with mute_loggers("transformers"):
            yield
    finally:
        if bars:
            logging.enable_progress_bar()
