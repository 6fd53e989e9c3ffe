import pytest

from vitctl.data.patchifier.stored import largest_patch


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (28, 7), (32, 8), (64, 16), (96, 16), (7, 1), (13, 1)])
def test_small_images_get_a_patch_that_leaves_sixteen(side: int, patch: int) -> None:
    assert largest_patch(side, side) == patch
