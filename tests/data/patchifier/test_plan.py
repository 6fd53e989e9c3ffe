from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.patchifier.plan import RowPlan, make_plan
from vitctl.data.patchifier.workspace import Build
from vitctl.data.sources import Hints
from vitctl.data.sources.contract import Declared, FoundImage, Refused, Sighting, Source
from vitctl.errors import ConfigError, DataError
from vitctl.reporting import SilentReporter


class Listed(Source):
    """A source that is only a list: what a plan makes of it is then in plain sight."""

    kind = "listed"

    def __init__(self, sightings: list[Sighting], names: tuple[str, ...] | None = None,
                 native: tuple[int, int, int] | None = None) -> None:  # fmt: skip
        self.list, self.class_names, self.native = sightings, names, native

    def sightings(self) -> Iterator[Sighting]:
        yield from self.list

    def no_images_message(self) -> str:
        return "nothing is listed"

    def read(self, name: str, file: int, offset: int, size: int) -> bytes:
        raise DataError("has no bytes")


def plan(
    tmp_path: Path, sightings: list[Sighting], shard: int = 0, source: dict[str, Any] | None = None, **options: Any
) -> RowPlan:
    out = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"  # a new one each time
    build = Build(Listed(sightings, **(source or {})), PatchifyConfig(source="listed", **options), out, shard)
    return make_plan(build, SilentReporter())


def named(planned: RowPlan) -> list[tuple[str, int]]:
    names, labels = planned.column("name"), planned.column("label")
    return [(name.decode(), int(label)) for name, label in zip(names, labels, strict=True)]


def images(classes: dict[str, int], split: str | None = None) -> list[Sighting]:
    return [
        FoundImage(f"{name}/{number}", name, split, 1, number, 7)
        for name, count in classes.items()
        for number in range(count)
    ]


def test_rows_keep_the_order_of_the_source_split_after_split(tmp_path: Path) -> None:
    sightings: list[Sighting] = [
        FoundImage("v1", "b", "val"),
        FoundImage("t1", "b", "train"),
        FoundImage("v2", "a", "val"),
        FoundImage("t2", "a", "train"),
    ]
    planned = plan(tmp_path, sightings)
    assert planned.splits == {"train": 2, "val": 2}
    assert planned.class_names == ("a", "b")
    assert named(planned) == [("t1", 1), ("t2", 0), ("v1", 1), ("v2", 0)]


def test_a_plan_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    planned = plan(tmp_path, [*images({"a": 3, "é" * 40: 2}), Refused("bad", "because")])
    again = RowPlan.load(planned.folder)
    assert again == planned
    assert named(again) == named(planned)
    assert again.refused == (("bad", "because"),)
    assert [again.column(name)[1] for name in ("file", "offset", "size")] == [1, 1, 7]


def test_numbers_stay_the_numbers_they_were(tmp_path: Path) -> None:
    numbers: list[Sighting] = [FoundImage(str(number), number) for number in (3, 0, 11)]
    planned = plan(tmp_path, numbers)
    assert planned.class_names == tuple(map(str, range(12)))
    assert [label for _, label in named(planned)] == [3, 0, 11]
    with pytest.raises(DataError, match="listed: has label 11, but only 4 class names"):
        plan(tmp_path, numbers, source={"names": tuple("abcd")})
    with pytest.raises(DataError, match="some labels are numbers and some are names"):
        plan(tmp_path, [FoundImage("x", 1), FoundImage("y", "one")])


def test_no_labels_is_minus_one(tmp_path: Path) -> None:
    planned = plan(tmp_path, [FoundImage("x"), FoundImage("y")])
    assert (named(planned), planned.class_names) == ([("x", -1), ("y", -1)], ())


def test_a_cut_takes_the_same_share_of_every_class_whatever_else_is_there(tmp_path: Path) -> None:
    counts = {"a": 10, "b": 25, "c": 4}
    planned = plan(tmp_path, images(counts), split=("val=0.2", "test=0.1"))
    labels = planned.column("label")
    assert planned.splits == {"train": 27, "val": 8, "test": 4}
    assert Counter(labels[27:35].tolist()) == {0: 2, 1: 5, 2: 1}
    cut = {name for name, _ in named(planned)[27:35]}
    more = plan(tmp_path, images(counts | {"d": 50}), split=("val=0.2", "test=0.1"))
    assert cut <= {name for name, _ in named(more)}
    assert cut == {name for name, label in named(more)[more.splits["train"] :][: more.splits["val"]] if label < 3}
    other = plan(tmp_path, images(counts), split=("val=0.2", "test=0.1"), seed=1)
    assert cut != {name for name, _ in named(other)[27:35]}


