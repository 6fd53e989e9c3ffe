"""Weights in memory, and our own file of them.

Whatever format they came in, the names are timm's, and beside them stands what it takes to use them: the spec of the
model, the normalization, the class names, and where they came from. Our file is a `.safetensors` whose metadata says
all this, so that timm and every other reader of safetensors can take the tensors, and nobody has to guess a shape.
"""

import hashlib
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl.config.model import ModelSpec
from vitctl.config.patchify import FITS
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.atomic import atomic_write
from vitctl.reporting import format_count

FORMAT = "vitctl.weights"
DIGEST = 64  # hexadecimal digits
VERSION = 1
LARGEST = 1e6  # mean or std
HALF = ((0.5,) * 3, (0.5,) * 3)  # mean and std of the official models
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class About:
    """What a model needs beside its tensors, and where both came from."""

    format: str  # of the file it was read from, in words
    source: str = ""
    mean: tuple[float, ...] = HALF[0]
    std: tuple[float, ...] = HALF[1]
    class_names: tuple[str, ...] = ()
    history: tuple[dict[str, Any], ...] = ()  # what was done to them since: interpolations, new heads
    training: dict[str, Any] = field(default_factory=dict)  # command, config, data digest, step: what made them
    created_by: str = ""
    fit: str = "crop"  # how images of another shape were made to fit, as vitctl patchify has it
    layout: str = ""  # of an official file: what it is written in again


@dataclass(frozen=True)
class Weights:
    spec: ModelSpec
    tensors: Tensors  # timm's names
    about: About
    extra: Tensors = field(default_factory=dict)  # a mask token, a decoder: not of the classifier
    notes: tuple[str, ...] = ()  # facts that a reader of the file should know
    assumptions: tuple[str, ...] = ()  # of the model, where the file does not say it
    normalization_guess: str = ""  # whose mean and std these are, where the file does not say them
    stated: str = ""  # the digest that our file says it has
    path: str = ""  # where they were read from, as it was called

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())

    def with_notes(self, *notes: str) -> "Weights":
        return replace(self, notes=(*self.notes, *(note for note in notes if note)))

    @property
    def remarks(self) -> tuple[str, ...]:
        """All that is to be known of them: facts, and what was assumed."""
        guess = f"mean and std are assumed ({self.normalization_guess}); --mean and --std give others"
        return (*self.notes, *self.assumptions, *([guess] if self.normalization_guess else []))

    def digest(self) -> str:
        """SHA-256 over spec, names and numbers, whatever file they lie in."""
        total = hashlib.sha256(json.dumps(self.spec.as_dict(), sort_keys=True).encode())
        for name, tensor in sorted((self.tensors | {f"extra.{k}": v for k, v in self.extra.items()}).items()):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor_bytes(tensor))
        return total.hexdigest()


def describe_differences(missing: Iterable[str], unused: Iterable[str]) -> str:
    """What does not fit, by name: "misses 1 tensor (a) and has no use for 2 tensors (b, c)"; empty where all fits."""
    problems = []
    for word, names in (("misses", sorted(missing)), ("has no use for", sorted(unused))):
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            problems.append(f"{word} {format_count(len(names), 'tensor')} ({shown})")
    return " and ".join(problems)


def settle(what: str, missing: Iterable[str], unused: Iterable[str], allow_missing: bool) -> tuple[str, ...]:
    """Nothing where all fits; a note where it is allowed that it does not; else the error that names the tensors."""
    found = describe_differences(missing, unused)
    if found and not allow_missing:
        raise WeightsError(f"{what}: the model {found}; --allow-missing takes what fits")
    return (f"the model {found}",) if found else ()


def for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A mean or std for so many channels: the first ones, or all in turn."""
    return (values * channels)[:channels]


def override_normalization(about: About, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> About:
    """With the mean and the std that somebody gives, each one number or one for each channel; () is none."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (0, 1, channels):
            raise ConfigError(
                f"{name} has {format_count(len(values), 'number')}; write one, or {channels}, one a channel"
            )
    if not (mean or std):
        return about
    new = replace(about, mean=for_channels(mean or about.mean, channels), std=for_channels(std or about.std, channels))
    step = {"step": "normalization", "from": [about.mean, about.std], "to": [new.mean, new.std], "method": "as given"}
    return replace(new, history=(*about.history, step))


