"""ONNX files: written by torch's exporter, run by onnxruntime."""

import os
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitctl.errors import ConfigError, UsageError, WeightsError, causes
from vitctl.io.atomic import atomic_write
from vitctl.models.exports.checksum import DATA, UNSET, WHOLE, is_sealed, seal
from vitctl.models.exports.exported import ExportedModel
from vitctl.models.exports.labels import read_labels
from vitctl.reporting import mute_loggers

IMAGES, LOGITS = "images", "logits"
OPSETS = (18, 23)  # Resize has antialiasing since 18
LARGEST = 1_500_000_000  # bytes of weights in the file itself: torch's limit is 1.6 GB, protobuf's 2 GB


def write_onnx(graph: nn.Module, example: torch.Tensor, free: dict[int, Any], path: Path, opset: int,
               labels: dict[str, str]) -> None:  # fmt: skip
    """`free` is the axes of the input that may have any size. Weights beyond LARGEST go into a .data file."""
    program = export_onnx_graph(graph, example, free, opset)
    program.model.metadata_props.update(labels | {WHOLE: UNSET, DATA: UNSET})
    size = sum(tensor.nbytes for tensor in (*graph.parameters(), *graph.buffers()))
    data = path.with_name(f"{path.name}.data")
    if size > LARGEST:
        with tempfile.TemporaryDirectory(prefix=".vitctl-export-", dir=path.parent) as folder:
            program.save(f"{folder}/{path.name}", external_data=True)
            seal(Path(folder, path.name), Path(folder, data.name))
            os.replace(f"{folder}/{data.name}", data)
            os.replace(f"{folder}/{path.name}", path)
        return
    with atomic_write(path) as aside:
        program.save(str(aside), external_data=False)
        seal(aside)
    data.unlink(missing_ok=True)  # of a larger model that was here before


def check_opset(opset: int) -> None:
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ConfigError(f"opset is {opset}; it must be between {OPSETS[0]} and {OPSETS[1]}")


def export_onnx_graph(graph: nn.Module, example: torch.Tensor, free: dict[int, Any], opset: int) -> Any:
    table: dict[Any, Any] = {
        torch.ops.aten._upsample_bicubic2d_aa.default: partial(resize_antialiased, "cubic"),
        torch.ops.aten._upsample_bilinear2d_aa.default: partial(resize_antialiased, "linear"),
    }
    for layer in graph.modules():  # torch translates fused attention for heads on an axis of their own
        if type(layer).__module__.endswith("vision_transformer_sam") and hasattr(layer, "fused_attn"):
            layer.fused_attn = False  # type: ignore[assignment]
    with mute_loggers("torch.onnx", "onnxscript"), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.onnx.export(
                graph, (example,), dynamo=True, input_names=[IMAGES], output_names=[LOGITS], dynamic_shapes=(free,),
                opset_version=opset, custom_translation_table=table, verbose=False,
            )  # fmt: skip
        except (torch.onnx.errors.OnnxExporterError, AssertionError) as error:
            cause = " ".join(str(next(reversed(list(causes(error))))).split())
            raise UsageError(f"torch cannot translate this model to ONNX ({cause:.120}); --format torch can") from error


def resize_antialiased(
    mode: str, x: Any, size: Any, align_corners: bool, scale_h: Any = None, scale_w: Any = None
) -> Any:
    """torch's operator in ONNX, which its exporter cannot translate. Like Pillow's, the cubic kernel has a = -0.5."""
    from onnxscript.onnx_opset import opset18

    op: Any = opset18

    assert not align_corners
    sides = [  # computed ones are scalars
        op.Constant(value_ints=[side]) if isinstance(side, int) else op.Reshape(side, op.Constant(value_ints=[1]))
        for side in size
    ]
    sizes = op.Concat(op.Shape(x, start=0, end=2), *sides, axis=0)
    return op.Resize(x, None, None, sizes, antialias=1, coordinate_transformation_mode="half_pixel",
                     cubic_coeff_a=-0.5, exclude_outside=1, mode=mode)  # fmt: skip


class OnnxModel(ExportedModel):
    """An ONNX file as a module."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        sealed = is_sealed(path)
        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # from protobuf or onnxruntime
            text = " ".join(str(error).split())[:120]
            raise WeightsError(f"{path}: onnxruntime cannot load it ({text}); export it again") from error
        super().__init__(read_labels(metadata, str(path)), path, sealed)

    def compute(self, images: torch.Tensor) -> torch.Tensor:
        (logits,) = self.session.run([LOGITS], {IMAGES: images.contiguous().numpy()})
        return torch.from_numpy(logits)
