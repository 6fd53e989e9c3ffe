"""Files that are not what they say: every field as something else, and every way that HDF5 has to lead elsewhere."""

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
    """All of its images are black: the rows are left as holes."""
    digest = np.frombuffer(image_digest(np.zeros((6, 48), np.uint8)), np.uint8)
    names, digests = np.array([b"cat/0.png"] * ROWS), np.tile(digest, (ROWS, 1))
    part = SplitContent(ROWS, ROWS, np.arange(ROWS) % 2, names, digests)
    write_skeleton(path, HEADER, {"train": part, "val": part}, NOTES)


def write_features(path: Path) -> None:
    parts = Parts(path, ORIGIN)
    parts.write("train", 0, np.ones((ROWS, 3), np.float32))
    parts.finish({"train": (np.arange(ROWS) % 2, ["a.png"] * ROWS)}, "a test")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("patches.h5", "shard.h5"):
        write_patches(folder / name)
    write_index(folder / "index.h5", [folder / "shard.h5"], HEADER, NOTES)
    write_features(folder / "features.h5")
    return folder


def spoiled(whole: Path, tmp_path: Path, kind: str, spoil: Callable[[h5py.File], object]) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / f"{kind}.h5", "r+") as file:
        spoil(file)
    return tmp_path / f"{kind}.h5"


def refusal(path: Path, error: type[Exception] = DataError, verify: bool = True) -> str:
    """What `vitctl info --verify` says: all of a file is read for it."""
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
SCALARS = {"a scalar", "another axis", "longer"}  # what an attribute or a data set of one value has no use for
LISTS = {"an array"}
ANY_LENGTH = {"class_names", "rejects", "leaks"}


def zeros(value: Any) -> Any:
    return np.zeros(value.shape, np.int64)


def cases() -> Iterator[tuple[str, str, str]]:
    """(kind of file, field, what it is instead) for all that a file must have; attributes begin with an @."""
    for kind in ("patches", "index", "features"):
        form = FEATURES if kind == "features" else PATCHES
        root = {name: field for name, field in form.root.items() if kind == "index" or name != "shards"}
        split = form.index if kind == "index" and form.index else form.split
        fields = {f"@{name}": field for name, field in form.attributes.items()} | root
        for name, field in (fields | {f"train/{name}": field for name, field in split.items()}).items():
            unfit = LISTS if field.shape else SCALARS
            unfit = unfit | ({"a group", "a type"} if name.startswith("@") else set())
            unfit = unfit | ({"longer"} if name in ANY_LENGTH else set())
            yield from ((kind, name, how) for how in OTHERS if how not in unfit)


def replace(file: h5py.File, where: str, how: str) -> None:
    holder, name = (file.attrs, where[1:]) if where.startswith("@") else (file, where)
    before = np.asarray(holder[name] if where.startswith("@") else holder[name][()])
    value = OTHERS[how](np.array(before, object) if before.dtype.kind in "OU" else before)
    kept = h5py.string_dtype() if before.dtype.kind in "OU" else before.dtype
    del holder[name]
    if how == "a group":
        holder.create_group(name)
    elif how in ("a scalar", "an array", "another axis", "longer") and where.startswith("@"):
        holder.create(name, value, dtype=kept)
    elif how in ("a scalar", "an array", "another axis", "longer"):
        holder.create_dataset(name, data=value, dtype=kept)
    elif how != "missing":
        holder[name] = value


@pytest.mark.parametrize(("kind", "field", "how"), list(cases()))
def test_a_field_that_is_something_else(whole: Path, tmp_path: Path, kind: str, field: str, how: str) -> None:
    refusal(spoiled(whole, tmp_path, kind, lambda file: replace(file, field, how)))


@pytest.mark.parametrize("name", ["patches", "index", "shard", "features"])
def test_the_whole_files_are_read(whole: Path, name: str) -> None:
    """Or else the refusals would mean nothing."""
    assert describe(whole / f"{name}.h5", verify=True).verified  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [-1, 0, 1 << 62])
