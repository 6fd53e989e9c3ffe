"""Images to measure on: the user's JPEGs, or synthetic photos with the spectrum of natural images.

JPEG compresses noise with that spectrum like a photo, so that it also takes as long to decode.
"""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitctl.config.bench import BenchConfig
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.patchifier.image_file import open_image
from vitctl.errors import DataError
from vitctl.reporting import SilentReporter
from vitctl.workflows.patchify import patchify

CLASSES = 4


def find_or_write_jpegs(config: BenchConfig, folder: Path, width: int, height: int) -> list[Path]:
    """JPEGs of `--data`, or synthetic ones of this size."""
    if not config.data:
        return write_jpegs(folder, config.pictures, width, height, 95, config.seed)
    files = sorted(Path(config.data).rglob("*"))
    jpegs = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg") and path.is_file()]
    if not jpegs:
        raise DataError(f"{config.data}: contains no JPEG; pass a folder of JPEGs, or omit --data")
    spread = jpegs[:: max(1, len(jpegs) // config.pictures)]  # over all classes
    readable = list(itertools.islice(filter(can_be_decoded, spread), config.pictures))
    if not readable:
        raise DataError(f"{config.data}: none of its {len(jpegs)} JPEGs can be decoded; pass another folder")
    return readable


def can_be_decoded(path: Path) -> bool:
    try:
        with open_image(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def write_jpegs(folder: Path, count: int, width: int, height: int, quality: int, seed: int) -> list[Path]:
    """`count` synthetic JPEGs in class folders."""
    paths = []
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(width, height, np.random.default_rng((seed, number))).save(path, quality=quality)
        paths.append(path)
    return paths


def photograph(width: int, height: int, random: np.random.Generator) -> Image.Image:
    """Broad shapes, with more texture in some places than in others. Large images are enlarged from 1024x768."""
    small = min(height, 768), min(width, 1024)
    richness = np.exp(0.7 * noise(small, 2.0, random))
    layers = [noise(small, 1.6, random) + 0.25 * richness * noise(small, 1.0, random) for _ in range(4)]
    channels = np.stack([layers[0] + 0.4 * layer for layer in layers[1:]], axis=-1)  # [H, W, 3], correlated
    channels = 128 + 50 * (channels - channels.mean()) / channels.std()
    image = Image.fromarray(channels.clip(0, 255).astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def noise(shape: tuple[int, int], power: float, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """[H, W] with amplitudes that fall with frequency to the `power`; mean 0, standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = 1.0
    values = np.fft.irfft2(np.fft.rfft2(random.standard_normal(shape)) / frequency**power, shape)
    return np.asarray((values - values.mean()) / values.std())


def write_patch_file(folder: Path, paths: list[Path], copies: int, res: int, patch: int | None = None) -> Path:
    """A patch file of `copies` of the images in class folders, which stay beside it under the same name."""
    many = multiply_images(folder / "many", paths, copies)
    out = many.with_suffix(".h5")
    patchify(PatchifyConfig(source=str(many), out=str(out), res=Res(res), patch=patch), SilentReporter())
    return out


def multiply_images(folder: Path, paths: list[Path], copies: int) -> Path:
    """The same images several times under other names, as hard links if possible."""
    for copy in range(copies):
        for number, path in enumerate(paths):  # the number keeps images of the same name apart
            target = folder / path.parent.name / f"{copy:02d}-{number:06d}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, target)
    return folder


def link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        with open(target, "xb") as file:  # x: an existing link must not write into its source
            file.write(path.read_bytes())
