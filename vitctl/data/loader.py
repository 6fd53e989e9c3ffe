"""Batches from a patch file at the speed of memory.

A loader has no state: the batch of a step is a function of (file, seed, step). So a run can resume at any step, the
order does not depend on the number of ranks, and the next batches are fetched while a step computes.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from vitctl.config.checks import at_least, one_of
from vitctl.config.eval_crop import SHORT_SIDE, EvalCrop
from vitctl.data.augmentation.augment import Augment
from vitctl.data.augmentation.frames import centers_of, frame_centers
from vitctl.data.balance import BalancedOrder
from vitctl.data.cuts import can_decode, cut_frames, cut_on_device
from vitctl.data.order import at
from vitctl.errors import ConfigError, DataError
from vitctl.io.patch_file import Split
from vitctl.machine import compute_alone, cores
from vitctl.patches import check_grid, patchify_images, unpatchify_images

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Batch:
    pixels: torch.Tensor  # uint8, patches [B, N, P*P*C] or images [B, H, W, C]
    labels: torch.Tensor  # int64 [B], -1 = none
    rows: torch.Tensor  # int64 [B], row numbers: with `epochs`, the key of all random choices for these images
    epochs: torch.Tensor  # int64 [B]; in a balanced order, the pass over the rows of a class

    def to(self, device: torch.device | str) -> "Batch":
        """Copies pixels and labels to the device. If they are pinned, the copy overlaps with the device's work.

        The others stay on the CPU, where random numbers are computed, so that nothing waits for the device.
        """
        pixels, labels = (value.to(device, non_blocking=True) for value in (self.pixels, self.labels))
        return replace(self, pixels=pixels, labels=labels)

    def pin(self) -> "Batch":
        return replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory())


@dataclass(frozen=True)
class View:
    """The form of the pixels in a batch, independent of the file's patch size, resolution and fit."""

    form: Literal["patches", "images"] = "patches"
    patch: int | None = None  # the default is that of the file
    res: tuple[int, int] | None = None  # height and width; the default is that of the file
    eval_crop: EvalCrop = SHORT_SIDE  # where no random crop is taken

    def __post_init__(self) -> None:
        one_of("view.form", self.form, ("patches", "images"))
        at_least("view.patch", self.patch, 1)


