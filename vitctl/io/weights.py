"""Weights in memory, and vitctl's own file of them.

Tensors of every format get timm's names. With them come the spec of the model, the normalization, the class names and
the history. vitctl's file is a `.safetensors` with all this in its metadata: every reader of safetensors can load the
tensors, and no shape must be guessed.
"""

import hashlib
import json
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl.config.eval_crop import FILTERS, EvalCrop
from vitctl.config.model import ModelSpec
from vitctl.config.patchify import FITS, TASKS
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.atomic import atomic_write
from vitctl.reporting import format_count

FORMAT = "vitctl.weights"
DIGEST = 64  # hexadecimal digits
VERSION = 1
LARGEST = 1e6  # bound of mean and std
HALF = ((0.5,) * 3, (0.5,) * 3)  # mean and std of the official models
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class About:
    """What a model needs besides its tensors, and where both came from."""

    format: str  # of the file that was read, in words
    source: str = ""
    mean: tuple[float, ...] = HALF[0]
    std: tuple[float, ...] = HALF[1]
    class_names: tuple[str, ...] = ()
    history: tuple[dict[str, Any], ...] = ()  # later changes: interpolations, new heads
    training: dict[str, Any] = field(default_factory=dict)  # command, config, data digest and step of the training
    created_by: str = ""
    fit: str = "crop"  # how images of another shape were resized, as in vitctl patchify
    layout: str = ""  # of an official file, which is written in the same layout again
    task: str = "classes"  # what a label is: one class, a set of classes, or a number
    thresholds: tuple[float, ...] = ()  # of sets: a class is in the answer from this probability on
    target: tuple[float, ...] = ()  # of numbers: mean and deviation; a model's output is (number - mean) / deviation
    crop_pct: float = 1.0  # the share of an image's sides that an evaluation takes, as timm's
    interpolation: str = "bicubic"
    loss: str = "softmax"  # or sigmoid: then each class has a probability of its own, though one is the answer

    @property
    def uses_sigmoid(self) -> bool:
        return self.task == "sets" or self.loss == "sigmoid"

    @property
    def eval_crop(self) -> EvalCrop:
        return EvalCrop(self.fit, self.crop_pct, self.interpolation)

    def with_eval_crop(self, crop: EvalCrop) -> "About":
        return replace(self, fit=crop.fit, crop_pct=crop.share, interpolation=crop.filter)

    def as_dict(self) -> dict[str, Any]:
        """All fields; of those that 0.2 did not have, only the ones that say something: files stay as they were."""
        fields = asdict(self)
        return {name: value for name, value in fields.items() if name not in SINCE_03 or value != SINCE_03[name]}


SINCE_03 = dict(dropwhile(lambda item: item[0] != "task", asdict(About("")).items()))


@dataclass(frozen=True)
class Weights:
    spec: ModelSpec
    tensors: Tensors  # timm's names
    about: About
    extra: Tensors = field(default_factory=dict)  # a mask token, a decoder: not part of the classifier
    notes: tuple[str, ...] = ()  # facts for the user
    assumptions: tuple[str, ...] = ()  # about the model, where the file does not say it
    normalization_guess: str = ""  # whose mean and std are assumed, where the file does not say them
    stated: str = ""  # the digest in the metadata of vitctl's file
    path: str = ""  # where they were read from, as the user wrote it

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())

    def with_notes(self, *notes: str) -> "Weights":
        return replace(self, notes=(*self.notes, *(note for note in notes if note)))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes, assumptions and the assumed normalization."""
        guess = f"mean and std are assumed ({self.normalization_guess}); set others with --mean and --std"
        return (*self.notes, *self.assumptions, *([guess] if self.normalization_guess else []))

    def digest(self) -> str:
        """SHA-256 over spec, names and values: the same in every file format."""
        total = hashlib.sha256(json.dumps(self.spec.as_dict(), sort_keys=True).encode())
        for name, tensor in sorted((self.tensors | {f"extra.{k}": v for k, v in self.extra.items()}).items()):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor_bytes(tensor))
        return total.hexdigest()


def describe_differences(missing: Iterable[str], unused: Iterable[str]) -> str:
    """ "lacks 1 tensor (a) and has 2 unexpected tensors (b, c)", or "" if there are no differences."""
    problems = []
    for verb, noun, names in (("lacks", "tensor", sorted(missing)), ("has", "unexpected tensor", sorted(unused))):
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            problems.append(f"{verb} {format_count(len(names), noun)} ({shown})")
    return " and ".join(problems)


def settle(what: str, missing: Iterable[str], unused: Iterable[str], allow_missing: bool) -> tuple[str, ...]:
    """Raises an error that names missing and unused tensors, or returns it as a note if these are allowed."""
    difference = describe_differences(missing, unused)
    if difference and not allow_missing:
        raise WeightsError(f"{what}: {difference}; --allow-missing loads what fits")
    return (f"the file {difference}",) if difference else ()


def for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A mean or std for this number of channels: truncated, or repeated in turn."""
    return (values * channels)[:channels]


