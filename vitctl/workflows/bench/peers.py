"""Other loaders of image files, to normalized crops in float32 in shuffled batches."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.machine import cores

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of random crops
MIDDLE = 127.5  # mean and deviation of bytes, for -1 to 1


def timm_crops(folder: Path, res: int, batch: int) -> Iterator[Any]:
    """timm's loader over torchvision's ImageFolder, one worker per core."""
    from vitctl.workflows.bench.loops import timm_loader

    loader = timm_loader(folder, res, batch, is_training=True, scale=AREA, ratio=RATIO, color_jitter=None)
    while True:
        yield from (images for images, _ in loader)


def dali_crops(folder: Path, res: int, batch: int) -> Iterator[Any]:
    """DALI on the CPU, which decodes only what a crop needs."""
    from nvidia.dali import fn, pipeline_def, types

    def crops() -> Any:
        encoded, _ = fn.readers.file(file_root=str(folder), random_shuffle=True, seed=0, name="files")
        images = fn.decoders.image_random_crop(encoded, random_area=AREA, random_aspect_ratio=RATIO)
        sized = fn.resize(images, size=[res, res], interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.crop_mirror_normalize(
            sized, mean=[MIDDLE] * 3, std=[MIDDLE] * 3, mirror=fn.random.coin_flip(), output_layout="CHW"
        )

    pipeline = pipeline_def(batch_size=batch, num_threads=cores(), device_id=None)(crops)()
    pipeline.build()
    while True:
        yield pipeline.run()[0].as_array()


def spdl_images(folder: Path, res: int, batch: int) -> Iterator[Any]:
    """SPDL's batches of resized images: random crops are not in its interface."""
    import spdl.io

    paths, random = np.array(sorted(map(str, folder.rglob("*.jpg")))), np.random.default_rng(0)
    for _ in count():
        chosen = random.choice(paths, batch).tolist()
        images = spdl.io.to_numpy(spdl.io.load_image_batch(chosen, width=res, height=res))
        yield (images.astype(np.float32) - MIDDLE) / MIDDLE


Loads = Callable[[Path, int, int], Iterator[Any]]
PEERS: dict[str, tuple[str, Loads]] = {  # name -> the package that it needs
    "ImageFolder in timm's loader": ("timm", timm_crops),
    "DALI on the CPU": ("nvidia.dali", dali_crops),
    "SPDL, without crops": ("spdl.io", spdl_images),
}


def is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package above
        return False
