import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vitctl.errors import DataError, NoSpace, RunError
from vitctl.io.feature_file import FeatureFile, Origin, Parts, explain_full_disk, export_features

ORIGIN = Origin("w", "d", "vit-mu/8", 1, "auto", 16, 16, "float32", "float32", ("cat", "dög"))
VALUES = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
NAMES = ["a.png", "ö/b.png", "c.png", "d.png", "e.png"]
COLUMNS: dict[str, Any] = {"train": {"labels": np.array([0, 1, 0, -1, 1]), "names": NAMES}}
SETS = np.array([[1, 0], [1, 1], [0, 0], [0, 0], [0, 1]], np.uint8)  # the third is empty, the fourth is unknown
OTHER: dict[str, dict[str, Any]] = {
    "sets": {
        "labels": np.array([0, 0, -2, -1, 1]), "names": NAMES,
        "label_sets": np.packbits(SETS, axis=1, bitorder="little")},
    "numbers": {
        "labels": np.full(5, -1), "names": NAMES, "targets": np.array([1.5, -2, 0, np.nan, 1e300])},
}  # fmt: skip


def make(out: Path, origin: Origin = ORIGIN, columns: dict[str, Any] = COLUMNS) -> FeatureFile:
    parts = Parts(out, origin)
    parts.write("train", 3, VALUES[3:])
    parts.write("train", 0, VALUES[:3])
    return parts.finish(columns, "a test")


