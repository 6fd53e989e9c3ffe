"""The images that shots are drawn from, and those that probes are tested on."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vitctl.config.fewshot import SHOTS, FewshotConfig
from vitctl.errors import DataError, UsageError
from vitctl.io.feature_file import FeatureFile
from vitctl.probing.draws import Ints, split_by_class
from vitctl.probing.fewshot import (
    ProbeTask,
)
from vitctl.probing.targets import TARGET_PROBES, TargetTask
from vitctl.reporting import Reporter, format_count
from vitctl.workflows.fewshot.sources import read_features
from vitctl.workflows.inputs.data import LABEL_WORDS
from vitctl.workflows.inputs.samples import find_held_out

NUMBER_SHOTS = (10, 25, 100)  # in all
HELD_OUT_SEED = 0  # the test images are the same for every seed of the shots


@dataclass(frozen=True)
class ProbeRows:
    """The rows to sample shots from, and the rows to test probes on."""

    train: str
    rows: Ints  # labeled rows of the train split
    test: str
    test_rows: Ints  # labeled rows of the test split
    labels: Any  # of `rows`, as FeatureFile.truth has them
    truth: Any  # of `test_rows`
    classes: tuple[str, ...]
    kind: str  # classes, sets or numbers
    val: str | None = None  # the split to choose strengths on, of logreg-val

    @property
    def counts(self) -> Ints:
        """The labeled images of each class [K] in train; of numbers, of all [1]."""
        if self.kind == "classes":
            return np.bincount(self.labels, minlength=len(self.classes))
        return np.array([len(self.labels)]) if self.kind == "numbers" else self.labels.sum(0, dtype=np.int64)

    def task(self, file: FeatureFile, base: Any = None) -> ProbeTask | TargetTask:
        train, test = read_features(file, self.train, self.rows), read_features(file, self.test, self.test_rows)
        if self.kind == "classes":
            val = None
            if self.val:
                rows = np.flatnonzero(file.has_label(self.val))
                val = read_features(file, self.val, rows), file.truth(self.val)[rows]
            return ProbeTask(train, self.labels, test, self.truth, len(self.classes), base, val)
        targets, truth = (each.reshape(len(each), -1).astype(np.float64) for each in (self.labels, self.truth))
        return TargetTask(self.kind, train, targets, test, truth)


def choose_probe_rows(config: FewshotConfig, file: FeatureFile, reporter: Reporter) -> ProbeRows:
    if config.train not in file.splits:
        raise UsageError(f"there is no split {config.train!r}; choose one of {', '.join(file.splits)}")
    known = {name: np.flatnonzero(file.has_label(name)) for name in file.splits}
    if config.draws == "episodes":
        return choose_episode_rows(config, file, known)
    test = config.test or find_held_out({name: len(rows) for name, rows in known.items()})
    labels, rows = file.truth(config.train), known[config.train]
    check_has_labels(file, labels[rows])
    if test is None or test == config.train:
        test = config.train
        strata = file.labels(config.train)[rows]  # of sets, the first class of each
        rest, part = split_by_class(strata - strata.min(initial=0), config.test_share, HELD_OUT_SEED)
        rows, test_rows, truth = rows[rest], rows[part], labels[rows[part]]
        reporter.note(
            f"there is no split to test on: {format_count(len(test_rows), 'image')} of {test} are held out for it, "
            f"{config.test_share:.0%} of {'all' if file.task == 'numbers' else 'each class'}"
        )
    else:
        truth = file.truth(test)
        test_rows = known[test]
        truth = truth[test_rows]
    check_can_score(file, test, truth)
    val = (
        "val"
        if "logreg-val" in config.probes and len(known.get("val", ())) and "val" not in (config.train, test)
        else None
    )
    return ProbeRows(config.train, rows, test, test_rows, labels[rows], truth, file.origin.class_names, file.task, val)


def choose_episode_rows(config: FewshotConfig, file: FeatureFile, known: dict[str, Ints]) -> ProbeRows:
    """All images of one split: an episode draws both its shots and its test images from them."""
    split = config.test or config.train
    rows, labels = known[split], file.truth(split)[known[split]]
    if file.task != "classes":
        raise UsageError(f"draws=episodes: needs one class per image, and the data has {LABEL_WORDS[file.task]}")
    most = max((shots or 0 for shots in config.shots), default=0)
    if not most or None in config.shots:
        raise UsageError("draws=episodes: write --shots N, the images per class that an episode learns from")
    enough = int((np.bincount(labels) >= most + config.queries).sum())
    if enough < config.ways:
        raise DataError(
            f"{file.path}: {format_count(enough, 'class')} of {split} with the {most} + {config.queries} images of an "
            f"episode, which needs {config.ways} classes; use fewer shots, or --set queries= and --set ways="
        )
    return ProbeRows(split, rows, split, rows, labels, labels, file.origin.class_names, file.task)


def check_can_score(file: FeatureFile, test: str, truth: Any) -> None:
    if not len(truth):
        raise DataError(f"{file.path}: has no labeled images in {test} to test a probe on")
    if file.task == "sets" and not truth.any():
        raise DataError(f"{file.path}: no image of {test} has a class, so a probe cannot be tested on it")
    if file.task == "numbers" and len(truth) < 2:
        raise DataError(f"{file.path}: has a single labeled image in {test}; R² needs two or more")


def check_probes(config: FewshotConfig, rows: ProbeRows, reporter: Reporter) -> None:
    kind = rows.kind
    for probe in config.probes:
        if kind != "classes" and probe not in TARGET_PROBES[kind]:
            raise UsageError(
                f"--probe {probe}: needs one class per image, and the data has {LABEL_WORDS[kind]}; "
                f"use {', '.join(TARGET_PROBES[kind])}"
            )
    if config.draws == "episodes" and "logreg-val" in config.probes:
        raise UsageError("--probe logreg-val: has no images to choose its strength on in an episode; use logreg")
    if config.protocol == "simpleshot" and not config.base:
        reporter.note(
            "SimpleShot subtracts the mean of the classes that the model was trained on; name their data with "
            "--set base=FILE; here it is the mean of the shots"
        )


def with_default_shots(config: FewshotConfig, rows: ProbeRows, reporter: Reporter) -> FewshotConfig:
    """Without --shots: the default shots, up to the size of the largest class; all if it has fewer."""
    if config.shots:
        return config
    most, usual = int(rows.counts.max()), NUMBER_SHOTS if rows.kind == "numbers" else SHOTS
    shots: tuple[int | None, ...] = tuple(each for each in usual if each <= most) or (None,)
    if shots != usual:
        names = ", ".join(str(each or "all") for each in shots)
        reporter.note(f"shots: {names}; {name_largest(rows)} has {format_count(most, 'image')}")
    return replace(config, shots=shots)


def name_largest(rows: ProbeRows) -> str:
    return rows.train if rows.kind == "numbers" else "the largest class"


def check_has_labels(file: FeatureFile, labels: Any) -> None:
    if not len(labels):
        raise DataError(f"{file.path}: has no labeled images to fit a probe to")
    if file.task == "sets" and not labels.any():
        raise DataError(f"{file.path}: none of its images has a class; a probe needs images of each")
    if file.task == "classes" and len(np.unique(labels)) < 2:
        raise DataError(f"{file.path}: all its images are of one class; a probe needs two or more classes")


def check_shots(config: FewshotConfig, rows: ProbeRows, reporter: Reporter) -> dict[str, int]:
    """Classes with fewer images than the most shots."""
    counts = rows.counts
    most = max((shots for shots in config.shots if shots), default=0)
    if most > counts.max():
        raise DataError(f"--shots {most}: {name_largest(rows)} has only {counts.max()} images; use fewer shots")
    short = {name: int(count) for name, count in zip(rows.classes, counts, strict=False) if count < most}
    if short:
        names = ", ".join(f"{name} ({count})" for name, count in list(short.items())[:5])
        reporter.warn(
            f"{format_count(len(short), 'class')} with fewer than {most} images; all of them are used: {names}"
        )
    return short
