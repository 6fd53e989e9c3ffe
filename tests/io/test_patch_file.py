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
    RowCodec,
    SplitContent,
    filter_options,
    row_extents,
    write_compressed,
    write_index,
    write_skeleton,
)

GEOMETRY = Geometry(patch=4, height=8, width=12, channels=3)


def header(geometry: Geometry = GEOMETRY, classes: tuple[str, ...] = ("cat", "dög")) -> Header:
    sampled = Sampled(2, (255,) * geometry.channels, (65025,) * geometry.channels)
    return Header(geometry, classes, "crop", "somewhere", "vitctl test", "options", "plan", sampled)


def rows(count: int, geometry: Geometry = GEOMETRY, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, geometry.count, geometry.values), dtype=np.uint8)


def content(values: np.ndarray[Any, Any], capacity: int | None = None) -> SplitContent:
    names = np.array([f"cat/{number}.png".encode() for number in range(len(values))], "S12")
    digests = np.array([np.frombuffer(image_digest(row), np.uint8) for row in values]).reshape(-1, DIGEST)
    return SplitContent(capacity or len(values), len(values), np.arange(len(values)) % 2, names, digests)


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
    packer = RowCodec(GEOMETRY, codec, 4)
    chunks = {"train": iter([packer.encode(row) for row in values])}
    write_compressed(tmp_path / "z.h5", header(), {"train": content(values)}, Notes(), chunks, filter_options(codec, 4))
    file = PatchFile(tmp_path / "z.h5")
    order = np.array([5, 0, 3, 3])
    assert np.array_equal(file.split("train").patches(order), values[order])
    assert file.digest == write(tmp_path / "p.h5", {"train": values}).digest


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
        file.attrs["version"] = 2
    with pytest.raises(DataError, match="patch file version 2, but this vitctl reads version 1; update vitctl, or"):
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
