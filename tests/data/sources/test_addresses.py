import pytest

from vitctl.data.sources.addresses import hide_secrets, holds_secrets, is_address, name_of_address, resolve_address


@pytest.mark.parametrize(("text", "shown"), [
    ("https://user:word@host/a.tar?X-Amz-Signature=1&b=2#c", "https://host/a.tar"),
    ("https://host/shard-{000..099}.tar", "https://host/shard-{000..099}.tar"),
    ("s3://key:secret@bucket/train-?.parquet", "s3://bucket/train-?.parquet"),
    ("hf://datasets/me/set@main/a.parquet", "hf://datasets/me/set@main/a.parquet"),
    ("hf:me/set@main:train", "hf:me/set@main:train"),
    ("folder/what?.tar", "folder/what?.tar"),
])  # fmt: skip
def test_secrets_are_hidden_and_nothing_else(text, shown):
    assert hide_secrets(text) == shown
    assert is_address(text) == (text != "folder/what?.tar")


def test_signatures_are_recognized():
    for query in ("X-Amz-Signature=1", "a=1&sig=2", "access_token=1", "Expires=1&Key-Pair-Id=2"):
        assert holds_secrets(f"https://host/a.jpg?{query}")
    assert holds_secrets("https://user:word@host/a.jpg")
    assert not holds_secrets("https://host/a@2x.jpg?width=9&id=3")
    assert not holds_secrets("what?sig=1.jpg")


@pytest.mark.parametrize(("path", "root", "address"), [
    ("im/1.jpg", "https://host/set", "https://host/set/im/1.jpg"),
    ("im/a b#?%.jpg", "https://host/set", "https://host/set/im/a%20b%23%3F%25.jpg"),
    ("im/a b#.jpg", "s3://bucket/set", "s3://bucket/set/im/a b#.jpg"),
    ("../im/1.jpg", "https://host/set/deep", "https://host/set/im/1.jpg"),
    ("/im/1.jpg", "https://host/set", "https://host/im/1.jpg"),
    ("1.jpg", "https://host", "https://host/1.jpg"),
    ("https://other/a%20b.jpg?id=1", "s3://bucket/set", "https://other/a%20b.jpg?id=1"),
])  # fmt: skip
def test_paths_of_a_manifest_become_addresses(path, root, address):
    assert resolve_address(tuple(path.split("/")), root) == address


def test_a_patch_file_is_named_after_the_address():
    assert name_of_address("hf:ylecun/mnist:train") == "mnist-train"
    assert name_of_address("hf:mnist") == "mnist"
    assert name_of_address("https://host/shard-{000..099}.tar?sig=1") == "shard-000-099"
    assert name_of_address("s3://bucket/set/*.parquet") == "data"
