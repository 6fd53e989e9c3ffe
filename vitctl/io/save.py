"""Writes weights to a file or folder, in any format."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

from vitctl.config.checks import one_of
from vitctl.io import hugging_face, official, timm_folder
from vitctl.io.npz import write_arrays
from vitctl.io.weights import Weights, save_weights

Format = Literal["vitctl", "npz", "timm", "hf"]


def save_as(weights: Weights, path: Path, format: Format | None = None) -> str:
    """Writes vitctl's safetensors, the official npz, or a folder for timm or transformers; returns the digest.

    Without a format, the ending of the path decides.
    """
    format = format or ("npz" if path.suffix == ".npz" else "vitctl")
    one_of("format", format, get_args(Format))
    if format == "vitctl":
        return save_weights(weights, path)
    with ThreadPoolExecutor(1, "vitctl-digest") as pool:  # computes the digest during the writing
        digest = pool.submit(weights.digest)
        if format == "npz":
            write_arrays(official.write_official(weights), path)
        else:
            write = timm_folder.save_timm_folder if format == "timm" else hugging_face.save_hf_folder
            write(weights, path)
        return digest.result()
