"""What `vitctl export` writes, and how closely it must agree with the model."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Count, Mean, Range, Share, Std, check_numbers, one_of, parse_resolution, require

Format = Literal["onnx", "torch", "safetensors", "hf", "npz"]
Precision = Literal["float32", "fp16", "int8"]
FORMATS = ("onnx", "torch", "safetensors", "hf", "npz")
GRAPHS = ("onnx", "torch")  # hold what is computed, not only the numbers
ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors", "hf": "-hf", "npz": ".npz"}
TOLERANCES = {"float32": 1e-4, "fp16": 0.03}  # of the largest logit, or of one
ROUNDED = 0.03  # where preprocessing is inside: a pixel that lies between two bytes may become the other one


@dataclass(frozen=True)
class ExportConfig:
    format: Format = "onnx"
    source: str | None = None
    out: str | None = None
    res: str | None = None
    precision: Precision = "float32"
    with_preprocessing: bool = False
    dynamic_size: bool = False
    opset: Annotated[int, Range(1, 100)] = 20
    data: str | None = None  # images to compare on
    pictures: Annotated[int, Range(2, 1_000_000)] | None = None  # so many of them: 32, or 1,000 where precision is lost
    calibration: Count = 256  # images of train that say how large the numbers get, for int8
    tolerance: Annotated[float, Range(0, 1_000_000)] | None = None
    agreement: Share = 0.9  # of int8 with the model, in top-1
    pad: bool = False  # a size that patches do not divide is padded
    allow_missing: bool = False
    mean: tuple[Mean, ...] = ()  # of the pixels, in place of what the weights say
    std: tuple[Std, ...] = ()

    def __post_init__(self) -> None:
        one_of("format", self.format, FORMATS)
        one_of("precision", self.precision, ("float32", "fp16", "int8"))
        check_numbers(self)
        if self.res is not None:
            parse_resolution(self.res)
        require(self.precision != "int8" or self.format == "onnx", f"precision int8 is for onnx, not for {self.format}")
        for name in ("with_preprocessing", "dynamic_size"):
            wanted = getattr(self, name) and self.format not in GRAPHS
            require(not wanted, f"{name} is for onnx and torch: {self.format} holds numbers, not what is computed")
        require(
            not (self.with_preprocessing and self.dynamic_size),
            "with_preprocessing makes images of any size into those of the model, dynamic_size takes them as they "
            "are; choose one",
        )
        ending = ENDINGS[self.format]
        fits = self.out is None or self.format == "hf" or self.out.endswith(ending)
        require(fits, f"--out {self.out}: {self.format} is written as {ending}")

    @property
    def closeness(self) -> float | None:
        """How far logits may be from the model's; None where agreement is what counts."""
        if self.tolerance is not None or self.precision == "int8":
            return self.tolerance
        return max(TOLERANCES[self.precision], ROUNDED if self.with_preprocessing else 0.0)
