"""Some rows of a split."""

from pathlib import Path

import numpy as np

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.io.patch_file import PatchFile
from vitctl.io.subset import Subset
from vitctl.reporting import SilentReporter
from vitctl.workflows.patchify import patchify


def test_a_subset_of_a_subset_has_the_right_rows(tmp_path: Path) -> None:
    patchify(
        PatchifyConfig(source="digits", out=str(tmp_path / "d.h5"), res=Res(16), patch=8, limit=60), SilentReporter()
    )
    train = PatchFile(tmp_path / "d.h5").split("train")
    outer = Subset(train, np.array([40, 7, 33, 2, 19]), "train")
    inner = Subset(outer, np.array([3, 0]), "train")
    assert inner.rows == 2
    assert inner.labels().tolist() == train.labels()[[2, 40]].tolist()
    assert inner.names(np.arange(2)) == train.names(np.array([2, 40]))
    assert np.array_equal(inner.patches(np.array([1, 0])), train.patches(np.array([40, 2])))