def override_normalization(about: About, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> About:
    """Replaces mean and std; each has one number, one per channel, or none, which keeps the old values."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (0, 1, channels):
            count = format_count(len(values), "number")
            raise ConfigError(f"{name} has {count}; use one for all channels, or one for each of the {channels}")
    if not (mean or std):
        return about
    new = replace(about, mean=for_channels(mean or about.mean, channels), std=for_channels(std or about.std, channels))
    step = {"step": "normalization", "from": [about.mean, about.std], "to": [new.mean, new.std], "method": "as given"}
    return replace(new, history=(*about.history, step))


def zero_head_note(tensors: Tensors) -> str:
    """The official ImageNet-21k files have a head of zeros, which is of no use."""
    head = tensors.get("head.weight", tensors.get("head.fc.weight"))
    return "its head is all zeros: features only" if head is not None and not head.any() else ""


def decoder_note(extra: Tensors) -> str:
    names = ", ".join(sorted(extra)[:3])
    return f"{format_count(len(extra), 'tensor')} of masked pretraining set aside ({names})" if extra else ""


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def save_weights(weights: Weights, path: Path) -> str:
    """Writes vitctl's file with its digest, and returns the digest. A thread computes it during the writing."""
    spec, about = json.dumps(weights.spec.as_dict()), json.dumps(weights.about.as_dict())
    metadata = {"format": FORMAT, "version": str(VERSION), "digest": "", "spec": spec, "about": about}
    tensors = weights.tensors | {f"extra.{name}": tensor for name, tensor in weights.extra.items()}
    with ThreadPoolExecutor(1, "vitctl-digest") as pool:
        digest = pool.submit(weights.digest)
        write_safetensors(tensors, metadata, path, lambda: {"digest": digest.result()})
    return digest.result()


def write_safetensors(
    tensors: Tensors, metadata: Mapping[str, str], path: Path, late: Callable[[], dict[str, str]] = dict
) -> None:
    """Writes a safetensors file. The library's own writer shuffles the metadata, so its bytes differ each time.

    `late` returns the metadata that is known only after the values are written; they must be in `metadata`, empty.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # keeps all tensors aligned
    placeholder = {name: value or "0" * DIGEST for name, value in metadata.items()}
    with atomic_write(path) as aside, open(aside, "wb") as file:
        file.write(header_of(tensors, order, placeholder))
        for name in order:
            file.write(tensor_bytes(tensors[name]))
        if known := late():
            file.seek(0)
            file.write(header_of(tensors, order, {**metadata, **known}))


def header_of(tensors: Tensors, order: list[str], metadata: Mapping[str, str]) -> bytes:
    """The length of the JSON in eight bytes, then the JSON, padded to a multiple of eight."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_ours(path: Path, metadata: Mapping[str, str], tensors: Tensors) -> Weights:
    """Weights from the metadata and tensors of vitctl's file."""
    version = metadata.get("version", "")
    if version != str(VERSION):
        raise WeightsError(f"{path}: weights version {version}, but this vitctl reads version {VERSION}; update vitctl")
    try:
        spec = ModelSpec.from_dict(json.loads(metadata["spec"]))
        about = about_from(json.loads(metadata["about"]), spec)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise WeightsError(f"{path}: its metadata is damaged ({error})") from error
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("extra.")}
    extra = {name.removeprefix("extra."): tensor for name, tensor in tensors.items() if name.startswith("extra.")}
    return Weights(spec, own, about, extra, stated=metadata.get("digest", "")).with_notes(zero_head_note(own))