@pytest.mark.parametrize("name", ["patch", "height", "width", "channels", "pixels", "duplicates", "leaked", "version"])
def test_numbers_that_are_out_of_place_give_an_answer_or_one_line(
    whole: Path, tmp_path: Path, name: str, value: int
) -> None:
    path = spoiled(whole, tmp_path, "patches", lambda file: file.attrs.modify(name, value))
    try:
        json.dumps(describe(path).__dict__, default=vars, allow_nan=False)
    except DataError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("sums", "squares"), [([-1] * 3, [1] * 3), ([255] * 3, [254] * 3), ([1] * 2, [1] * 2)])
def test_sums_that_no_pixels_have(whole: Path, tmp_path: Path, sums: list[int], squares: list[int]) -> None:
    def spoil(file: h5py.File) -> None:
        file.attrs.update({"sums": sums, "squares": squares})

    assert "damaged" in refusal(spoiled(whole, tmp_path, "patches", spoil))


def to_bytes(file: h5py.File, name: str) -> None:
    """Text that is not UTF-8, in an attribute or a list."""
    if name.startswith("@"):
        file.attrs.create(name[1:], np.bytes_(b"\xff\xfe"))
    else:
        del file[name]
        file.create_dataset(name, data=np.array([b"\xff\xfe", b"dog"], object), dtype=h5py.string_dtype())


@pytest.mark.parametrize("name", ["@fit", "@source", "@digest", "@created_by", "class_names"])
def test_bytes_that_are_no_text(whole: Path, tmp_path: Path, name: str) -> None:
    assert "utf-8" in refusal(spoiled(whole, tmp_path, "patches", lambda file: to_bytes(file, name)))


@pytest.mark.parametrize("kind", ["patches", "features"])
@pytest.mark.parametrize("label", [2, -2, 10**6, -(1 << 63), (1 << 63) - 1])
def test_labels_of_no_class(whole: Path, tmp_path: Path, kind: str, label: int) -> None:
    def spoil(file: h5py.File) -> None:
        file["train/labels"][1] = label

    assert f"has the label {label}" in refusal(spoiled(whole, tmp_path, kind, spoil), verify=kind == "features")


def test_a_root_that_is_no_group(whole: Path, tmp_path: Path) -> None:
    content = bytearray((whole / "features.h5").read_bytes())
    content[112] ^= 11  # in the header of its root: what HDF5 cannot tell the kind of is a KeyError
    (tmp_path / "a.h5").write_bytes(content)
    refusal(tmp_path / "a.h5")


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
def test_an_origin_that_is_something_else(whole: Path, tmp_path: Path, name: str, value: Any) -> None:
    def spoil(file: h5py.File) -> None:
        values = json.loads(file["origin"][()]) | {name: value}
        del file["origin"]
        file["origin"] = json.dumps(values)

    assert "damaged" in refusal(spoiled(whole, tmp_path, "features", spoil))


@pytest.mark.parametrize("content", ["[]", "7", "{", "", "null", '{"other": 1}'])
def test_an_origin_that_is_no_origin(whole: Path, tmp_path: Path, content: str) -> None:
    def spoil(file: h5py.File) -> None:
        del file["origin"]
        file["origin"] = content

    assert "damaged" in refusal(spoiled(whole, tmp_path, "features", spoil))


# --- ways out of a file ----------------------------------------------------------------------------------------------


def of_other_bytes(group: h5py.Group, name: str, source: str, kind: Any = np.uint8) -> None:
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape, kind, external=[(source, 0, h5py.h5s.UNLIMITED)])


def of_another_set(group: h5py.Group, name: str, source: str) -> None:
    """A virtual data set without an end: even its shape is asked of the other file."""
    kind, rest = group[name].dtype, group[name].shape[1:]
    del group[name]
    layout = h5py.VirtualLayout((1, *rest), kind, maxshape=(None, *rest))
    whole = h5py.VirtualSource(source, "train/x", (1, *rest), kind, (None, *rest))
    layout[: h5py.h5s.UNLIMITED] = whole[: h5py.h5s.UNLIMITED]
    group.create_virtual_dataset(name, layout)


def linked(file: h5py.File, name: str, link: Any) -> None:
    del file[name]
    file[name] = link


