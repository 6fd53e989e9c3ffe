import dataclasses
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitctl.errors import DataError
from vitctl.io.patch_file import PatchFile
from vitctl.io.patch_format import DIGEST, Geometry, Header, Notes, Sampled, image_digest
from vitctl.io.patch_writer import (
    EncodedRows,
    RowEncoder,
    SplitContent,
    row_extents,
    write_encoded,
    write_index,
    write_skeleton,
)
from vitctl.io.subset import Subset
from vitctl.patches import patchify_images

GEOMETRY = Geometry(patch=4, height=8, width=12, channels=3)


def header(geometry: Geometry = GEOMETRY, classes: tuple[str, ...] = ("cat", "dög"), **more: str) -> Header:
    sampled = Sampled(2, (255,) * geometry.channels, (65025,) * geometry.channels)
    whole = Header(geometry, classes, "crop", "somewhere", "vitctl test", "options", "plan", sampled)
    return dataclasses.replace(whole, **more)


def encoded_rows(content: list[bytes]) -> EncodedRows:
    return EncodedRows(np.array([len(each) for each in content]), iter(content))


def rows(count: int, geometry: Geometry = GEOMETRY, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, geometry.count, geometry.values), dtype=np.uint8)


def content(values: np.ndarray[Any, Any], capacity: int | None = None) -> SplitContent:
    names = np.array([f"cat/{number}.png".encode() for number in range(len(values))], "S12")
    digests = np.array([np.frombuffer(image_digest(row), np.uint8) for row in values]).reshape(-1, DIGEST)
    sizes = np.tile(np.array([30, 40], np.int32), (len(values), 1))
    return SplitContent(capacity or len(values), len(values), np.arange(len(values)) % 2, names, digests, sizes)


def write(path: Path, splits: dict[str, np.ndarray[Any, Any]], notes: Notes | None = None) -> PatchFile:
    """A plain patch file: a skeleton, and the rows written to the extents that it returns."""
    contents = {name: content(values) for name, values in splits.items()}
    extents = write_skeleton(path, header(), contents, notes or Notes())
    with open(path, "r+b") as file:
        for name, values in splits.items():
            file.seek(extents[name].offset)
            file.write(values.tobytes())
    return PatchFile(path)


def test_a_file_round_trips(tmp_path: Path) -> None:
    values = {"train": rows(7), "val": rows(3, seed=1)}
    file = write(tmp_path / "a.h5", values, Notes([("bad.png", "truncated file")], [("val", "x", "train", "y")]))
    assert list(file.splits) == ["train", "val"]
    for name, expected in values.items():
        split = file.split(name)
        order = np.random.default_rng(2).permutation(len(expected))
        assert np.array_equal(split.patches(order), expected[order])
        assert split.labels(order).tolist() == (order % 2).tolist()
        assert split.names(order[:2]) == [f"cat/{number}.png" for number in order[:2]]
        assert split.digests().tobytes() == b"".join(image_digest(row) for row in expected)
    images = file.split("train").images(np.array([3]))
    assert images.shape == (1, 8, 12, 3)
    assert np.array_equal(images[0, :4, :4].reshape(-1), values["train"][3, 0])
    assert file.class_names == ("cat", "dög")
    assert file.rejects() == [("bad.png", "truncated file")]
    assert file.leaks() == [("val", "x", "train", "y")]


