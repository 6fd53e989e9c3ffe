import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitctl.io.jpeg import decode_jpeg, decode_window, encode_jpeg
from vitctl.io.jpeg_tiles import cut_tiles, read_tiling, tile_blocks


def draw_image(height, width, channels, seed=0):
    """Flat patches of 5 pixels, with edges in the middle of blocks."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 5), -(-width // 5), channels), np.uint8)
    return np.kron(coarse, np.ones((5, 5, 1), np.uint8))[:height, :width]


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 3]), st.data())
def test_a_window_has_the_pixels_of_the_whole(height, width, channels, data):
    content = encode_jpeg(draw_image(height, width, channels), 95)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    whole = decode_jpeg(content, channels)

    assert cut_tiles(content, window) is not None
    pixels = decode_window(memoryview(content), (height, width, channels), window)
    np.testing.assert_array_equal(pixels, whole[top : top + window[2], left : left + window[3]])


def test_only_the_tiles_of_a_window_are_kept():
    content = encode_jpeg(draw_image(352, 352, 3), 95)

    tiles, window = cut_tiles(content, (100, 90, 60, 80))

    assert window == (96, 88, 64, 88)  # rows of blocks, and tiles of 11 blocks
    assert len(tiles) < len(content) / 10
    with Image.open(io.BytesIO(tiles)) as image:
        assert image.size == (88, 64)


def test_tiles_keep_the_pixels_and_add_one_percent():
    rng = np.random.default_rng(0)
    image = np.clip(draw_image(352, 352, 3) + rng.normal(0, 8, (352, 352, 3)), 0, 255).astype(np.uint8)
    tiled, plain = encode_jpeg(image, 95), io.BytesIO()
    Image.fromarray(image).save(plain, "JPEG", quality=95, subsampling=0, optimize=True)

    np.testing.assert_array_equal(decode_jpeg(tiled, 3), decode_jpeg(plain.getvalue(), 3))
    assert len(plain.getvalue()) < len(tiled) < 1.01 * len(plain.getvalue())


@pytest.mark.parametrize(("width", "blocks"), [(352, 11), (224, 7), (448, 8), (384, 8), (350, 11), (32, 4), (296, 37)])
def test_tiles_divide_a_row_of_blocks(width, blocks):
    assert tile_blocks(width) == blocks
    assert -(-width // 8) % blocks == 0


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 2, "restart_marker_blocks": 2},  # colors of other tiles would be mixed in
        {"subsampling": 0, "progressive": True, "restart_marker_blocks": 2},
        {"subsampling": 0, "restart_marker_blocks": 3},  # tiles that end in the next row
        {"subsampling": 0},
    ],
)
def test_other_jpegs_are_decoded_whole(options):
    content = io.BytesIO()
    Image.fromarray(draw_image(64, 64, 3)).save(content, "JPEG", **options)

    assert cut_tiles(content.getvalue(), (8, 8, 16, 16)) is None
    pixels = decode_window(content.getvalue(), (64, 64, 3), (8, 8, 16, 16))
    np.testing.assert_array_equal(pixels, decode_jpeg(content.getvalue(), 3)[8:24, 8:24])


@given(st.binary(max_size=60), st.integers(0, 400))
def test_damage_is_not_an_unknown_error(junk, at):
    content = encode_jpeg(draw_image(64, 64, 3), 95)
    damaged = content[:at] + junk + content[at + len(junk) :]

    try:
        pixels = decode_window(damaged, (64, 64, 3), (8, 8, 16, 16))
    except (OSError, RuntimeError, LookupError):  # those that a patch file explains
        return
    assert pixels.shape == (16, 16, 3)


def test_a_header_without_end_has_no_tiling():
    assert read_tiling(b"\xff\xd8\xff\xe0\x00\x04ab") is None
