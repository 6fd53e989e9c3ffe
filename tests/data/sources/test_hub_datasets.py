"""Names of data sets on the hub, against its real client and a server on the loopback."""

import json
from pathlib import Path

import pytest

from tests.remote_server import serve_folder
from vitctl.data.sources import open_source
from vitctl.data.sources.remote import connection_to
from vitctl.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
OWN, CONVERTED = "datasets/me/{}", "datasets/me/{}@refs/convert/parquet"


def write_table(path: Path, count: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": path.name.encode(), "path": None}] * count)
    parquet.write_table(pa.table({"image": images, "label": [0] * count}), path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Makes the files of a data set; `card` is what its card says about configs."""
    with serve_folder(tmp_path) as state:
        template = f"{state.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        connection_to.cache_clear()
        monkeypatch.setenv("no_proxy", "127.0.0.1")

        def make(name: str, *paths: str, place: str = OWN, card: object = None) -> None:
            home = tmp_path / place.format(name)
            (tmp_path / OWN.format(name)).mkdir(parents=True, exist_ok=True)
            for path in paths:
                write_table(home / path)
            if card:
                (home / "card.json").write_text(json.dumps({"configs": card}))

        make.state = state
        yield make


def files_and_splits(name: str) -> list[tuple[str, str | None]]:
    source = open_source(name)
    return [(file.path, split) for file, split in zip(source.files, source.splits, strict=True)]


@pytest.mark.parametrize(("name", "message"), [
    ("hf:me/nothing", "the hub has no such data set, or it is private; check the name, or log in"),
    ("hf:me/script", "holds no Parquet files, and the hub has no converted copy"),
    ("hf:me/two", "has several configs; choose one: hf:me/two/big, hf:me/two/small$"),
    ("hf:me/two/bigg", "has no config 'bigg'; did you mean 'big'?"),
    ("hf:me/two/big:tests", "has no split 'tests'; known: train"),
    ("hf:me/two/big/x", "is not understood; write hf:OWNER/NAME"),
    ("hf:", "is not understood"),
])  # fmt: skip
def test_names_that_the_hub_does_not_have(hub, name, message):
    hub("two", "big/train/0000.parquet", "small/train/0000.parquet", place=CONVERTED)
    hub("script")
    with pytest.raises(DataError) as caught:
        open_source(name)
    assert f"{name}: {message.rstrip('$')}" in str(caught.value)
    assert not message.endswith("$") or str(caught.value).endswith(message[:-1])


def test_a_gated_data_set_and_a_hub_that_is_away(hub, monkeypatch):
    hub("set", "data/train-0.parquet")
    hub.state.before = lambda number: setattr(hub.state, "status", 403 if "/resolve/" in hub.state.asked[-1] else None)
    with pytest.raises(DataError, match=r"hf:me/set: is gated; accept its terms on its page, then log in"):
        open_source("hf:me/set")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"hf:me/set: the hub cannot be reached \(.*refused\); check the network"):
        open_source("hf:me/set")


def test_files_are_named_by_split_or_by_the_card(hub):
    hub("named", "data/train-0.parquet", "data/validation-0.parquet", "data/extra-0.parquet")
    assert [split for _, split in files_and_splits("hf:me/named")] == [None] * 3
    configs = [
        {
            "config_name": "a",
            "data_files": [{"split": "train", "path": "x/*"}, {"split": "test", "path": ["y/1.parquet"]}],
        },
        {"config_name": "b", "data_dir": "y"},
    ]
    hub("card", "x/0.parquet", "y/1.parquet", "y/2.parquet", card=configs)
    assert files_and_splits("hf:me/card/a") == [
        ("hf:me/card/x/0.parquet", "train"),
        ("hf:me/card/y/1.parquet", "test"),
    ]
    assert [path for path, _ in files_and_splits("hf:me/card/a:test")] == ["hf:me/card/y/1.parquet"]
    assert files_and_splits("hf:me/card/b") == [("hf:me/card/y/1.parquet", None), ("hf:me/card/y/2.parquet", None)]


def test_the_converted_copy_may_be_a_part(hub):
    hub("set", "default/partial-train/0000.parquet", "default/extra/0000.parquet", place=CONVERTED)
    source = open_source("hf:me/set")
    assert source.splits == ["train"]
    assert source.notes() == [
        "ignored splits: extra",
        "the hub has converted only a part of hf:me/set; its own files hold the rest",
    ]
    assert files_and_splits("hf:me/set:extra") == [("hf:me/set/default/extra/0000.parquet", None)]


def test_files_are_read_at_the_commit(hub):
    hub("set", "data/train-0.parquet")
    source = open_source("hf:me/set@main:train")
    (first, _) = source.scan()
    assert source.read(first.name, first.file, first.offset, first.size) == b"train-0.parquet"
    assert all("a" * 40 in asked for asked in hub.state.asked if "/resolve/" in asked)