def test_a_split_that_is_there_is_not_cut_again(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has a val split already"):
        plan(tmp_path, images({"a": 9}, "train") + images({"a": 2}, "val"), split=("val=0.1",))


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_share_the_rows_and_lose_none(tmp_path: Path, shards: int) -> None:
    sightings = images({"a": 11, "b": 9}, "train") + images({"a": 8}, "val")
    whole = named(plan(tmp_path, sightings))
    parts = [plan(tmp_path, sightings, shard=shard, shards=shards) for shard in range(shards)]
    for split, begin in (("train", 0), ("val", 20)):
        rows = [row for part in parts for row in part_of(part, split)]
        assert rows == whole[begin : begin + len(rows)]
    assert {part.class_names for part in parts} == {("a", "b")}
    assert len({part.column("name").dtype for part in parts}) == 1
    with pytest.raises(DataError, match="would be empty; use fewer shards"):
        plan(tmp_path, sightings, shard=0, shards=50)


def part_of(part: RowPlan, split: str) -> list[tuple[str, int]]:
    names = list(part.splits)
    begin = sum(part.splits[name] for name in names[: names.index(split)]) if split in names else 0
    return named(part)[begin : begin + part.splits.get(split, 0)]


def test_classes_come_from_train_alone(tmp_path: Path) -> None:
    sightings = [*images({"b": 2, "a": 1}, "train"), Declared("empty", "train"), *images({"a": 1, "z": 2}, "val")]
    planned = plan(tmp_path, sightings)
    assert planned.class_names == ("a", "b", "empty")
    assert planned.refused == (("z/0", "class 'z' is not in train"), ("z/1", "class 'z' is not in train"))
    assert planned.splits == {"train": 3, "val": 1}
    assert planned.warnings == ("class 'empty' has no image", "classes that are not in train: z")


def test_a_class_list_that_names_none_of_them_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("daisies\n")
    with pytest.raises(DataError, match="names none of the classes; did you mean 'daisy'"):
        plan(tmp_path, images({"daisy": 2}), classes=str(tmp_path / "names"))


@pytest.mark.parametrize(
    ("native", "options", "expected"),
    [
        (None, {}, (16, 352, 352, 3)),
        (None, {"res": Res(192, 256), "patch": 32}, (32, 192, 256, 3)),
        ((28, 28, 1), {}, (7, 28, 28, 1)),
        ((32, 32, 3), {}, (8, 32, 32, 3)),
        ((28, 28, 1), {"channels": 3, "res": Res(224)}, (16, 224, 224, 3)),
        ((512, 512, 3), {}, (16, 352, 352, 3)),
    ],
)
def test_geometry(tmp_path: Path, native: Any, options: dict[str, Any], expected: tuple[int, ...]) -> None:
    shape = plan(tmp_path, images({"a": 1}), source={"native": native}, **options).geometry
    assert (shape.patch, shape.height, shape.width, shape.channels) == expected


def test_a_resolution_that_sixteen_does_not_divide_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nearest are 208x208 and 224x224"):
        plan(tmp_path, images({"a": 1}), res=Res(220))


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is listed; x: broken"):
        plan(tmp_path, [Refused("x", "broken")])


def test_memory_is_not_a_matter_of_names(tmp_path: Path, folder: Callable[..., Path]) -> None:
    """200,000 images are planned through columns on the disk: what the process keeps is a few bytes for each."""
    import tracemalloc

    class Many(Listed):
        def sightings(self) -> Iterator[Sighting]:
            for number in range(200_000):
                yield FoundImage(f"class{number % 10}/{'x' * 100}{number}", f"class{number % 10}", None, 0, number)

    tracemalloc.start()
    build = Build(Many([]), PatchifyConfig(source="listed", split=("val=0.1",)), tmp_path / "out.h5")
    planned = make_plan(build, SilentReporter())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert planned.total == 200_000
    assert peak < 200_000 * 110  # the names alone are longer
    assert np.array_equal(np.sort(planned.column("offset")), np.arange(200_000))


def sets(planned: RowPlan) -> list[list[str]]:
    """The names of the classes in the sets of all rows."""
    bits = np.unpackbits(planned.column("label_sets"), axis=1, count=len(planned.class_names), bitorder="little")
    return [[planned.class_names[label] for label in np.flatnonzero(row)] for row in bits]


def test_sets_have_a_bit_per_class_and_their_lowest_as_label(tmp_path: Path) -> None:
    found: list[Any] = [("c", "a"), (), None, ("b",), "c"]
    planned = plan(tmp_path, [FoundImage(str(row), label) for row, label in enumerate(found)])
    assert (planned.task, planned.class_names) == ("sets", ("a", "b", "c"))
    assert sets(planned) == [["a", "c"], [], [], ["b"], ["c"]]
    assert [label for _, label in named(planned)] == [0, -2, -1, 1, 2]
    assert RowPlan.load(planned.folder) == planned


def test_many_classes_take_many_bytes(tmp_path: Path) -> None:
    labels = [tuple(range(row, 40, 7)) for row in range(40)]
    planned = plan(tmp_path, [FoundImage(str(row), label) for row, label in enumerate(labels)])
    assert planned.column("label_sets").shape == (40, 5)
    assert sets(planned) == [[str(each) for each in label] for label in labels]


def test_numbers_keep_every_bit_and_have_no_classes(tmp_path: Path) -> None:
    values = [0.1, -1.0, None, 1e300]
    planned = plan(tmp_path, [FoundImage(str(row), value) for row, value in enumerate(values)], limit=4)
    assert (planned.task, planned.class_names) == ("numbers", ())
    assert planned.column("targets").tolist()[:2] == [0.1, -1.0]
    assert np.isnan(planned.column("targets")[2])
    assert [label for _, label in named(planned)] == [-1] * 4
    (tmp_path / "names").write_text("a\n")
    with pytest.raises(DataError, match="lists classes, but the labels are numbers"):
        plan(tmp_path, [FoundImage("a", 0.5)], classes=str(tmp_path / "names"))
    with pytest.raises(DataError, match="some labels are decimals and some are classes; --set labels=numbers"):
        plan(tmp_path, [FoundImage("a", 0.5), FoundImage("b", 1)])


def test_a_set_with_a_class_that_train_lacks_is_refused(tmp_path: Path) -> None:
    found: list[Sighting] = [FoundImage("1", ("a", "b"), "train"), FoundImage("2", ("a", "z"), "val")]
    planned = plan(tmp_path, [*found, FoundImage("3", ("b",), "val"), Declared("empty", "train")])
    assert planned.refused == (("2", "class 'z' is not in train"),)
    assert planned.splits == {"train": 1, "val": 1}
    assert planned.warnings == ("class 'empty' has no image", "classes that are not in train: z")
    numbers: list[Sighting] = [FoundImage("1", (0, 3), "train"), FoundImage("2", (0, 2), "val")]
    planned = plan(tmp_path, numbers)
    assert (planned.refused, planned.class_names) == ((("2", "class '2' is not in train"),), ("0", "1", "2", "3"))
    assert plan(tmp_path, numbers, source={"names": tuple("wxyz")}).refused == ()
    refused = plan(tmp_path, numbers, source={"names": tuple("xyz")}).refused
    assert refused == (("1", "class '3' is not in the class names"),)


def test_a_list_of_classes_orders_sets_and_refuses_others(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("b\nunused\na\n")
    found: list[Sighting] = [FoundImage("1", ("a", "b")), FoundImage("2", ("a", "z"))]
    planned = plan(tmp_path, found, classes=str(tmp_path / "names"))
    assert (planned.class_names, sets(planned)) == (("b", "unused", "a"), [["b", "a"]])
    assert planned.refused == (("2", f"class 'z' is not in {tmp_path}/names"),)
    (tmp_path / "names").write_text("daisies\n")
    with pytest.raises(DataError, match="lacks a class of every image; the first is class 'a' is not in"):
        plan(tmp_path, found, classes=str(tmp_path / "names"))


def test_sets_are_cut_and_limited_by_their_lowest_class(tmp_path: Path) -> None:
    labels: list[Any] = [("a", "b")] * 20 + [("b",)] * 10 + [()] * 10
    found: list[Sighting] = [FoundImage(str(row), label) for row, label in enumerate(labels)]
    planned = plan(tmp_path, found, split=("val=0.2",))
    assert Counter(label for _, label in named(planned)[32:]) == {0: 4, 1: 2, -2: 2}
    limited = plan(tmp_path, found, limit=9)
    assert Counter(label for _, label in named(limited)) == {0: 3, 1: 3, -2: 3}


def test_the_plan_of_other_sets_is_another_plan(tmp_path: Path) -> None:
    first: tuple[tuple[str, ...], ...] = (("a",), ("a", "b"))
    one, other = (plan(tmp_path, [FoundImage("1", label), FoundImage("2", ("a", "b"))]) for label in first)
    assert one.column("label").tolist() == other.column("label").tolist()
    assert one.digest != other.digest


label = st.one_of(st.none(), st.frozensets(st.sampled_from("abcdefghijk")).map(lambda each: tuple(sorted(each))))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(label, min_size=1, max_size=30).filter(any))
def test_any_sets_come_out_as_they_went_in(tmp_path: Path, labels: list[Any]) -> None:
    planned = plan(tmp_path, [FoundImage(str(row), label) for row, label in enumerate(labels)])
    assert sets(planned) == [list(label or ()) for label in labels]
    assert [label == -1 for _, label in named(planned)] == [label is None for label in labels]


def test_the_user_makes_sets_or_numbers_of_class_folders(tmp_path: Path) -> None:
    def planned(labels: Any) -> RowPlan:
        source = Listed([FoundImage(name, name) for name in ("7", "12.5", "cat")])
        source.apply(Hints(labels=labels))
        build = Build(source, PatchifyConfig(source="listed", labels=labels), tmp_path / f"{labels}.h5")
        return make_plan(build, SilentReporter())

    assert sets(planned("sets")) == [["7"], ["12.5"], ["cat"]]
    numbers = planned("numbers")
    assert numbers.column("targets").tolist() == [7.0, 12.5]
    assert numbers.refused == (("cat", "its label 'cat' is not a finite number"),)
