"""Reads weights in any known format, which is detected by content. Nothing is unpickled, so no code in a file runs."""

import argparse
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vitctl.errors import VitctlError, WeightsError
from vitctl.io import hugging_face, official, state_dict
from vitctl.io.files import check_regular_file
from vitctl.io.npz import check_proportion, read_arrays
from vitctl.io.state_dict import Describe
from vitctl.io.weights import FORMAT, Tensors, Weights, check_tensors, read_ours

WEIGHTS = "weights.safetensors"  # in a run directory
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
OTHER_FILES = (
    (b"\x89HDF", "an HDF5 file (patches or features)"),
    (b"\xff\xd8\xff", "an image"),
    (b"\x89PNG", "an image"),
    (b"GGUF", "a GGUF file"),
)


def open_weights(path: Path, allow_missing: bool = False, describe: Describe | None = None) -> Weights:
    """Weights from a run directory, a folder of timm or Hugging Face, or a file in any known format.

    `describe` returns the spec of an architecture in timm, for files that name one.
    """
    if path.is_dir():
        return open_weights_folder(path, allow_missing, describe)
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder")
    return catch_parse_errors(path, lambda: open_file(path, allow_missing, describe))


def catch_parse_errors(path: Path, read: Callable[[], Weights]) -> Weights:
    """Turns every error of a parser into one line: damaged bytes raise many types."""
    try:
        return read()
    except VitctlError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise WeightsError(f"{path}: damaged, or not a weights file ({text})") from error


def open_weights_folder(path: Path, allow_missing: bool, describe: Describe | None) -> Weights:
    names = (WEIGHTS, *FOLDER_FILES)
    for name in names:
        if (path / name).exists():
            where = path / name if name == WEIGHTS else path
            return catch_parse_errors(where, lambda name=name: open_file(path / name, allow_missing, describe))  # type: ignore[misc]
    if (path / "config.json").exists():
        raise WeightsError(f"{path}: has a config.json, but none of {', '.join(names)}")
    raise WeightsError(f"{path}: has no weights; use a run directory, or a folder with model.safetensors")


def open_file(path: Path, allow_missing: bool, describe: Describe | None = None) -> Weights:
    check_regular_file(path)
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise WeightsError(f"{path}: is empty")
    if path.name.endswith(".index.json"):
        return from_tensors(path, read_sharded_safetensors(path), {}, describe)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        # checked first, because the length of a safetensors header may look like the start of a pickle or a zip
        return from_tensors(path, *read_safetensors(path), describe)
    for magic, what in OTHER_FILES:
        if head.startswith(magic):
            raise WeightsError(f"{path}: is {what}, not weights")
    if head.startswith(b"PK"):
        return open_weights_zip(path, allow_missing, describe)
    if head.startswith(b"\x80"):
        return from_tensors(path, read_torch_file(path), {}, describe)
    if head[8:9] == b"{":
        return from_tensors(path, *read_safetensors(path), describe)
    raise WeightsError(
        f"{path}: not a known weights file; use .safetensors, official .npz, .pth or a Hugging Face folder"
    )


def open_weights_zip(path: Path, allow_missing: bool, describe: Describe | None) -> Weights:
    """A zip of NumPy arrays, or torch's format."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        check_proportion(path, sum(member.file_size for member in archive.infolist()))
    if any(name.endswith("data.pkl") for name in names):
        return from_tensors(path, read_torch_file(path), {}, describe)
    if not any(name.endswith(".npy") for name in names):
        raise WeightsError(f"{path}: is a zip without arrays; vitctl reads .npz, .safetensors and .pth")
    arrays = [name.removesuffix(".npy") for name in names]
    if not official.is_official(arrays):
        raise WeightsError(f"{path}: an .npz, but not of a Vision Transformer or BiT ({', '.join(arrays[:3])}, ...)")
    return official.read_official(read_arrays(path), str(path), allow_missing)


def read_torch_file(path: Path) -> Any:
    """Reads torch's format with weights_only, which accepts tensors and containers. MAE's files have a Namespace."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = " ".join(str(error).split())
        if "weights_only" not in text and "Unsupported" not in text and "GLOBAL" not in text:
            raise
        code = text.partition("GLOBAL ")[2].split(" ")[0] if "GLOBAL " in text else "an object"
        raise WeightsError(
            f"{path}: is a pickle that would run {code} when it is loaded; refused, nothing was run. Ask the author "
            "for .safetensors, or, if you trust it, load it with torch and save its state_dict() with torch.save"
        ) from error


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path}: damaged or truncated .safetensors ({' '.join(str(error).split())})") from error


def read_sharded_safetensors(index: Path) -> Tensors:
    """The tensors of all parts of a checkpoint, which must be in the folder of their index."""
    files = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    if any(Path(name).name != name for name in files):
        raise WeightsError(f"{index}: names files outside its folder")
    for file in files:
        check_regular_file(index.parent / file)
    return {name: tensor for file in files for name, tensor in read_safetensors(index.parent / file)[0].items()}


def from_tensors(path: Path, content: Any, metadata: dict[str, str], describe: Describe | None) -> Weights:
    """Weights from named tensors of any origin."""
    if metadata.get("format") == FORMAT:
        check_tensors(content, str(path))
        return read_ours(path, metadata, content)
    config, preprocessor = (read_json_in_folder(path, name) for name in ("config.json", "preprocessor_config.json"))
    if isinstance(content, dict) and hugging_face.looks_like(map(str, content)):
        check_tensors({name: value for name, value in content.items() if isinstance(value, torch.Tensor)}, str(path))
        return hugging_face.read_hf(content, config, preprocessor, str(path))
    if isinstance(content, dict) and hugging_face.is_tower(content):
        check_tensors({name: value for name, value in content.items() if isinstance(value, torch.Tensor)}, str(path))
        return hugging_face.read_tower(content, config, preprocessor, str(path))
    tensors, wrapper = state_dict.unwrap(content, str(path))
    architecture = config if config and "architecture" in config else state_dict.read_arch(content)
    if not tensors or not (architecture or state_dict.is_plain(tensors)):
        names = ", ".join(list(tensors)[:3])
        raise WeightsError(f"{path}: not weights of a Vision Transformer or BiT ({names or 'no tensors'}, ...)")
    check_tensors(tensors, str(path))
    return state_dict.read_state_dict(tensors, str(path), architecture, describe, wrapper)


def read_json_in_folder(path: Path, name: str) -> dict[str, Any] | None:
    """A JSON file next to a checkpoint, if the checkpoint has one of the usual names."""
    if path.name not in FOLDER_FILES or not (path.parent / name).exists():
        return None
    check_regular_file(path.parent / name)
    content = json.loads((path.parent / name).read_text())
    return content if isinstance(content, dict) else None
