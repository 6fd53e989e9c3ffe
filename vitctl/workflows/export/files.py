"""Compares the exported model's own preprocessing of image files with vitctl's, by the resulting outputs."""

import io
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from vitctl.config.eval_crop import EvalCrop
from vitctl.config.export import ROUNDED, ExportConfig
from vitctl.config.model import ModelSpec
from vitctl.data.patchifier.decode import decode, resize
from vitctl.data.patchifier.image_file import open_image
from vitctl.io.weights import Weights
from vitctl.reporting import Reporter
from vitctl.workflows.export.compare import LoadedExport
from vitctl.workflows.export.examples import Bytes, ExampleImages
from vitctl.workflows.export.formats import Written
from vitctl.workflows.inputs.preprocess import target_for_model

OWN = "vitctl as the file says"


@dataclass(frozen=True)
class Preprocessing:
    by: str  # the preprocessing
    files: int
    max_difference: float | None  # of the exported model's outputs; None if the files could not be prepared
    problem: str  # why not
    agrees: bool

    def summary(self) -> str:
        if self.problem:
            return f"images cannot be prepared by {self.by}: {self.problem}"
        answers = f"prepared by {self.by}, {self.files} image files get answers up to {self.max_difference:.3g} apart"
        return answers if self.agrees else f"preprocessing differs: {answers}"


@torch.no_grad()
def compare_preprocessing(
    weights: Weights,
    exported: LoadedExport,
    written: Written,
    pictures: ExampleImages,
    config: ExportConfig,
    reporter: Reporter,
) -> Preprocessing | None:
    """None unless the model has 1 or 3 channels, as image files have."""
    if weights.spec.channels not in (1, 3):
        return None
    files = encode_images(pictures.stored)
    by, problem, theirs = OWN, "", None
    try:
        if written.preprocessor:
            preprocessor = written.preprocessor()
            by = preprocessor.name
            theirs = exported.model(preprocessor(files)).float()
        elif exported.takes_bytes:
            by = "the graph"
            theirs = torch.cat([exported.ask(torch.from_numpy(decode_file(file))[None]) for file in files])
        else:
            theirs = exported(prepare_files(files, weights.spec, exported.about.eval_crop))
    except Exception as error:  # from another library, which may not support such images
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    ours = exported(prepare_files(files, weights.spec, weights.about.eval_crop))
    difference = None if theirs is None else float((theirs - ours).abs().max())
    allowed = max(config.closeness or 0.0, ROUNDED) * max(1.0, float(ours.abs().max()))
    result = Preprocessing(by, len(files), difference, problem, difference is not None and difference <= allowed)
    if not result.agrees:
        shape = f"{weights.spec.height}x{weights.spec.width}; {weights.about.eval_crop}"
        reporter.warn(f"{result.summary()}; give it images that already have the model's shape ({shape})")
    return result


def encode_images(stored: Bytes) -> list[bytes]:
    """PNG files of the images as they are, and stretched by a half in width or height."""
    files = []
    for number, image in enumerate(stored):
        height, width = image.shape[:2]
        long = (height, width * 3 // 2) if number % 2 else (height * 3 // 2, width)
        for pixels in (image, resize(image, *long)):
            buffer = io.BytesIO()
            Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "png")
            files.append(buffer.getvalue())
    return files


def decode_file(file: bytes) -> Bytes:
    """uint8 [h, w, C]."""
    pixels = np.array(open_image(io.BytesIO(file)))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def prepare_files(files: list[bytes], spec: ModelSpec, crop: EvalCrop) -> torch.Tensor:
    """uint8 [B, H, W, C], prepared by vitctl."""
    target = replace(target_for_model(spec, crop), draft=False)
    return torch.from_numpy(np.stack([decode(file, target) for file in files]))