def test_a_file_round_trips(tmp_path: Path) -> None:
    file = make(tmp_path / "f.h5")
    assert file.origin == ORIGIN
    assert file.splits == {"train": (5, 3)}
    assert np.array_equal(file.features("train"), VALUES)
    assert file.labels("train").tolist() == [0, 1, 0, -1, 1]
    assert file.names("train") == NAMES
    assert file.task == "classes"
    assert file.has_label("train").tolist() == [True, True, True, False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


@pytest.mark.parametrize("task", ["sets", "numbers"])
def test_sets_and_numbers_round_trip(tmp_path: Path, task: str) -> None:
    file = make(tmp_path / "f.h5", columns={"train": OTHER[task]})
    assert file.task == task
    np.testing.assert_array_equal(file.truth("train"), SETS if task == "sets" else OTHER[task]["targets"])
    assert file.labels("train").tolist() == OTHER[task]["labels"].tolist()
    assert file.has_label("train").tolist() == [True, True, True, False, True]


def test_the_bytes_of_classes_do_not_change(tmp_path: Path) -> None:
    make(tmp_path / "f.h5", replace(ORIGIN, class_names=("cat", "dog")))
    with h5py.File(tmp_path / "f.h5") as file:
        assert list(file) == ["origin", "train"]
        assert list(file["train"]) == ["features", "labels", "names"]
        assert dict(file.attrs) == {"format": "vitctl.features", "version": 1, "created_by": "a test"}


def test_labels_that_contradict_one_another_are_damage(tmp_path: Path) -> None:
    make(tmp_path / "f.h5", columns={"train": OTHER["sets"]})
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file.copy("train", "val")
        del file["val/label_sets"]
    with pytest.raises(DataError, match="labels are classes in one split and sets in another"):
        FeatureFile(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "a") as file:
        del file["val"]
        del file["train/label_sets"]
        file["train/label_sets"] = np.zeros((5, 2), np.uint8)
    with pytest.raises(DataError, match="label_sets are not of 2 classes"):
        FeatureFile(tmp_path / "f.h5")


@pytest.mark.parametrize("task", ["sets", "numbers"])
@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_exports_hold_sets_and_numbers(tmp_path: Path, kind: str, task: str) -> None:
    file = make(tmp_path / "f.h5", columns={"train": OTHER[task]})
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(export_features(file, kind, tmp_path / "f")[0]).to_pydict()
        assert table["label"] == {"sets": [[0], [0, 1], [], None, [1]], "numbers": [1.5, -2, 0, None, 1e300]}[task]
    elif kind == "npy":
        np.testing.assert_array_equal(np.load(export_features(file, kind, tmp_path / "f")[1]), file.truth("train"))
    else:
        lines = export_features(file, kind, tmp_path / "f")[0].read_text(encoding="utf-8").splitlines()
        cells = {"sets": ["0", "0|1", "|", "", "1"], "numbers": ["1.5", "-2.0", "0.0", "", "1e+300"]}[task]
        assert [line.split(",")[1] for line in lines[1:]] == cells


def test_half_precision_and_more_axes(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "f.h5", replace(ORIGIN, dtype="float16"))
    parts.write("train", 0, np.stack([VALUES] * 4, 1))
    file = parts.finish(COLUMNS, "a test")
    assert file.features("train").dtype == np.float16
    assert file.splits == {"train": (5, 4, 3)}


def test_parts_are_reused_if_they_have_the_same_origin(tmp_path: Path) -> None:
    Parts(tmp_path / "f.h5", ORIGIN).write("train", 0, VALUES[:3])
    assert Parts(tmp_path / "f.h5", ORIGIN).has("train", 0, 3)
    assert not Parts(tmp_path / "f.h5", ORIGIN).has("train", 0, 2)
    assert not Parts(tmp_path / "f.h5", replace(ORIGIN, weights_digest="other")).has("train", 0, 3)


def test_more_class_names_than_an_attribute_holds(tmp_path: Path) -> None:
    names = tuple(f"a class with a long name, number {number}" for number in range(21_843))
    assert make(tmp_path / "f.h5", replace(ORIGIN, class_names=names)).origin.class_names == names


@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_other_tools_read_the_same_numbers(tmp_path: Path, kind: str) -> None:
    file = make(tmp_path / "f.h5")
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        (path,) = export_features(file, kind, tmp_path / "f")
        table = parquet.read_table(path).to_pydict()
        assert np.array_equal(np.array(table["features"], np.float32), VALUES)
        assert table["label"] == [0, 1, 0, -1, 1]
    elif kind == "npy":
        features, labels = export_features(file, kind, tmp_path / "f")
        assert np.array_equal(np.load(features), VALUES)
        assert np.load(labels).tolist() == [0, 1, 0, -1, 1]
    else:
        (path,) = export_features(file, kind, tmp_path / "f")
        lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        assert lines[0] == ["name", "label", "f0", "f1", "f2"]
        assert np.array_equal(np.array([line[2:] for line in lines[1:]], np.float32), VALUES)
        assert [line[0] for line in lines[1:]] == NAMES


def test_features_that_overflow_float16_are_not_written(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "f.h5", replace(ORIGIN, dtype="float16"))
    with pytest.raises(RunError, match="not finite in float16"):
        parts.write("train", 0, VALUES * 1e6)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("file write failed: No space left on d")])
def test_a_full_disk_is_one_line_that_names_the_parts(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(
            NoSpace, match="no space left; free some space and run the same command again; finished parts are saved in"
        ),
        explain_full_disk(tmp_path / "f.h5", tmp_path),
    ):
        raise error


def test_a_full_disk_is_noticed_while_an_array_is_saved(tmp_path: Path) -> None:
    """NumPy's own error has no errno. A file size limit stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(NoSpace):
            Parts(tmp_path / "f.h5", ORIGIN).write("train", 0, np.zeros((5, 3000), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_other_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        FeatureFile(tmp_path / "f.h5")
    (tmp_path / "text.h5").write_text("features")
    with pytest.raises(DataError, match="not an HDF5 file, so not a feature file; create one with vitctl features"):
        FeatureFile(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = "vitctl.patches"
    with pytest.raises(DataError, match=r"not a feature file \(its format is 'vitctl\.patches'\); create one with"):
        FeatureFile(tmp_path / "other.h5")
    make(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file.attrs["version"] = 2
    with pytest.raises(DataError, match="version 2, but this vitctl reads version 1; update vitctl, or recreate the"):
        FeatureFile(tmp_path / "f.h5")
    with pytest.raises(DataError, match="has no split 'val'; it has train"):
        make(tmp_path / "g.h5").features("val")
