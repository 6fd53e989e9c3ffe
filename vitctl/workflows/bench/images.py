"""Made-up photographs: noise with the spectrum of natural images, so that JPEG treats them like one."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = 4


def write_jpegs(folder: Path, count: int, width: int, height: int, quality: int, seed: int) -> list[Path]:
    """`count` JPEGs in class folders."""
    paths = []
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(width, height, np.random.default_rng((seed, number))).save(path, quality=quality)
        paths.append(path)
    return paths


def photograph(width: int, height: int, random: np.random.Generator) -> Image.Image:
    """Broad forms, and texture that is rich in some places and poor in others. Large images are enlarged ones."""
    small = min(height, 768), min(width, 1024)
    where_rich = np.exp(0.7 * noise(small, 2.0, random))
    layers = [noise(small, 1.6, random) + 0.25 * where_rich * noise(small, 1.0, random) for _ in range(4)]
    channels = np.stack([layers[0] + 0.4 * layer for layer in layers[1:]], axis=-1)  # [H, W, 3], alike as in nature
    channels = 128 + 50 * (channels - channels.mean()) / channels.std()
    picture = Image.fromarray(channels.clip(0, 255).astype(np.uint8))
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def noise(shape: tuple[int, int], power: float, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """[H, W], its amplitude falling with frequency to the `power`; mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = 1.0
    values = np.fft.irfft2(np.fft.rfft2(random.standard_normal(shape)) / frequency**power, shape)
    return np.asarray((values - values.mean()) / values.std())


def multiply_images(folder: Path, paths: list[Path], copies: int) -> Path:
    """The same images several times under other names, without taking more room where links can be made."""
    for copy in range(copies):
        for number, path in enumerate(paths):  # two of them may have one name
            target = folder / path.parent.name / f"{copy:02d}-{number:06d}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, target)
    return folder


def link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        with open(target, "xb") as file:  # never through a link into what it was made from
            file.write(path.read_bytes())
