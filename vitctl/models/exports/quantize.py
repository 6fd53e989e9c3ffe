"""Static 8-bit quantization of an ONNX file, calibrated on images."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.models.exports.checksum import seal
from vitctl.models.exports.onnx_file import IMAGES
from vitctl.reporting import mute_loggers

PRODUCTS = ("MatMul", "Gemm", "Conv")
Bytes = np.ndarray[Any, Any]


def quantize(path: Path, out: Path, batches: Iterable[Bytes]) -> int:
    """Writes `out` and returns the number of products with 8-bit weights: those of blocks and convolutions.

    The last product, the head, stays float32; so do products of two activations in attention and all other operators.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    check_space_for_copies(path)
    model = onnx.load(path)
    chosen = with_weights(model.graph)[:-1]
    with mute_loggers(""):  # onnxruntime warns through the root logger
        quantize_static(
            path, out, Reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(PRODUCTS), nodes_to_quantize=chosen, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibTensorRangeSymmetric": False},
        )  # fmt: skip
    seal(out)
    return len(chosen)


def check_space_for_copies(path: Path) -> None:
    """Checks that there is room for onnxruntime's temporary copies, because onnxruntime ignores a full disk."""
    needed = 2 * sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
    for folder in (path.parent, Path(tempfile.gettempdir())):
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def with_weights(graph: Any) -> list[str]:
    """Names of the products whose second factor is a stored weight, in the order of computation."""
    stored = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in PRODUCTS and node.input[1] in stored]


class Reader:
    """Batches in the form that onnxruntime's calibration reads."""

    def __init__(self, batches: Iterable[Bytes]) -> None:
        self.batches: Iterator[Bytes] = iter(batches)

    def get_next(self) -> dict[str, Bytes] | None:
        batch = next(self.batches, None)
        return None if batch is None else {IMAGES: batch}
