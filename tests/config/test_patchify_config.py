from typing import Any

import pytest

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"res": "224"}, r"res is '224'; write Res\(224\)"),
        ({"res": Res(225), "patch": 16}, "nearest are 224x224 and 240x240"),
        ({"fit": "stretch"}, "fit 'stretch' is unknown"),
        ({"channels": 2}, "1 or 3"),
        ({"split": ("val",)}, "write --split val=0.1"),
        ({"split": ("train=0.5",)}, "only val and test"),
        ({"split": ("val=0.5", "test=0.5")}, "leaves nothing for train"),
        ({"split": ("val=1.5",)}, "between 0 and 1"),
        ({"limit": 0}, "between 1 and 1,000,000,000,000"),
        ({"shard": "0"}, "needs --shards"),
        ({"shards": 4, "shard": "4"}, "between 0 and 3"),
        ({"shards": 4, "shard": "x"}, "write index, or the number of a shard"),
        ({"level": 12}, "between 0 and 9"),
        ({"kind": "foldr"}, "did you mean 'folder'"),
        ({"kind": "classes", "root": "x"}, "root is for a manifest, not for kind=classes"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PatchifyConfig(source="x", **fields)


def test_sizes_and_parts_are_read() -> None:
    config = PatchifyConfig(source="x", res=Res(192, 256), split=("valid=0.1", "test=0.2"))
    assert config.content()["res"] == "192x256"
    assert config.parts == {"val": 0.1, "test": 0.2}
    assert PatchifyConfig(source="x").content()["res"] == "auto"


def test_what_decides_the_bytes_leaves_out_who_does_the_work() -> None:
    one, other = (
        PatchifyConfig(source="x", workers=1, on_error="fail", out="a.h5"),
        PatchifyConfig(source="x", out="b.h5"),
    )
    assert one.content() == other.content()
    assert one.content() != PatchifyConfig(source="x", patch=8).content()


def test_how_a_manifest_is_read_decides_the_bytes_too() -> None:
    """But files that were made before these fields existed are still of the same options."""
    plain = PatchifyConfig(source="x").content()
    assert not {"root", "path_column", "label_column"} & set(plain)
    for name in ("root", "path_column", "label_column"):
        assert PatchifyConfig(source="x", **{name: "y"}).content() == {**plain, name: "y"}
