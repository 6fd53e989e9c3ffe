"""The config of `vitctl export`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Count, Range, Share, check_config, require
from vitctl.config.common import DataConfig, WeightsConfig
from vitctl.config.option import option, setting
from vitctl.config.res import Res

Format = Literal["onnx", "torch", "safetensors", "timm", "hf", "npz"]
Numbers = Literal["float32", "fp16", "int8"]
GRAPHS = ("onnx", "torch")  # hold the computation; the other formats hold only weights
ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors", "timm": "-timm", "hf": "-hf", "npz": ".npz"}
FOLDERS = ("timm", "hf")
TOLERANCES = {"float32": 1e-4, "fp16": 0.03}  # of the largest logit, or of one
ROUNDED = 0.03  # with preprocessing inside: a pixel between two bytes may be rounded to the other one


@dataclass(frozen=True, kw_only=True)
class ExportConfig(DataConfig, WeightsConfig):
    format: Format = option(
        "onnx",
        "torch: torch.export; safetensors: timm's tensor names; timm, hf: a folder for timm or transformers; npz: the "
        "layout of the paper's code.",
    )
    out: str | None = option(None, "Default: MODEL-RES with the ending of the format.", metavar="FILE")
    res: Res | None = option(None, "Another resolution, with interpolated positions.", metavar="N|HxW")
    precision: Numbers = option("float32", "int8 is static, calibrated on --data, for onnx only.")
    with_preprocessing: bool = option(False, "Take bytes [B, H, W, C] of any size, and crop and resize inside.")
    dynamic_size: bool = option(False, "Take images of any whole number of patches as they are.")
    push: str | None = option(
        None, "Upload the folder of timm or hf to this repository of the Hugging Face hub; $HF_TOKEN is the token.",
        metavar="OWNER/NAME", late=True,
    )  # fmt: skip
    opset: Annotated[int, Range(1, 100)] = setting(20, "ONNX opset")
    pictures: Annotated[int, Range(2, 1_000_000)] | None = setting(
        None, "images to compare on; default: 32, or 1,000 where precision is lost"
    )
    calibration: Count = setting(256, "training images that calibrate int8")
    tolerance: Annotated[float, Range(0, 1_000_000)] | None = setting(None, "allowed difference of the logits")
    agreement: Share = setting(0.9, "share of images for which int8 must have the model's top-1, or its whole set")
    pad: bool = setting(False, "pad a resolution that is no multiple of the patch size")

    def __post_init__(self) -> None:
        check_config(self)
        require(self.precision != "int8" or self.format == "onnx", f"precision int8 is for onnx, not for {self.format}")
        for name in ("with_preprocessing", "dynamic_size"):
            is_unsupported = getattr(self, name) and self.format not in GRAPHS
            require(
                not is_unsupported, f"{name} is for onnx and torch: {self.format} holds weights, not the computation"
            )
        require(
            not (self.with_preprocessing and self.dynamic_size),
            "with_preprocessing resizes images to the model's size, dynamic_size takes them as they are; choose one",
        )
        require(not self.push or self.format in FOLDERS, f"--push uploads folders: use it with {' or '.join(FOLDERS)}")
        ending = ENDINGS[self.format]
        fits = self.out is None or self.format in FOLDERS or self.out.endswith(ending)
        require(fits, f"--out {self.out}: {self.format} is written as {ending}")

    @property
    def closeness(self) -> float | None:
        """The allowed relative difference of the logits; None if only the agreement counts."""
        if self.tolerance is not None or self.precision == "int8":
            return self.tolerance
        return max(TOLERANCES[self.precision], ROUNDED if self.with_preprocessing else 0.0)
