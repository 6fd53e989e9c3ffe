"""Damaged and hostile HDF5 files: every field of another type or shape, and every way to refer to another file."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vitctl.errors import DataError, InputError
from vitctl.io.feature_file import FEATURES, FeatureFile, Origin, Parts
from vitctl.io.patch_file import PatchFile
from vitctl.io.patch_format import DIGEST, PATCHES, Geometry, Header, Notes, Sampled, image_digest
from vitctl.io.patch_writer import SplitContent, write_index, write_skeleton
from vitctl.workflows.info import describe

ROWS = 5
HEADER = Header(Geometry(4, 8, 12, 3), ("cat", "dög"), "crop", "", "", "", "", Sampled(2, (255,) * 3, (65025,) * 3))
NOTES = Notes([("x", "why")], [("val", "x", "train", "y")])
ORIGIN = Origin("w", "d", "vit-mu/8", 1, "auto", 16, 16, "float32", "float32", ("cat", "dög"), (0.5,), (0.5,))


def write_patches(path: Path) -> None:
    """All images are black: the rows are left as holes in the file."""
    digest = np.frombuffer(image_digest(np.zeros((6, 48), np.uint8)), np.uint8)
    names, digests = np.array([b"cat/0.png"] * ROWS), np.tile(digest, (ROWS, 1))
    sizes, sets = np.ones((ROWS, 2), np.int32), np.zeros((ROWS, 1), np.uint8)
    part = SplitContent(ROWS, ROWS, np.arange(ROWS) % 2, names, digests, sizes, sets, np.zeros(ROWS))
    write_skeleton(path, HEADER, {"train": part, "val": part}, NOTES)
    with h5py.File(path, "r+") as file:  # columns that only files of JPEGs need
        file["train/encoded"], file["train/starts"] = np.zeros(9, np.uint8), np.zeros(ROWS + 1, np.int64)


def write_features(path: Path) -> None:
    parts = Parts(path, ORIGIN)
    parts.write("train", 0, np.ones((ROWS, 3), np.float32))
    parts.finish({"train": {"labels": np.arange(ROWS) % 2, "names": ["a.png"] * ROWS}}, "a test")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("patches.h5", "shard.h5"):
        write_patches(folder / name)
    write_index(folder / "index.h5", [folder / "shard.h5"], HEADER, NOTES)
    write_features(folder / "features.h5")
    return folder


def spoil_copy(whole: Path, tmp_path: Path, kind: str, spoil: Callable[[h5py.File], object]) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / f"{kind}.h5", "r+") as file:
        spoil(file)
    return tmp_path / f"{kind}.h5"


def read_error(path: Path, error: type[Exception] = DataError, verify: bool = True) -> str:
    """The error of `vitctl info --verify`, which reads the whole file."""
    with pytest.raises(error) as caught:
        describe(path, verify=verify)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    return message


OTHERS: dict[str, Callable[[Any], Any]] = {
    "missing": lambda value: None,
    "a scalar": lambda value: value.reshape(-1)[0],
    "an array": lambda value: value[None],
    "another axis": lambda value: value[None],
    "longer": lambda value: np.concatenate([value] * 2),
    "text or numbers": lambda value: np.full(value.shape, b"text", "S4") if value.dtype.kind in "iuf" else zeros(value),
    "not a number": lambda value: np.full(value.shape, np.nan),
    "complex": lambda value: np.zeros(value.shape, np.complex64),
    "truth values": lambda value: np.zeros(value.shape, bool),
    "nothing": lambda value: h5py.Empty("f4"),
    "a type": lambda value: np.dtype("f8"),
    "a group": lambda value: None,
}
SCALARS = {"a scalar", "another axis", "longer"}  # changes that do not apply to a single value
LISTS = {"an array"}
ANY_LENGTH = {"class_names", "rejects", "leaks", "train/encoded"}
UNUSED = {"train/encoded", "train/starts"}  # in a file of raw rows


def zeros(value: Any) -> Any:
    return np.zeros(value.shape, np.int64)


def cases() -> Iterator[tuple[str, str, str]]:
    """(kind of file, field, what it becomes) for every required field; the names of attributes begin with @."""
    for kind in ("patches", "index", "features"):
        form = FEATURES if kind == "features" else PATCHES
        root = {name: field for name, field in form.root.items() if kind == "index" or name != "shards"}
        split = dict(form.index if kind == "index" and form.index else form.split)
        if kind == "features":  # of single classes
            del split["label_sets"], split["targets"]
        fields = {f"@{name}": field for name, field in form.attributes.items()} | root
        for name, field in (fields | {f"train/{name}": field for name, field in split.items()}).items():
            unfit = LISTS if field.shape else SCALARS
            unfit = unfit | ({"a group", "a type"} if name.startswith("@") else set())
            unfit = unfit | ({"longer"} if name in ANY_LENGTH else set()) | ({"missing"} if name in UNUSED else set())
            yield from ((kind, name, how) for how in OTHERS if how not in unfit)


def replace(file: h5py.File, where: str, how: str) -> None:
    holder, name = (file.attrs, where[1:]) if where.startswith("@") else (file, where)
    before = np.asarray(holder[name] if where.startswith("@") else holder[name][()])
    value = OTHERS[how](np.array(before, object) if before.dtype.kind in "OU" else before)
    dtype = h5py.string_dtype() if before.dtype.kind in "OU" else before.dtype
    del holder[name]
    if how == "a group":
        holder.create_group(name)
    elif how in ("a scalar", "an array", "another axis", "longer") and where.startswith("@"):
        holder.create(name, value, dtype=dtype)
    elif how in ("a scalar", "an array", "another axis", "longer"):
        holder.create_dataset(name, data=value, dtype=dtype)
    elif how != "missing":
        holder[name] = value


@pytest.mark.parametrize(("kind", "field", "how"), list(cases()))
def test_a_field_of_another_type_or_shape_is_rejected(
    whole: Path, tmp_path: Path, kind: str, field: str, how: str
) -> None:
    read_error(spoil_copy(whole, tmp_path, kind, lambda file: replace(file, field, how)))


@pytest.mark.parametrize("name", ["patches", "index", "shard", "features"])
def test_intact_files_are_read(whole: Path, name: str) -> None:
    """Otherwise the rejections would prove nothing."""
    assert describe(whole / f"{name}.h5", verify=True).verified  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [-1, 0, 1 << 62])
@pytest.mark.parametrize("name", ["patch", "height", "width", "channels", "pixels", "duplicates", "leaked", "version"])
def test_numbers_out_of_range_are_read_or_give_one_line(whole: Path, tmp_path: Path, name: str, value: int) -> None:
    path = spoil_copy(whole, tmp_path, "patches", lambda file: file.attrs.modify(name, value))
    try:
        json.dumps(describe(path).__dict__, default=vars, allow_nan=False)
    except DataError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("sums", "squares"), [([-1] * 3, [1] * 3), ([255] * 3, [254] * 3), ([1] * 2, [1] * 2)])
def test_impossible_sums_are_rejected(whole: Path, tmp_path: Path, sums: list[int], squares: list[int]) -> None:
    def spoil(file: h5py.File) -> None:
        file.attrs.update({"sums": sums, "squares": squares})

    assert "damaged" in read_error(spoil_copy(whole, tmp_path, "patches", spoil))


def write_invalid_text(file: h5py.File, name: str) -> None:
    """Writes bytes that are not UTF-8 to an attribute or a list."""
    if name.startswith("@"):
        file.attrs.create(name[1:], np.bytes_(b"\xff\xfe"))
    else:
        del file[name]
        file.create_dataset(name, data=np.array([b"\xff\xfe", b"dog"], object), dtype=h5py.string_dtype())


@pytest.mark.parametrize("name", ["@fit", "@source", "@digest", "@created_by", "class_names"])
def test_text_must_be_utf_8(whole: Path, tmp_path: Path, name: str) -> None:
    assert "utf-8" in read_error(spoil_copy(whole, tmp_path, "patches", lambda file: write_invalid_text(file, name)))


@pytest.mark.parametrize("kind", ["patches", "features"])
@pytest.mark.parametrize("label", [2, -2, 10**6, -(1 << 63), (1 << 63) - 1])
def test_labels_without_a_class_are_rejected(whole: Path, tmp_path: Path, kind: str, label: int) -> None:
    def spoil(file: h5py.File) -> None:
        file["train/labels"][1] = label

    expected = f"train: has the label {label}, which is not one of its classes; recreate the file"
    assert expected in read_error(spoil_copy(whole, tmp_path, kind, spoil), verify=kind == "features")


def test_a_root_that_is_not_a_group_is_rejected(whole: Path, tmp_path: Path) -> None:
    content = bytearray((whole / "features.h5").read_bytes())
    content[112] ^= 11  # in the header of the root: h5py raises a KeyError for an object of unknown type
    (tmp_path / "a.h5").write_bytes(content)
    read_error(tmp_path / "a.h5")


ORIGINS: dict[str, list[Any]] = {
    "weights_digest": [None, 1, ["w"]],
    "model": [{}, 2.5, "\ud800"],
    "layers": ["1", 1.0, True, None],
    "height": [[16], None],
    "class_names": ["cat", None, [1, 2], ["\ud800"], {"cat": 0}],
    "mean": [0.5, ["0.5"], [float("nan")], [True], "0.5"],
    "std": [[None], [float("inf")]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ORIGINS.items() for value in values])
def test_an_origin_with_a_field_of_another_type_is_rejected(whole: Path, tmp_path: Path, name: str, value: Any) -> None:
    def spoil(file: h5py.File) -> None:
        values = json.loads(file["origin"][()]) | {name: value}
        del file["origin"]
        file["origin"] = json.dumps(values)

    assert "damaged" in read_error(spoil_copy(whole, tmp_path, "features", spoil))


@pytest.mark.parametrize("content", ["[]", "7", "{", "", "null", '{"other": 1}'])
def test_an_origin_that_is_not_an_origin_is_rejected(whole: Path, tmp_path: Path, content: str) -> None:
    def spoil(file: h5py.File) -> None:
        del file["origin"]
        file["origin"] = content

    assert "damaged" in read_error(spoil_copy(whole, tmp_path, "features", spoil))


# --- references to other files ---------------------------------------------------------------------------------------


def store_elsewhere(group: h5py.Group, name: str, source: str, kind: Any = np.uint8) -> None:
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape, kind, external=[(source, 0, h5py.h5s.UNLIMITED)])


def make_virtual(group: h5py.Group, name: str, source: str) -> None:
    """An unlimited virtual dataset: even asking for its shape opens the other file."""
    kind, rest = group[name].dtype, group[name].shape[1:]
    del group[name]
    layout = h5py.VirtualLayout((1, *rest), kind, maxshape=(None, *rest))
    whole = h5py.VirtualSource(source, "train/x", (1, *rest), kind, (None, *rest))
    layout[: h5py.h5s.UNLIMITED] = whole[: h5py.h5s.UNLIMITED]
    group.create_virtual_dataset(name, layout)


def make_link(file: h5py.File, name: str, link: Any) -> None:
    del file[name]
    file[name] = link


WAYS: dict[str, Callable[[h5py.File, str], object]] = {
    "external bytes": lambda file, name: store_elsewhere(file, name, "/etc/hostname"),
    "a pipe's bytes": lambda file, name: store_elsewhere(file, name, "pipe"),
    "a virtual set": lambda file, name: make_virtual(file, name, "shard.h5"),
    "a virtual set of a pipe": lambda file, name: make_virtual(file, name, "pipe"),
    "an external link": lambda file, name: make_link(file, name, h5py.ExternalLink("shard.h5", "train/labels")),
    "an external link to a pipe": lambda file, name: make_link(file, name, h5py.ExternalLink("pipe", "x")),
    "a soft link": lambda file, name: make_link(file, name, h5py.SoftLink("/val/labels")),
    "a link to nothing": lambda file, name: make_link(file, name, h5py.SoftLink("/nothing")),
    "a link in a loop": lambda file, name: make_link(file, name, h5py.SoftLink(f"/{name}")),
}
PLACES = [
    *(("patches", name) for name in ("class_names", "rejects", *(f"train/{name}" for name in PATCHES.split), "train")),
    *(("index", name) for name in ("class_names", "shards", "train/shard_rows")),
    *(("features", name) for name in ("origin", "train/features", "train/labels", "train/names")),
]


@pytest.mark.parametrize(
    ("kind", "name", "way"),
    [(*place, way) for place in PLACES for way in WAYS if place[1] != "train" or "link" in way],  # a group has no bytes
)
def test_references_to_other_files_are_not_followed(
    whole: Path, tmp_path: Path, kind: str, name: str, way: str
) -> None:
    os.mkfifo(tmp_path / "pipe")

    def spoil(file: h5py.File) -> None:
        WAYS[way](file, name)

    assert "damaged" in read_error(spoil_copy(whole, tmp_path, kind, spoil))


@pytest.mark.parametrize("name", ["../shard.h5", "/etc/hostname", "sub/shard.h5", "", ".", "..", "pipe", "none.h5"])
def test_shards_must_be_in_the_folder_of_their_index(whole: Path, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")

    def spoil(file: h5py.File) -> None:
        file["shards"][0] = name

    path = spoil_copy(whole, tmp_path, "index", spoil)
    with pytest.raises(InputError, match="pipe" if name == "pipe" else "damaged|no such file") as caught:
        PatchFile(path).split("train").labels()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("counts", [[-1], [ROWS + 1], [1 << 62], [0]])
def test_shards_with_another_number_of_rows_are_rejected(whole: Path, tmp_path: Path, counts: list[int]) -> None:
    def spoil(file: h5py.File) -> None:
        file["train/shard_rows"][:] = counts

    path = spoil_copy(whole, tmp_path, "index", spoil)
    with pytest.raises(DataError):
        PatchFile(path).split("train").patches(np.array([0])) if counts != [0] else describe(path, verify=True)


def test_an_index_as_a_shard_is_rejected(whole: Path, tmp_path: Path) -> None:
    def spoil(file: h5py.File) -> None:
        file["shards"][0] = "index.h5"

    with pytest.raises(DataError, match="is an index, not a shard; list its shards instead"):
        describe(spoil_copy(whole, tmp_path, "index", spoil))


def test_a_pipe_is_rejected(tmp_path: Path) -> None:
    for name in ("pipe.h5", "pipe"):
        os.mkfifo(tmp_path / name)
        assert "is a pipe" in read_error(tmp_path / name, InputError)
        for kind in (PatchFile, FeatureFile):
            with pytest.raises(InputError, match="is a pipe"):
                kind(tmp_path / name)


@pytest.mark.parametrize("name", ["class_names", "train/labels", "train/names", "train/digests"])
def test_a_dataset_without_bytes_takes_no_memory(whole: Path, tmp_path: Path, name: str) -> None:
    """A chunked dataset of 10^12 values, none of them written."""

    def spoil(file: h5py.File) -> None:
        shape, kind = (10**12, *file[name].shape[1:]), file[name].dtype
        del file[name]
        file.create_dataset(name, shape, kind, chunks=(1000, *shape[1:]))

    assert "damaged" in read_error(spoil_copy(whole, tmp_path, "patches", spoil))


def test_columns_in_chunks_are_read(whole: Path, tmp_path: Path) -> None:
    """h5repack may write them."""

    def spoil(file: h5py.File) -> None:
        for name in ("patches", "labels", "digests"):
            values = file[f"train/{name}"][()]
            del file[f"train/{name}"]
            file.create_dataset(f"train/{name}", data=values, chunks=(2, *values.shape[1:]), compression="gzip")
        names = [name.decode() for name in file["train/names"]]
        del file["train/names"]
        file.create_dataset("train/names", data=names, dtype=h5py.string_dtype())

    split = PatchFile(spoil_copy(whole, tmp_path, "patches", spoil)).split("train")
    assert split.labels(np.array([3, 0])).tolist() == [1, 0]
    assert split.labels().tolist() == [0, 1, 0, 1, 0]
    assert split.names(np.array([4])) == ["cat/0.png"]
    assert split.digests().shape == (ROWS, DIGEST)
    assert split.patches(np.array([1])).shape == (1, 6, 48)