def zero_head_note(tensors: Tensors) -> str:
    """The official ImageNet-21k files have a head of zeros: good for features alone."""
    head = tensors.get("head.weight", tensors.get("head.fc.weight"))
    return "its head is all zeros: features only" if head is not None and not head.any() else ""


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def save_weights(weights: Weights, path: Path) -> str:
    """Writes our file; returns its digest, which also stands in it: found while the numbers are being written."""
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "digest": "",
        "spec": json.dumps(weights.spec.as_dict()),
        "about": json.dumps(asdict(weights.about)),
    }
    tensors = weights.tensors | {f"extra.{name}": tensor for name, tensor in weights.extra.items()}
    with ThreadPoolExecutor(1, "vitctl-digest") as pool:
        digest = pool.submit(weights.digest)
        write_safetensors(tensors, metadata, path, lambda: {"digest": digest.result()})
    return digest.result()


def write_safetensors(
    tensors: Tensors, metadata: Mapping[str, str], path: Path, late: Callable[[], dict[str, str]] = dict
) -> None:
    """A JSON header, then the numbers. The library's own writer shuffles the metadata: other bytes each time.

    `late` says what of the metadata is only known when the numbers are written; what it names must be in there, empty.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that all are aligned
    room = header_of(tensors, order, {**metadata, **{name: "0" * DIGEST for name in metadata if not metadata[name]}})
    with atomic_write(path) as aside, open(aside, "wb") as file:
        file.write(room)
        for name in order:
            file.write(tensor_bytes(tensors[name]))
        known = late()
        if known:
            file.seek(0)
            file.write(header_of(tensors, order, {**metadata, **known}))


def header_of(tensors: Tensors, order: list[str], metadata: Mapping[str, str]) -> bytes:
    """Its length in eight bytes, and JSON that is padded to a multiple of eight."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_ours(path: Path, metadata: Mapping[str, str], tensors: Tensors) -> Weights:
    """Weights from the parts of our file."""
    version = metadata.get("version", "")
    if version != str(VERSION):
        raise WeightsError(f"{path}: is version {version} of our weights; this vitctl reads version {VERSION}")
    try:
        spec = ModelSpec.from_dict(json.loads(metadata["spec"]))
        about = about_from(json.loads(metadata["about"]), spec)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise WeightsError(f"{path}: its metadata is damaged ({error})") from error
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("extra.")}
    extra = {name.removeprefix("extra."): tensor for name, tensor in tensors.items() if name.startswith("extra.")}
    weights = Weights(spec, own, about, extra, stated=metadata.get("digest", ""))
    return weights.with_notes(zero_head_note(own))


def about_from(fields: dict[str, Any], spec: ModelSpec) -> About:
    """What metadata says beside the spec; a ValueError names the field that is not of its kind, or does not fit."""
    about = About(**fields)
    mean, std = parse_normalization(about.mean, about.std, spec.channels)
    words = ("format", "source", "created_by", "fit", "layout")
    kinds = {
        **{name: isinstance(getattr(about, name), str) for name in words},
        "class_names": is_list_of(str, about.class_names) and len(about.class_names) in (0, spec.classes),
        "history": is_list_of(dict, about.history),
        "training": isinstance(about.training, dict),
    }
    wrong = next((name for name, good in kinds.items() if not good), None) or ("fit" if about.fit not in FITS else None)
    if wrong:
        raise ValueError(f"{wrong} is {reprlib.repr(getattr(about, wrong))}")
    return replace(about, mean=mean, std=std, class_names=tuple(about.class_names), history=tuple(about.history))


def is_list_of(kind: type | tuple[type, ...], values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)


def parse_normalization(mean: Any, std: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as a file says them: a finite number for each channel, or else a ValueError."""
    for name, values in (("mean", mean), ("std", std)):
        least = 0 if name == "std" else -LARGEST
        if (
            not is_list_of((int, float), values)
            or len(values) != channels
            or not all(least < each < LARGEST for each in values)
        ):
            raise ValueError(f"{name} is {reprlib.repr(values)}, for {format_count(channels, 'channel')}")
    return tuple(map(float, mean)), tuple(map(float, std))


def check_tensors(tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Numbers of a plain kind, all of them in the file: nothing quantized, sparse, complex, empty or blown up."""
    for name, tensor in tensors.items():
        kind = str(tensor.dtype) if tensor.layout == torch.strided else str(tensor.layout)
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_nested:
            raise WeightsError(
                f"{source}: {name} holds {kind}; save it as float32 (tensor.dequantize(), or .to_dense())"
            )
        if tensor.is_meta or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{source}: {name} is a shape without all of its numbers; save it whole, and contiguous")


def tensor_of(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor over an array; two bytes without a type are bfloat16, as NumPy stores what it does not know."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    if array.dtype.kind not in "fiu":
        raise WeightsError(f"numbers are expected, not {array.dtype}")
    return torch.from_numpy(array)
