import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from vitctl.config.augment import augmentation
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.augmentation.augment import Augment
from vitctl.data.balance import BalancedOrder
from vitctl.data.cuts import can_decode, cut_frames, cut_on_device
from vitctl.data.loader import Batch, Loader, View
from vitctl.errors import ConfigError, DataError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.patch_format import DIGEST, Geometry, Header, Notes, Sampled
from vitctl.io.patch_writer import SplitContent, write_index, write_skeleton
from vitctl.models.input import normalize
from vitctl.patches import patchify_images, unpatchify_images
from vitctl.workflows.patchify import patchify

ROWS = 37
GEOMETRY = Geometry(4, 16, 24, 3)


def write(path: Path, rows: int = ROWS, seed: int = 0) -> np.ndarray[Any, Any]:
    """A patch file of random images; returns them as [M, H, W, C]."""
    images = np.random.default_rng(seed).integers(0, 256, (rows, 16, 24, 3), dtype=np.uint8)
    names, digests = np.array([b"n"] * rows), np.zeros((rows, DIGEST), np.uint8)
    split = SplitContent(rows, rows, np.arange(rows), names, digests, np.ones((rows, 2), np.int32))
    header = Header(GEOMETRY, tuple(map(str, range(ROWS))), "crop", "", "", "", "", Sampled(0, (0,) * 3, (0,) * 3))
    extents = write_skeleton(path, header, {"train": split}, Notes())
    with open(path, "r+b") as file:
        file.seek(extents["train"].offset)
        file.write(patchify_images(images, 4).tobytes())
    return images


@pytest.fixture
def images(tmp_path: Path) -> np.ndarray[Any, Any]:
    return write(tmp_path / "a.h5")


@pytest.fixture
def split(tmp_path: Path, images: np.ndarray[Any, Any]) -> Any:
    return PatchFile(tmp_path / "a.h5").split("train")


def take(loader: Loader, count: int, first: int = 0) -> list[Batch]:
    stream = loader.stream(first)
    return [next(stream) for _ in range(count)]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_batches_are_the_rows_that_they_name(split: Any, images: np.ndarray[Any, Any]) -> None:
    for batch in take(Loader(split, 8), 10):
        assert np.array_equal(batch.pixels.numpy(), patchify_images(images[batch.rows], 4))
        assert torch.equal(batch.labels, batch.rows)


def test_every_epoch_holds_every_row_once_though_batches_cross_it(split: Any) -> None:
    batches = take(Loader(split, 8), ROWS)  # 8 whole epochs
    rows, epochs = torch.cat([batch.rows for batch in batches]), torch.cat([batch.epochs for batch in batches])
    for epoch in range(8):
        assert rows[epochs == epoch].sort().values.tolist() == list(range(ROWS))


def test_a_batch_larger_than_the_split_takes_several_epochs(split: Any) -> None:
    batch = take(Loader(split, 3 * ROWS), 1)[0]
    assert batch.epochs.unique().tolist() == [0, 1, 2]
    assert batch.rows.bincount().tolist() == [3] * ROWS


def test_resuming_at_a_step_is_the_same_stream(split: Any) -> None:
    whole = take(Loader(split, 8, seed=5), 12)
    assert all(map(same, whole[7:], take(Loader(split, 8, seed=5), 5, first=7)))
    assert not same(whole[0], take(Loader(split, 8, seed=6), 1)[0])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_same_global_batches(split: Any, world: int) -> None:
    alone = take(Loader(split, 8), 6)
    shares = [take(Loader(split, 8, rank=rank, world=world), 6) for rank in range(world)]
    for step, batch in enumerate(alone):
        assert torch.equal(batch.rows, torch.cat([share[step].rows for share in shares]))
        assert torch.equal(batch.pixels, torch.cat([share[step].pixels for share in shares]))