def test_other_tools_read_it_as_plain_hdf5(tmp_path: Path) -> None:
    values = rows(5)
    write(tmp_path / "a.h5", {"train": values})
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["train/patches"][2:4], values[2:4])
        assert file["train/names"].asstr()[1] == "cat/1.png"
        assert file["class_names"].asstr()[:].tolist() == ["cat", "dög"]
        assert file.attrs["format"] == "vitctl.patches"
        assert {"version", "patch", "height", "width", "channels", "mean", "std", "fit", "source", "created_by"} <= set(
            file.attrs
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rows_are_where_planned_however_many_were_rejected(tmp_path: Path, data: st.DataObject) -> None:
    patch = data.draw(st.integers(1, 16))
    shape = Geometry(
        patch,
        patch * data.draw(st.integers(1, 8)),
        patch * data.draw(st.integers(1, 8)),
        data.draw(st.sampled_from([1, 3])),
    )
    planned = {
        name: data.draw(st.integers(1, 300)) for name in ("train", "val", "test")[: data.draw(st.integers(1, 3))]
    }
    expected = row_extents(tmp_path, shape, planned)
    ends = [extent.offset + extent.size for extent in expected.values()]
    assert all(end <= extent.offset for end, extent in zip(ends, list(expected.values())[1:], strict=False))
    contents = {}
    for name, count in planned.items():
        rows_left = data.draw(st.integers(1, count))
        contents[name] = SplitContent(
            count,
            rows_left,
            np.zeros(rows_left, np.int64),
            np.array([b"n"] * rows_left),
            np.zeros((rows_left, DIGEST), np.uint8),
            np.ones((rows_left, 2), np.int32),
        )
    extents = write_skeleton(
        tmp_path / "s.h5", header(shape), contents, Notes([("name", "reason")] * data.draw(st.integers(0, 40)))
    )
    assert {name: extent.offset for name, extent in extents.items()} == {
        name: extent.offset for name, extent in expected.items()
    }
    assert {name: PatchFile(tmp_path / "s.h5").split(name).rows for name in planned} == {
        name: each.rows for name, each in contents.items()
    }


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.h5", {"train": rows(5), "val": rows(2)}, Notes([("x", "y")]))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_the_digest_depends_on_every_part_of_the_content(tmp_path: Path) -> None:
    digest = write(tmp_path / "a.h5", {"train": rows(5)}).digest
    others = [write(tmp_path / "b.h5", {"train": rows(5, seed=3)}), write(tmp_path / "c.h5", {"val": rows(5)})]
    assert len({digest, *(other.digest for other in others)}) == 3
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        assert file.attrs["digest"] == PatchFile(tmp_path / "a.h5").compute_digest()
        file["train/labels"][0] = 1
    assert PatchFile(tmp_path / "a.h5").compute_digest() != digest


@pytest.mark.parametrize("codec", ["gzip", "lzf", "zstd", "lz4"])
def test_compressed_rows_round_trip_with_the_digest_of_the_plain_file(tmp_path: Path, codec: str) -> None:
    values = np.concatenate([rows(3) // 64, rows(3)])  # rows that shrink, and noise that does not
    encoder = RowEncoder(GEOMETRY, codec, 4, 95)
    chunks = encoded_rows([encoder.encode(row) for row in values])
    write_encoded(tmp_path / "z.h5", header(codec=codec), {"train": content(values)}, Notes(), {"train": chunks}, 4)
    file = PatchFile(tmp_path / "z.h5")
    order = np.array([5, 0, 3, 3])
    assert np.array_equal(file.split("train").patches(order), values[order])
    assert file.digest == write(tmp_path / "p.h5", {"train": values}).digest


JPEG = Geometry(patch=16, height=64, width=48, channels=3)


def smooth(count: int, geometry: Geometry = JPEG) -> np.ndarray[Any, Any]:
    """Images [count, H, W, C] that JPEG keeps almost as they are."""
    ramp = np.add.outer(np.arange(geometry.height), np.arange(geometry.width))
    start = np.arange(count)[:, None, None, None] * 20 + np.arange(geometry.channels) * 9
    return (ramp[None, :, :, None] + start).clip(0, 255).astype(np.uint8)


def write_jpeg_file(path: Path, images: np.ndarray[Any, Any], geometry: Geometry = JPEG) -> PatchFile:
    encoder = RowEncoder(geometry, "jpeg", 4, 95)
    contents = [encoder.encode(patchify_images(image, geometry.patch)) for image in images]
    values = rows(len(images), geometry)
    write_encoded(path, header(geometry, codec="jpeg"), {"train": content(values)}, Notes(),
                  {"train": encoded_rows(contents)}, 4)  # fmt: skip
    return PatchFile(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_of_jpeg_decodes_to_one_stored_image(tmp_path: Path, channels: int) -> None:
    geometry = dataclasses.replace(JPEG, channels=channels)
    images = smooth(5, geometry)
    file = write_jpeg_file(tmp_path / "a.h5", images, geometry)
    split, order = file.split("train"), np.array([4, 0, 2, 2])
    assert file.codec == "jpeg"
    decoded = split.images(order)
    assert np.abs(decoded.astype(int) - images[order]).max() <= 4
    assert np.array_equal(split.patches(order), patchify_images(decoded, 16))
    half = split.images(order, (32, 20))
    assert half.shape == (4, 32, 24, channels)
    assert np.abs(half.astype(int) - images[order, 1::2, 1::2]).max() <= 6
    assert split.images(order, (33, 20)).shape == (4, 64, 48, channels)
    subset = Subset(split, np.array([3, 1]), "part")
    assert np.array_equal(subset.images(np.array([1])), split.images(np.array([1])))


def test_an_index_over_jpegs_reads_like_one_file(tmp_path: Path) -> None:
    images = smooth(9)
    paths = [tmp_path / f"s-{number}.h5" for number in range(3)]
    for path, part in zip(paths, np.split(images, [2, 7]), strict=True):
        write_jpeg_file(path, part)
    write_index(tmp_path / "index.h5", paths, header(JPEG, codec="jpeg"), Notes())
    split, one = PatchFile(tmp_path / "index.h5").split("train"), write_jpeg_file(tmp_path / "one.h5", images)
    order = np.array([8, 0, 2, 6, 7, 1])
    assert np.array_equal(split.images(order), one.split("train").images(order))
    with h5py.File(tmp_path / "index.h5") as index, h5py.File(tmp_path / "one.h5") as whole:
        assert np.array_equal(index["train/starts"], whole["train/starts"])
        assert np.array_equal(index["train/encoded"], whole["train/encoded"])


@pytest.mark.parametrize(
    ("starts", "message"),
    [([0, 5], "starts has 2 numbers for 3 rows"), ([0, 9, 4, 20], "has damaged images"), ([0, 1, 2, 10**9], "damaged")],
)
def test_jpeg_rows_outside_of_the_file_are_damage(tmp_path: Path, starts: list[int], message: str) -> None:
    write_jpeg_file(tmp_path / "a.h5", smooth(3))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["train/starts"]
        file["train/starts"] = np.array(starts)
    with pytest.raises(DataError, match=message):
        PatchFile(tmp_path / "a.h5").split("train").images(np.arange(3))


def test_a_jpeg_of_another_size_is_damage(tmp_path: Path) -> None:
    file = write_jpeg_file(tmp_path / "a.h5", smooth(3))
    start, end = file.split("train").segments[0].column("starts")[1:3].tolist()
    other = RowEncoder(dataclasses.replace(JPEG, width=16), "jpeg", 4, 50).encode(
        rows(1, dataclasses.replace(JPEG, width=16))[0] // 64
    )
    assert len(other) <= end - start
    with h5py.File(tmp_path / "a.h5", "r+") as opened:
        opened["train/encoded"][start : start + len(other)] = np.frombuffer(other, np.uint8)
    split = PatchFile(tmp_path / "a.h5").split("train")
    split.images(np.array([0, 2]))
    with pytest.raises(DataError, match="has damaged images"):
        split.images(np.array([1]))


def test_whole_images_have_the_sizes_of_their_originals(tmp_path: Path) -> None:
    values = {"train": rows(3)}
    assert write(tmp_path / "a.h5", values).split("train").sizes(np.array([1])).tolist() == [[8, 12]]
    contents = {"train": content(values["train"])}
    write_skeleton(tmp_path / "b.h5", header(fit="whole"), contents, Notes())
    assert PatchFile(tmp_path / "b.h5").split("train").sizes().tolist() == [[30, 40]] * 3


def test_sets_and_numbers_of_labels_round_trip(tmp_path: Path) -> None:
    sets = np.array([[1, 0], [0, 0], [1, 1]], np.uint8)
    packed, numbers = np.packbits(sets, axis=1, bitorder="little"), np.array([0.5, np.nan, -3.0])
    plain = content(rows(3))
    for name, part in (
        ("sets", dataclasses.replace(plain, labels=np.array([0, -2, 0]), label_sets=packed)),
        ("numbers", dataclasses.replace(plain, labels=np.full(3, -1), targets=numbers)),
    ):
        write_skeleton(tmp_path / f"{name}.h5", header(task=name), {"train": part}, Notes())
    split = PatchFile(tmp_path / "sets.h5").split("train")
    assert split.label_sets(np.array([2, 1])).tolist() == [[1, 1], [0, 0]]
    assert split.labels().tolist() == [0, -2, 0]
    assert np.array_equal(PatchFile(tmp_path / "numbers.h5").split("train").targets(), numbers, equal_nan=True)


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    sparse(tmp_path / "a.h5", 5)
    file = PatchFile(tmp_path / "a.h5")
    assert (file.codec, file.header.task, file.header.is_whole) == ("raw", "classes", False)
    assert file.split("train").sizes().tolist() == [[8, 12]] * 5
    assert file.split("train").images(np.array([1])).shape == (1, 8, 12, 3)


def shards(tmp_path: Path, counts: list[int]) -> tuple[PatchFile, np.ndarray[Any, Any]]:
    values = [rows(count, seed=number) for number, count in enumerate(counts)]
    paths = [tmp_path / f"s-{number}.h5" for number in range(len(counts))]
    for path, part in zip(paths, values, strict=True):
        write(path, {"train": part})
    write_index(tmp_path / "index.h5", paths, header(), Notes())
    return PatchFile(tmp_path / "index.h5"), np.concatenate(values)


def test_an_index_reads_like_one_file(tmp_path: Path) -> None:
    file, values = shards(tmp_path, [3, 5, 1])
    split = file.split("train")
    order = np.array([8, 0, 2, 3, 7, 4, 4])
    assert split.rows == 9
    assert np.array_equal(split.patches(order), values[order])
    assert split.labels(order).tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert len(split.labels()) == 9
    with h5py.File(tmp_path / "index.h5") as plain:
        assert np.array_equal(plain["train/patches"][:], values)


def test_an_index_that_is_written_again_has_the_same_bytes(tmp_path: Path) -> None:
    file, _ = shards(tmp_path, [3, 5, 1])
    before = file.path.read_bytes()
    time.sleep(1.1)  # times are stored in seconds, where they are stored
    write_index(file.path, [tmp_path / f"s-{number}.h5" for number in range(3)], header(), Notes())
    assert file.path.read_bytes() == before


def test_a_shard_that_was_recreated_is_noticed(tmp_path: Path) -> None:
    file, _ = shards(tmp_path, [3, 5])
    write(tmp_path / "s-1.h5", {"train": rows(4)})
    with pytest.raises(DataError, match=r"s-1\.h5: split train does not match its index; recreate the index"):
        file.split("train").patches(np.array([4]))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    file, _ = shards(tmp_path, [3, 5])
    (tmp_path / "s-1.h5").unlink()
    assert len(file.split("train").patches(np.array([1]))) == 1
    with pytest.raises(DataError, match=r"s-1\.h5: no such file"):
        file.split("train").patches(np.array([4]))


def test_pickles_carry_no_pixels_and_forks_open_their_own(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", {"train": rows(200)})
    before = file.split("train").patches(np.array([7]))
    sent = pickle.dumps(file)
    assert len(sent) < 3000
    assert np.array_equal(pickle.loads(sent).split("train").patches(np.array([7])), before)


def test_rows_out_of_range_are_rejected(tmp_path: Path) -> None:
    split = write(tmp_path / "a.h5", {"train": rows(3)}).split("train")
    for row in (-1, 3):
        with pytest.raises(IndexError, match="row out of range: split train has 3 rows"):
            split.patches(np.array([row]))


def sparse(path: Path, count: int) -> None:
    """A sparse file of `count` rows of zeros, which takes no space."""
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {"format": "vitctl.patches", "version": 1, "patch": 4, "height": 8, "width": 12, "channels": 3}
        )
        file.attrs.update(dict.fromkeys(("fit", "source", "created_by", "options", "plan", "digest"), ""))
        file.attrs.update({"pixels": 0, "sums": [0] * 3, "squares": [0] * 3})
        file.attrs.update({"duplicates": 0, "leaked": 0})
        file.create_dataset("class_names", data=np.array(["a"], dtype=object), dtype=h5py.string_dtype())
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        for name, columns in (("rejects", 2), ("leaks", 4)):
            kind = np.dtype([(str(number), h5py.string_dtype()) for number in range(columns)])
            file.create_dataset(name, (0,), kind)
        group = file.create_group("train")
        group.create_dataset("patches", (count, 6, 48), np.uint8, dcpl=early)
        group.create_dataset("labels", (count,), np.int64, dcpl=early)


@pytest.mark.parametrize("count", [1_000, 1_000_000_000])
def test_a_billion_rows_open_like_a_thousand(tmp_path: Path, count: int) -> None:
    path = tmp_path / "sparse.h5"
    try:
        sparse(path, count)
    except OSError:
        pytest.skip("this file system has no sparse files of that size")
    split = PatchFile(path).split("train")
    assert split.rows == count
    assert split.patches(np.array([0, count - 1])).shape == (2, 6, 48)
    assert split.labels(np.array([count - 1])).tolist() == [0]
    if os.path.exists("/proc/self/statm"):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        assert pages * os.sysconf("SC_PAGE_SIZE") < 3 << 30  # resident, though 290 GB are mapped


DESCRIBED = """
from vitctl.workflows.info import describe

def peak():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
print(describe("sparse.h5").splits["train"].labelled, peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc/self/status")
def test_a_hundred_million_labels_are_counted_in_little_memory(tmp_path: Path) -> None:
    sparse(tmp_path / "sparse.h5", 10**8)
    done = subprocess.run([sys.executable, "-c", DESCRIBED], cwd=tmp_path, capture_output=True, text=True)
    labeled, megabytes = map(int, done.stdout.split())
    assert labeled == 10**8
    assert megabytes < 200  # all labels together take 800


def test_opening_an_index_does_not_open_its_shards(tmp_path: Path) -> None:
    """4,096 shards, of which one exists: the others are opened when their rows are read, and not before."""
    write(tmp_path / "s-0.h5", {"train": rows(2)})
    with h5py.File(tmp_path / "s-0.h5") as first, h5py.File(tmp_path / "many.h5", "w") as file:
        file.attrs.update(first.attrs)
        for name in ("class_names", "rejects", "leaks"):
            first.copy(name, file)
        names = [f"s-{number}.h5" for number in range(4096)]
        file.create_dataset("shards", data=np.array(names, dtype=object), dtype=h5py.string_dtype())
        file.create_group("train").create_dataset("shard_rows", data=np.full(4096, 2))
    started = time.perf_counter()
    split = PatchFile(tmp_path / "many.h5").split("train")
    print(f"opened in {time.perf_counter() - started:.3f} s")
    assert split.rows == 8192
    assert len(split.patches(np.array([1, 0]))) == 2
    with pytest.raises(DataError, match=r"s-4095\.h5: no such file"):
        split.patches(np.array([8191]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"not HDF5 at all"), "not an HDF5 file"),
        (lambda path: path.write_bytes(b""), "not an HDF5 file"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "truncated; recreate it with vitctl patchify"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: (path.unlink(), path.mkdir()), "a folder, not a patch file; create one with vitctl patchify"),
    ],
)
def test_other_files_give_one_line(tmp_path: Path, spoil: Any, message: str) -> None:
    path = tmp_path / "a.h5"
    write(path, {"train": rows(50)})
    spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        PatchFile(path)
    assert "\n" not in str(caught.value)


def test_another_version_and_another_format_are_rejected(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", {"train": rows(2)})
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["version"] = 3
    with pytest.raises(DataError, match="patch file version 3, but this vitctl reads version 2 and version 1; update"):
        PatchFile(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["format"] = "vitctl.features"
    with pytest.raises(DataError, match=r"not a patch file \(its format is 'vitctl\.features'\); create one with"):
        PatchFile(tmp_path / "a.h5")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_one_line_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """With flipped bits in HDF5's own structures, the file opens, or the error is one line."""
    path = tmp_path / "a.h5"
    write(path, {"train": rows(3)})
    whole = bytearray(path.read_bytes())
    places = [at for at in range(len(whole)) if at < 8192 or at > 65536 + 4096]
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.sampled_from(places))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    try:
        file = PatchFile(path)
        for split in file.splits.values():
            split.patches(np.arange(min(split.rows, 3)))
    except DataError as error:
        assert "\n" not in str(error)