WAYS: dict[str, Callable[[h5py.File, str], object]] = {
    "external bytes": lambda file, name: of_other_bytes(file, name, "/etc/hostname"),
    "a pipe's bytes": lambda file, name: of_other_bytes(file, name, "pipe"),
    "a virtual set": lambda file, name: of_another_set(file, name, "shard.h5"),
    "a virtual set of a pipe": lambda file, name: of_another_set(file, name, "pipe"),
    "an external link": lambda file, name: linked(file, name, h5py.ExternalLink("shard.h5", "train/labels")),
    "an external link to a pipe": lambda file, name: linked(file, name, h5py.ExternalLink("pipe", "x")),
    "a soft link": lambda file, name: linked(file, name, h5py.SoftLink("/val/labels")),
    "a link to nothing": lambda file, name: linked(file, name, h5py.SoftLink("/nothing")),
    "a link in a loop": lambda file, name: linked(file, name, h5py.SoftLink(f"/{name}")),
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
def test_what_leads_out_of_a_file_is_not_followed(whole: Path, tmp_path: Path, kind: str, name: str, way: str) -> None:
    os.mkfifo(tmp_path / "pipe")

    def spoil(file: h5py.File) -> None:
        WAYS[way](file, name)

    assert "damaged" in refusal(spoiled(whole, tmp_path, kind, spoil))


@pytest.mark.parametrize("name", ["../shard.h5", "/etc/hostname", "sub/shard.h5", "", ".", "..", "pipe", "none.h5"])
def test_shards_lie_beside_their_index(whole: Path, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")

    def spoil(file: h5py.File) -> None:
        file["shards"][0] = name

    path = spoiled(whole, tmp_path, "index", spoil)
    with pytest.raises(InputError, match="pipe" if name == "pipe" else "damaged|no such file") as caught:
        PatchFile(path).split("train").labels()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("counts", [[-1], [ROWS + 1], [1 << 62], [0]])
def test_shards_that_have_other_rows_than_their_index_says(whole: Path, tmp_path: Path, counts: list[int]) -> None:
    def spoil(file: h5py.File) -> None:
        file["train/shard_rows"][:] = counts

    path = spoiled(whole, tmp_path, "index", spoil)
    with pytest.raises(DataError):
        PatchFile(path).split("train").patches(np.array([0])) if counts != [0] else describe(path, verify=True)


def test_an_index_is_no_shard(whole: Path, tmp_path: Path) -> None:
    def spoil(file: h5py.File) -> None:
        file["shards"][0] = "index.h5"

    with pytest.raises(DataError, match="an index itself"):
        describe(spoiled(whole, tmp_path, "index", spoil))


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    for name in ("pipe.h5", "pipe"):
        os.mkfifo(tmp_path / name)
        assert "is a pipe" in refusal(tmp_path / name, InputError)
        for kind in (PatchFile, FeatureFile):
            with pytest.raises(InputError, match="is a pipe"):
                kind(tmp_path / name)


@pytest.mark.parametrize("name", ["class_names", "train/labels", "train/names", "train/digests"])
def test_what_a_file_has_no_bytes_for_takes_no_memory(whole: Path, tmp_path: Path, name: str) -> None:
    """A chunked data set of 10^12 values of which none was written."""

    def spoil(file: h5py.File) -> None:
        shape, kind = (10**12, *file[name].shape[1:]), file[name].dtype
        del file[name]
        file.create_dataset(name, shape, kind, chunks=(1000, *shape[1:]))

    assert "damaged" in refusal(spoiled(whole, tmp_path, "patches", spoil))


def test_columns_in_chunks_are_read_all_the_same(whole: Path, tmp_path: Path) -> None:
    """As h5repack may leave them."""

    def spoil(file: h5py.File) -> None:
        for name in ("patches", "labels", "digests"):
            values = file[f"train/{name}"][()]
            del file[f"train/{name}"]
            file.create_dataset(f"train/{name}", data=values, chunks=(2, *values.shape[1:]), compression="gzip")
        names = [name.decode() for name in file["train/names"]]
        del file["train/names"]
        file.create_dataset("train/names", data=names, dtype=h5py.string_dtype())

    split = PatchFile(spoiled(whole, tmp_path, "patches", spoil)).split("train")
    assert split.labels(np.array([3, 0])).tolist() == [1, 0]
    assert split.labels().tolist() == [0, 1, 0, 1, 0]
    assert split.names(np.array([4])) == ["cat/0.png"]
    assert split.digests().shape == (ROWS, DIGEST)
    assert split.patches(np.array([1])).shape == (1, 6, 48)