@pytest.mark.parametrize("balance", ["sqrt", "full"])
def test_a_balanced_order_is_the_same_on_ranks_after_a_resume_and_in_other_batches(split: Any, balance: Any) -> None:
    order = BalancedOrder(np.arange(ROWS) // 12, 4, balance, 5)
    alone = take(Loader(split, 8, order=order), 12)
    for world in (2, 4):
        shares = [take(Loader(split, 8, rank=rank, world=world, order=order), 5, first=7) for rank in range(world)]
        for step, batch in enumerate(alone[7:]):
            for name in ("rows", "epochs", "pixels"):
                parts = [getattr(share[step], name) for share in shares]
                assert torch.equal(getattr(batch, name), torch.cat(parts))
    rows = torch.cat([batch.rows for batch in take(Loader(split, 12, order=order), 8)])
    assert torch.equal(rows, torch.cat([batch.rows for batch in alone]))


@pytest.mark.parametrize("world", [1, 3])
def test_once_is_every_row_once(split: Any, world: int) -> None:
    rows = [batch.rows for rank in range(world) for batch in Loader(split, 6, rank=rank, world=world).once()]
    assert torch.cat(rows).sort().values.tolist() == list(range(ROWS))


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_any_patch_size_leaves_the_file(split: Any, images: np.ndarray[Any, Any], patch: int) -> None:
    batch = take(Loader(split, 5, view=View(patch=patch)), 1)[0]
    assert np.array_equal(batch.pixels.numpy(), patchify_images(images[batch.rows], patch))


def test_images_leave_the_file(split: Any, images: np.ndarray[Any, Any]) -> None:
    batch = take(Loader(split, 5, view=View("images")), 1)[0]
    assert np.array_equal(batch.pixels.numpy(), images[batch.rows])


@pytest.mark.parametrize("res", [(8, 8), (32, 48)])
def test_any_resolution_leaves_the_file(split: Any, images: np.ndarray[Any, Any], res: tuple[int, int]) -> None:
    batch = take(Loader(split, 5, view=View(patch=8, res=res)), 1)[0]
    pixels = unpatchify_images(batch.pixels, *res, 8).numpy().astype(int)
    expected = [
        np.asarray(Image.fromarray(images[row]).resize(res[::-1], Image.Resampling.BICUBIC)) for row in batch.rows
    ]
    assert np.abs(pixels - np.array(expected).astype(int)).max() <= 1


def test_a_patch_that_does_not_divide_is_an_error_before_the_first_batch(split: Any) -> None:
    with pytest.raises(ConfigError, match="do not divide"):
        Loader(split, 4, view=View(patch=16))


def test_invalid_batches_and_empty_splits_are_errors(split: Any) -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        Loader(split, 8, world=3)
    empty = type(split)("val", [], split.header)
    with pytest.raises(DataError, match="val is empty"):
        Loader(empty, 8)


def test_shards_read_like_one_file(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"s{number}.h5", rows, seed=number) for number, rows in enumerate((11, 20, 6))]
    paths = [tmp_path / f"s{number}.h5" for number in range(3)]
    write_index(tmp_path / "i.h5", paths, PatchFile(paths[0]).header, Notes())
    images = np.concatenate(parts)
    for batch in take(Loader(PatchFile(tmp_path / "i.h5").split("train"), 8), 6):
        assert np.array_equal(batch.pixels.numpy(), patchify_images(images[batch.rows], 4))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_loader_that_was_used_serves_other_processes(split: Any, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    loader, rows = Loader(split, 8), np.array([3, 30, 7])
    expected = loader.split.patches(rows)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        sent = pickle.loads(pickle.dumps(loader))
        assert np.array_equal(pool.submit(sent.split.patches, rows).result(), expected)


def test_a_stream_that_is_left_stops_its_threads(split: Any) -> None:
    stream = Loader(split, 8).stream()
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vitctl-loader")]


@pytest.mark.parametrize(("mean", "std"), [((0.5,) * 3, (0.5,) * 3), ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))])
def test_normalized_is_what_torchvision_does(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    from torchvision.transforms.v2 import functional

    images = torch.randint(0, 256, (4, 8, 12, 3), dtype=torch.uint8)
    expected = functional.normalize(images.permute(0, 3, 1, 2).float() / 255, list(mean), list(std)).permute(0, 2, 3, 1)
    assert torch.allclose(normalize(images, mean, std), expected, atol=1e-6)
    assert torch.allclose(normalize(patchify_images(images, 4), mean, std), patchify_images(expected, 4), atol=1e-6)


def test_the_next_batches_are_fetched_while_one_is_used(split: Any) -> None:
    loader = Loader(split, 8, ahead=3)
    fetched = threading.Semaphore(0)
    real = loader.gather

    def gathered(*keys: Any) -> Batch:
        fetched.release()
        return real(*keys)

    loader.gather = gathered  # type: ignore[method-assign]
    stream = loader.stream()
    next(stream)
    for _ in range(3):
        assert fetched.acquire(timeout=30)
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rank", "world", "ahead"), [(2, 2, 3), (-1, 2, 3), (0, 1, 0)])
def test_ranks_and_depths_out_of_range_are_errors(split: Any, rank: int, world: int, ahead: int) -> None:
    with pytest.raises(ConfigError):
        Loader(split, 8, rank=rank, world=world, ahead=ahead)


def test_views_out_of_range_are_errors() -> None:
    with pytest.raises(ConfigError, match="did you mean 'images'"):
        View("image")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"view\.patch is 0"):
        View(patch=0)


def test_a_mask_is_not_taken_for_numbers(split: Any) -> None:
    with pytest.raises(TypeError, match=r"np\.flatnonzero"):
        split.patches(np.array([True, False]))


