"""Weights to a file or folder, in the format asked for."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

from vitctl.config.checks import one_of
from vitctl.io import hugging_face, official, timm_folder
from vitctl.io.npz import write_arrays
from vitctl.io.weights import Weights, save_weights

Format = Literal["vitctl", "npz", "timm", "hf"]


def save_as(weights: Weights, path: Path, format: Format | None = None) -> str:
    """Our safetensors, the official npz, or a folder that timm or transformers reads; by the name if not told.

    Returns the digest of what was written.
    """
    format = format or ("npz" if path.suffix == ".npz" else "vitctl")
    one_of("format", format, get_args(Format))
    if format == "vitctl":
        return save_weights(weights, path)
    with ThreadPoolExecutor(1, "vitctl-digest") as pool:  # found while the numbers are being written
        digest = pool.submit(weights.digest)
        if format == "npz":
            write_arrays(official.write_official(weights), path)
        else:
            write = timm_folder.save_timm_folder if format == "timm" else hugging_face.save_hf_folder
            write(weights, path)
        return digest.result()