def about_from(fields: dict[str, Any], spec: ModelSpec) -> About:
    """About from JSON; a ValueError names a field of the wrong type, or one that does not match the spec."""
    about = About(**fields)
    mean, std = parse_normalization(about.mean, about.std, spec.channels)
    words = ("format", "source", "created_by", "fit", "layout")
    kinds = {
        **{name: isinstance(getattr(about, name), str) for name in words},
        "class_names": is_list_of(str, about.class_names) and len(about.class_names) in (0, spec.classes),
        "history": is_list_of(dict, about.history),
        "training": isinstance(about.training, dict),
        "crop_pct": isinstance(about.crop_pct, int | float) and 0 < about.crop_pct <= 1,
        "interpolation": about.interpolation in FILTERS,
        "loss": about.loss in ("softmax", "sigmoid"),
        **check_answer_fields(about, spec),
    }
    wrong = next((name for name, good in kinds.items() if not good), None) or ("fit" if about.fit not in FITS else None)
    if wrong:
        raise ValueError(f"{wrong} is {reprlib.repr(getattr(about, wrong))}")
    lists: dict[str, Any] = {
        name: tuple(getattr(about, name)) for name in ("class_names", "history", "thresholds", "target")
    }
    return replace(about, mean=mean, std=std, **lists)


def check_answer_fields(about: About, spec: ModelSpec) -> dict[str, bool]:
    """Whether each field that turns outputs into answers is valid."""
    numbers = int, float
    thresholds, target = about.thresholds, about.target
    count, scale = {"sets": (spec.classes, 0), "numbers": (0, 2)}.get(str(about.task), (0, 0))
    return {
        "task": about.task in TASKS and (about.task != "numbers" or spec.classes == 1),
        "thresholds": is_list_of(numbers, thresholds)
        and len(thresholds) == count
        and all(0 <= each <= 1 for each in thresholds),
        "target": is_list_of(numbers, target)
        and len(target) == scale
        and all(map(math.isfinite, target))
        and (not target or target[1] > 0),
    }


def is_list_of(kind: type | tuple[type, ...], values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)


def parse_normalization(mean: Any, std: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std from JSON: a finite number for each channel, or else a ValueError."""
    for name, values, least in (("mean", mean, -LARGEST), ("std", std, 0)):
        is_valid = is_list_of((int, float), values) and len(values) == channels
        if not is_valid or not all(least < value < LARGEST for value in values):
            raise ValueError(f"{name} is {reprlib.repr(values)}, for {format_count(channels, 'channel')}")
    return tuple(map(float, mean)), tuple(map(float, std))


def check_tensors(tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Accepts dense tensors of plain numbers only: not quantized, sparse, complex, on "meta", or expanded."""
    for name, tensor in tensors.items():
        kind = str(tensor.dtype) if tensor.layout == torch.strided else str(tensor.layout)
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_nested:
            raise WeightsError(f"{source}: {name} is {kind}; save it as float32 (tensor.dequantize() or .to_dense())")
        if tensor.is_meta or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{source}: {name} has fewer values than its shape; save it with .contiguous()")


def tensor_of(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor that shares the array's memory. NumPy has no bfloat16 and loads it as two bytes without a type."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    if array.dtype.kind not in "fiu":
        raise WeightsError(f"expected an array of numbers, not {array.dtype}")
    return torch.from_numpy(array)
