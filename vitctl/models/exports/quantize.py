"""An ONNX file in 8 bits: static, calibrated on images."""

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
    """Writes `out`, not yet in its place; returns how many products are in 8 bits: those of blocks and convolutions.

    The last one, the head, stays float32, as products of two activations do in attention, and all between products.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    check_space_for_copies(path)
    model = onnx.load(path)
    chosen = with_weights(model.graph)[:-1]
    with mute_loggers(""):  # the library warns through the root logger
        quantize_static(
            path,
            out,
            Reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibTensorRangeSymmetric": False},
        )
    seal(out)
    return len(chosen)


def check_space_for_copies(path: Path) -> None:
    """Whether there is room for the copies that onnxruntime writes, which does not notice a full disk."""
    needed = 2 * sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
    for folder in (path.parent, Path(tempfile.gettempdir())):
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def with_weights(graph: Any) -> list[str]:
    """Products in the order in which they are computed, whose second factor is stored."""
    stored = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in PRODUCTS and node.input[1] in stored]


class Reader:
    """Batches as the library asks for them, one after another."""

    def __init__(self, batches: Iterable[Bytes]) -> None:
        self.batches: Iterator[Bytes] = iter(batches)

    def get_next(self) -> dict[str, Bytes] | None:
        batch = next(self.batches, None)
        return None if batch is None else {IMAGES: batch}