class Loader:
    """`for batch in Loader(split, 256).stream(step)` yields batches from that step on, without end."""

    def __init__(
        self,
        split: Split,
        batch: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        view: View | None = None,
        crop: Augment | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        ahead: int = 3,
        order: BalancedOrder | None = None,
    ) -> None:
        if batch < 1 or batch % world:
            raise ConfigError(f"batch is {batch}; with {world} ranks, it must be a multiple of {world}")
        if not 0 <= rank < world:
            raise ConfigError(f"rank is {rank}; it must be 0 to {world - 1}")
        if ahead < 1:
            raise ConfigError(f"ahead is {ahead}; it must be at least 1")
        if not split.rows:
            raise DataError(f"split {split.name} is empty")
        self.split, self.batch, self.seed, self.shuffle, self.ahead = split, batch, seed, shuffle, ahead
        self.rank, self.share, self.order = rank, batch // world, order
        self.device = torch.device(device)
        self.crop = crop  # of whole images; of others, the batch is cropped later, on the device
        self.decodes = split.encoded and split.header.is_whole and can_decode(self.device)  # on the device
        self.view = view or View()
        self.res: tuple[int, int] = self.view.res or (split.geometry.height, split.geometry.width)
        self.outer = self.view.eval_crop.outer_size(*self.res)  # before the center is taken
        self.patch = self.view.patch or split.geometry.patch
        if self.view.form == "patches":
            check_grid(*self.res, self.patch)

    @property
    def steps(self) -> float:
        """Steps per epoch. If it is a fraction, some batches begin in one epoch and end in the next."""
        return self.split.rows / self.batch

    def at(self, step: int) -> Batch:
        """This rank's share of the global batch of a step."""
        return self.fetch(*self.keys(step))

    def keys(self, step: int) -> tuple[Ints, Ints]:
        """Row and epoch of each sample in this rank's share, int64 [B] each."""
        start = step * self.batch + self.rank * self.share
        positions = np.arange(start, start + self.share)
        return self.order.at(positions) if self.order else at(positions, self.split.rows, self.seed, self.shuffle)

    def stream(self, first: int = 0) -> Iterator[Batch]:
        """The batches of steps `first`, first + 1, ... without end."""
        steps = count(first)
        with Ahead(self) as queue:
            while True:
                while len(queue) < self.ahead:
                    queue.put(*self.keys(next(steps)))
                yield queue.get()

    def once(self) -> Iterator[Batch]:
        """Every row once, in the order of the file. Each rank yields its share; the last may be short."""
        with Ahead(self) as queue:
            for start in range(self.rank * self.share, self.split.rows, self.batch):
                rows = np.arange(start, min(start + self.share, self.split.rows))
                queue.put(rows, np.zeros_like(rows))
                if len(queue) == self.ahead:
                    yield queue.get()
            while len(queue):
                yield queue.get()

    def fetch(self, rows: Ints, epochs: Ints) -> Batch:
        return self.ready(self.gather(rows, epochs))

    def gather(self, rows: Ints, epochs: Ints) -> Batch:
        """Reads a batch in a thread, which computes alone: more threads would compete with those that train."""
        labels = torch.from_numpy(self.split.labels(rows))
        batch = Batch(self.read(rows, epochs), labels, torch.from_numpy(rows), torch.from_numpy(epochs))
        if self.device.type == "cpu":
            return batch
        batch = replace(batch, pixels=self.shape_images(batch.pixels))
        return batch.pin() if self.device.type == "cuda" and not self.decodes else batch

    def read(self, rows: Ints, epochs: Ints) -> torch.Tensor:
        """uint8: patches as they are stored, decoded images, or the frames of whole images."""
        split, shape = self.split, self.split.geometry
        if not split.header.is_whole:
            return torch.from_numpy(split.images(rows, self.outer) if split.encoded else split.patches(rows))
        sizes, stored = split.sizes(rows), (shape.height, shape.width)
        if self.crop:
            frames = self.crop.frames(rows, epochs, sizes, stored)
        else:
            frames = frame_centers(sizes, stored, self.res, self.view.eval_crop)
        return cut_on_device(split, rows, frames, self.device) if self.decodes else cut_frames(split, rows, frames)

    def ready(self, batch: Batch) -> Batch:
        """Finishes a batch from `gather` in the calling thread: on the device, in the form of the view."""
        if self.device.type != "cpu":
            return batch.to(self.device)
        return replace(batch, pixels=self.shape_images(batch.pixels))

    def shape_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """What `read` returns, patches [B, N, P*P*C] or images, in the form of the view."""
        shape = self.split.geometry
        if pixels.ndim == 3:
            same_res = self.outer == self.res == (shape.height, shape.width)
            if self.view.form == "patches" and same_res and self.patch == shape.patch:
                return pixels
            pixels = unpatchify_images(pixels, shape.height, shape.width, shape.patch)
        if not self.split.header.is_whole:
            pixels = take_center(pixels, self.res, self.view.eval_crop)
        return pixels if self.view.form == "images" else patchify_images(pixels, self.patch)


def load_images(split: Split, rows: Ints, res: tuple[int, int] | None = None) -> np.ndarray[Any, Any]:
    """uint8 [B, H, W, C]: these rows as a model sees them, at `res` or at the stored resolution."""
    loader = Loader(split, len(rows), view=View("images", res=res), shuffle=False)
    return loader.fetch(rows, np.zeros_like(rows)).pixels.numpy()


def take_center(images: torch.Tensor, res: tuple[int, int], crop: EvalCrop) -> torch.Tensor:
    """uint8 [B, H, W, C], which fit the model's shape already, to [B, *res, C], or with the border."""
    outer, (height, width) = crop.outer_size(*res), crop.result_size(*res)
    if tuple(images.shape[1:3]) != outer:
        images = resize_images(images, *outer, crop.filter)
    top, left = centers_of(np.array(outer), res, crop).tolist()
    return images[:, top : top + height, left : left + width]


def resize_images(images: torch.Tensor, height: int, width: int, mode: str = "bicubic") -> torch.Tensor:
    """uint8 [B, H, W, C] to [B, height, width, C], antialiased as in the patchifier."""
    batch = images.permute(0, 3, 1, 2)
    return F.interpolate(batch, size=(height, width), mode=mode, antialias=True).permute(0, 2, 3, 1)


class Ahead:
    """Fetches the next batches in threads. NumPy releases the interpreter lock while it copies from the mapped file."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.pool = ThreadPoolExecutor(min(loader.ahead, cores()), "vitctl-loader", compute_alone)
        self.futures: deque[Future[Batch]] = deque()

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def __len__(self) -> int:
        return len(self.futures)

    def put(self, rows: Ints, epochs: Ints) -> None:
        self.futures.append(self.pool.submit(self.loader.gather, rows, epochs))

    def get(self) -> Batch:
        return self.loader.ready(self.futures.popleft().result())
