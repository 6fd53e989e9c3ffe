"""Fewer images of a split: evenly from the classes, or as they come."""

import numpy as np
import pytest
from scipy.stats import chisquare

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.subsets import limit_split
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.subset import Subset
from vitctl.reporting import SilentReporter
from vitctl.workflows.patchify import patchify


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """All digits but most of the first five classes."""
    path = tmp_path_factory.mktemp("data") / "digits.h5"
    patchify(PatchifyConfig(source="digits", out=str(path), res=Res(8), patch=8), SilentReporter())
    train = PatchFile(path).split("train")
    labels = train.labels()
    rows = np.concatenate([np.flatnonzero(labels == label)[: 20 if label < 5 else None] for label in range(10)])
    return Subset(train, np.sort(rows), "train")


def rows_of(part: Split) -> list[bytes]:
    return [row.tobytes() for row in part.patches(np.arange(part.rows))]


def test_a_fixed_draw_is_the_same_for_every_seed_in_the_frequencies_of_the_classes(skewed: Split) -> None:
    """As VTAB-1k's thousand examples of each task: the same for all who train on it."""
    first, other = (limit_split(skewed, 300, seed, "fixed") for seed in (0, 7))
    assert first.rows == 300
    assert rows_of(first) == rows_of(other)
    counts, whole = (np.bincount(part.labels(), minlength=10) for part in (first, skewed))
    assert chisquare(counts, whole * 300 / skewed.rows).pvalue > 0.01
    assert counts[:5].max() < counts[5:].min()
    fewer = limit_split(skewed, 100, 0, "fixed")
    assert set(rows_of(fewer)) <= set(rows_of(first))


def test_an_even_draw_has_as_many_of_each_class_and_follows_the_seed(skewed: Split) -> None:
    first, other = (limit_split(skewed, 200, seed) for seed in (0, 7))
    assert np.bincount(first.labels()).tolist() == [20] * 10
    assert rows_of(first) != rows_of(other)
    assert limit_split(skewed, skewed.rows, 0, "fixed") is skewed
