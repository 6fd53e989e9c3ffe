import pytest

from vitctl.data.sources.patterns import describe_missing, expand_braces, is_pattern


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a", ["a"]),
        ("{1..3}", ["1", "2", "3"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
        ("x{a}y{b,}", ["x{a}yb", "x{a}y"]),
        ("{}", ["{}"]),
        ("{000..001}{x,y}", ["000x", "000y", "001x", "001y"]),
        ("{3..1}", []),
    ],
)
def test_braces(pattern, paths):
    assert list(expand_braces(pattern)) == paths


def test_a_file_may_be_called_like_a_pattern(tmp_path):
    path = tmp_path / "a[1].tar"
    assert is_pattern(str(path))
    path.touch()
    assert not is_pattern(str(path))
    assert not is_pattern("plain/path.tar")


def test_what_is_missing(tmp_path):
    (tmp_path / "flowers").mkdir()
    assert describe_missing(tmp_path / "flower") == f"{tmp_path}/flower does not exist; did you mean 'flowers'?"
    assert describe_missing(tmp_path / "flowres" / "train" / "x.jpg").endswith(
        "(flowres is missing) does not exist; did you mean 'flowers'?"
    )
    assert describe_missing(tmp_path / "flowers" / "x") == f"{tmp_path}/flowers/x does not exist"
    assert describe_missing(tmp_path / "zebra") == f"{tmp_path}/zebra does not exist"
