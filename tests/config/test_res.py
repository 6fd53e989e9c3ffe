"""A resolution: how it is written, and what it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitctl.config.res import Res
from vitctl.errors import ConfigError


@given(st.integers(1, 99_999), st.integers(1, 99_999))
def test_text_and_back(height: int, width: int) -> None:
    res = Res(height, width)
    assert Res.parse(str(res)) == res
    assert (*res,) == (height, width)


def test_one_number_is_a_square() -> None:
    assert Res(384) == Res(384, 384) == Res.parse(" 384 ") == Res.parse("384x384")
    assert str(Res.parse("192X256")) == "192x256"


@pytest.mark.parametrize("text", ["", "x", "224x", "x224", "-1", "0", "0x5", "5x0", "1e3", "123456", "2.5", "1 2"])
def test_what_is_no_resolution(text: str) -> None:
    with pytest.raises(ConfigError, match="write 224, or 192x256 for height x width"):
        Res.parse(text)


def test_sides_have_a_range() -> None:
    with pytest.raises(ConfigError, match="height is 0; it must lie between 1 and 100,000"):
        Res(0)
