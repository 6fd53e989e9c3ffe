import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitctl.data.sources.layouts import Evidence, FolderLayout, FolderRole, layout_of
from vitctl.errors import DataError


def evidence(*folders: str) -> Evidence:
    collected = Evidence()
    for folder in folders:
        collected.add(tuple(folder.split("/")) if folder else ())
    return collected


def layout(*folders: str, kind: str = "folder") -> FolderLayout:
    return layout_of(evidence(*folders), kind, "here")


paths = st.lists(st.sampled_from(["a", "b", "train", "val"]), max_size=4).map(tuple)


@given(st.lists(paths, min_size=1, max_size=8), st.randoms())
def test_evidence_does_not_depend_on_the_order(folders, random):
    one, other = Evidence(), Evidence()
    for folder in folders:
        one.add(folder)
    random.shuffle(folders)
    for folder in folders + folders:
        other.add(folder)
    assert vars(one) == vars(other)


@given(st.lists(paths, min_size=1, max_size=8))
def test_evidence_against_the_whole_list(folders):
    collected = Evidence()
    for folder in folders:
        collected.add(folder)
    top = next(
        folders[0][:depth] for depth in range(4, -1, -1) if all(each[:depth] == folders[0][:depth] for each in folders)
    )
    rest = [each[len(top) :] for each in folders]
    assert collected.top == top
    assert collected.own == (() in rest)
    assert set(collected.folders) == {each[0] for each in rest if each}
    for name, holds in collected.folders.items():
        assert holds.own == ((name,) in rest)
        assert holds.below == any(len(each) > 1 and each[0] == name for each in rest)


def test_flat():
    assert layout("").kind == "flat"
    assert layout("top/of/all").place(("top", "of", "all")) == FolderRole(None, None)


def test_classes():
    found = layout("cat", "dog", "dog/deep")
    assert found.kind == "classes"
    assert found.place(("dog", "deep")) == FolderRole("dog", None)
    assert found.place(()) == "stray"
    assert layout("top/cat", "top/dog").place(("top", "cat")) == FolderRole("cat", None)


def test_splits():
    found = layout("train/cat", "train/dog", "valid/cat", "Test", "other/x")
    assert found.kind == "splits"
    assert found.place(("valid", "cat", "deep")) == FolderRole("cat", "val")
    assert found.place(("Test",)) == FolderRole(None, "test")
    assert found.place(("other", "x")) == "outside"
    assert found.place(()) == "outside"
    assert found.place(("train",)) == "stray"


@pytest.mark.parametrize("top", ["", "a/", "a/b/"])
def test_splits_below_common_folders(top):
    found = layout(f"{top}train/cat", f"{top}val/cat")
    assert found.place((*top.split("/")[:-1], "val", "cat")) == FolderRole("cat", "val")


def test_train_alone():
    assert layout("train/cat", "train/dog").place(("train", "cat")) == FolderRole("cat", "train")
    assert layout("x/train/cat").place(("x", "train", "cat")) == FolderRole("cat", "train")
    assert layout("x/train").place(("x", "train")) == FolderRole(None, "train")


def test_val_without_train_is_a_class():
    assert layout("val/cat", "test/cat").place(("val", "cat")) == FolderRole("val", None)


def test_what_can_be_read_twice():
    with pytest.raises(DataError, match=r"kind=classes.*kind=flat"):
        layout("", "cat")
    with pytest.raises(DataError, match=r"kind=splits.*'bus'.*'train'|kind=splits.*kind=classes"):
        layout("train", "bus")
    with pytest.raises(DataError, match=r"here, train: .*kind=splits.*kind=flat"):
        layout("train", "train/cat", "val/cat")


def test_the_kind_decides():
    assert layout("", "cat", kind="classes").place(()) == "stray"
    assert layout("", "cat", kind="flat").place(("cat",)) == FolderRole(None, None)
    assert layout("train", "bus", kind="classes").place(("train",)) == FolderRole("train", None)
    assert layout("train", "bus", kind="splits").place(("bus",)) == "outside"
    assert layout("only", kind="classes").place(("only",)) == FolderRole("only", None)
    with pytest.raises(DataError, match="no train folder"):
        layout("cat", "dog", kind="splits")