def compressed(path: Path) -> None:
    """The same file with its patches in chunks."""
    with h5py.File(path, "r+") as file:
        values = file["train/patches"][()]
        del file["train/patches"]
        file["train"].create_dataset("patches", data=values, chunks=(1, *values.shape[1:]), compression="gzip")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("label", [10**6, -2, -1])
def test_labels_that_are_overwritten_while_they_are_read_are_an_error(
    split: Any, tmp_path: Path, packed: bool, label: int
) -> None:
    if packed:
        compressed(tmp_path / "a.h5")
    split = PatchFile(tmp_path / "a.h5").split("train")
    split.lowest_label = 0  # as where a run begins
    stream = Loader(split, 8).stream()
    next(stream)
    with open(tmp_path / "a.h5", "r+b") as file:
        file.seek(split.segments[0].place("labels").offset)
        np.full(ROWS, label).tofile(file)
    with pytest.raises(DataError, match=rf"a\.h5, train: has the label {label}, which is not one of its classes"):
        for _ in range(10):
            next(stream)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
def test_a_file_that_is_cut_while_it_is_read_is_an_error(split: Any, tmp_path: Path, packed: bool) -> None:
    if packed:
        compressed(tmp_path / "a.h5")
    stream = Loader(PatchFile(tmp_path / "a.h5").split("train"), 8, ahead=1).stream()  # nothing is read meanwhile
    next(stream)
    os.truncate(tmp_path / "a.h5", (tmp_path / "a.h5").stat().st_size // 2)
    with pytest.raises(DataError, match=r"a\.h5: was truncated while it was being read"):
        for _ in range(10):
            next(stream)


# --- whole images ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["raw", "jpeg"])
def whole(folder: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Split:
    """Wide images of 96x80 pixels, stored whole at 64x64."""
    source = folder({"train/cat": 9, "train/dog": 9}, scale=2)
    config = PatchifyConfig(source=str(source), out=str(tmp_path / "whole.h5"), res=Res(64), codec=request.param)
    patchify(config)
    return PatchFile(tmp_path / "whole.h5").split("train")


def test_the_view_of_whole_images_is_their_center_in_true_shape(whole: Split) -> None:
    """Patches of any size and images at any resolution are those of the centers; the originals are 80 high, 96 wide."""
    squashed = whole.images(np.arange(18))
    assert whole.sizes().tolist() == [[80, 96]] * 18
    for res in (32, 64):
        images = next(iter(Loader(whole, 18, view=View("images", res=(res, res)), shuffle=False).once())).pixels
        patches = next(iter(Loader(whole, 18, view=View("patches", 8, (res, res)), shuffle=False).once())).pixels
        assert torch.equal(patches, patchify_images(images, 8))
        for image, pixels in zip(images.numpy(), squashed, strict=True):
            restored = Image.fromarray(pixels).resize((96, 80), Image.Resampling.BICUBIC).crop((8, 0, 88, 80))
            expected = np.asarray(restored.resize((res, res), Image.Resampling.BICUBIC)).astype(int)
            assert np.abs(image.astype(int) - expected).mean() < 8


def test_crops_of_whole_images_do_not_depend_on_batch_ranks_or_step(whole: Split) -> None:
    augment = Augment(augmentation("inception"), 3, (24, 24))

    def crops(batch: int, **more: Any) -> dict[tuple[int, int], torch.Tensor]:
        loader = Loader(whole, batch, seed=3, view=View("images", res=(24, 24)), crop=augment, **more)
        batches = take(loader, 36 // batch)
        return {
            (row, epoch): pixels
            for each in batches
            for row, epoch, pixels in zip(each.rows.tolist(), each.epochs.tolist(), each.pixels, strict=True)
        }

    one = crops(6)
    assert len(one) == 36
    for other in (crops(9), crops(6, rank=0, world=2) | crops(6, rank=1, world=2)):
        assert other.keys() == one.keys()
        assert all(torch.equal(one[key], pixels) for key, pixels in other.items())
    assert not torch.equal(one[0, 0], one[0, 1])  # another epoch, another crop


def test_what_a_device_decodes_is_cut_as_on_the_cpu(whole: Split) -> None:
    """With the CPU as the device: CUDA runs the same lines with its own decoder."""
    if not whole.encoded:
        pytest.skip("raw rows need no decoder")
    rows = np.array([3, 0, 17, 3])
    augment = Augment(augmentation("inception"), 3, (48, 48))
    frames = augment.frames(rows, np.arange(4), whole.sizes(rows), (64, 64))
    assert (frames.divisors((64, 64)) == 1).all()
    assert torch.equal(cut_on_device(whole, rows, frames, torch.device("cpu")), cut_frames(whole, rows, frames))
    assert not can_decode(torch.device("cpu"))
