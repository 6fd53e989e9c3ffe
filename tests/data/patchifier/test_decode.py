"""Right pixels, whatever an image comes as: each kind against what Pillow says it shows."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitctl.data.patchifier import decode as decoding
from vitctl.data.patchifier.decode import Target, crop_box, decode, fit
from vitctl.data.patchifier.image_file import plain_jpeg_format
from vitctl.errors import DataError

Pixels = np.ndarray[Any, Any]
FULL = Target(48, 64, 3)


def photo(height: int = 48, width: int = 64) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(9 * x + 3 * y), np.cos(7 * y), np.sin(5 * x * y + 1)]
    return Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(one: Pixels, other: Any) -> int:
    return int(np.abs(one.astype(int) - np.asarray(other).reshape(one.shape).astype(int)).max())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_kinds_are_exact(kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert difference(decode(encoded(photo(), kind, **options), FULL), photo()) == 0


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_is_what_pillow_shows(subsampling: int) -> None:
    content = encoded(photo(), "JPEG", quality=92, subsampling=subsampling)
    assert difference(decode(content, FULL), Image.open(io.BytesIO(content))) <= 1


def test_gray_jpeg_becomes_what_was_asked_for() -> None:
    content = encoded(photo().convert("L"), "JPEG", quality=95)
    gray = np.asarray(Image.open(io.BytesIO(content)))
    assert difference(decode(content, Target(48, 64, 1)), gray) <= 1
    assert difference(decode(content, FULL), np.repeat(gray[:, :, None], 3, 2)) <= 1


def test_cmyk_jpeg_is_converted() -> None:
    content = encoded(photo().convert("CMYK"), "JPEG", quality=95)
    assert difference(decode(content, FULL), Image.open(io.BytesIO(content)).convert("RGB")) == 0
    assert difference(decode(content, FULL), photo()) < 24  # and looks like what it was


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert difference(decode(content, Target(*upright.shape[:2], 3)), upright) <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_large_jpeg_is_upright_too(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo(960, 1280), "JPEG", quality=95, exif=exif)
    drafted, whole = decode(content, Target(96, 96, 3)), decode(content, Target(96, 96, 3, draft=False))
    assert np.abs(drafted.astype(int) - whole.astype(int)).mean() < 1


@pytest.mark.parametrize(("height", "width"), [(1000, 1403), (1403, 1000), (999, 1001), (2047, 700)])
def test_a_large_jpeg_is_not_shifted_by_its_short_cut(height: int, width: int) -> None:
    content = encoded(photo(height, width), "JPEG", quality=95)
    target = Target(224, 192, 3)
    drafted, whole = decode(content, target), decode(content, Target(224, 192, 3, draft=False))
    assert np.abs(drafted.astype(int) - whole.astype(int)).mean() < 0.6
    shifted = np.roll(whole, 1, axis=1).astype(int)
    assert np.abs(drafted.astype(int) - whole.astype(int)).mean() < 0.5 * np.abs(drafted.astype(int) - shifted).mean()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_on_white(mode: str) -> None:
    alpha = Image.new("L", (64, 48), 0)
    alpha.paste(255, (0, 0, 32, 48))
    image = photo().convert("RGBA")
    image.putalpha(alpha)
    kind = "TIFF" if mode == "PA" else "PNG"
    pixels = decode(encoded(image.convert(mode if mode != "PA" else "RGBA"), kind), FULL)
    assert (pixels[:, 32:] == 255).all()
    assert (pixels[:, :32] != 255).any()


def test_a_palette_with_a_transparent_entry_is_on_white() -> None:
    image = Image.new("P", (64, 48), 0)
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    image.paste(1, (32, 0, 64, 48))
    pixels = decode(encoded(image, "PNG", transparency=0), FULL)
    assert (pixels[:, :32] == 255).all()
    assert (pixels[:, 32:] == [0, 0, 255]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_high_byte(kind: str) -> None:
    values = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(values), kind), Target(48, 64, 1))
    assert difference(pixels, values >> 8) == 0


def test_one_bit_is_black_and_white() -> None:
    bits = Image.fromarray((np.indices((48, 64)).sum(0) % 2 * 255).astype(np.uint8)).convert("1")
    assert difference(decode(encoded(bits, "PNG"), Target(48, 64, 1)), np.asarray(bits.convert("L"))) == 0


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_shows_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert difference(decode(content, FULL), frames[0]) <= 1


@pytest.mark.parametrize("size", [(24, 32), (100, 100), (37, 91)])
@pytest.mark.parametrize("mode", ["crop", "squash"])
def test_resizing_is_pillows_antialiased_bicubic(size: tuple[int, int], mode: str) -> None:
    image = photo(150, 211)
    pixels = decode(encoded(image, "PNG"), Target(*size, 3, fit=mode))
    left, top, width, height = crop_box(211, 150, size[1], size[0]) if mode == "crop" else (0, 0, 211, 150)
    expected = image.crop((left, top, left + width, top + height)).resize(size[::-1], Image.Resampling.BICUBIC)
    assert difference(pixels, expected) <= 1


def test_padding_keeps_the_whole_image_in_the_middle_of_white() -> None:
    pixels = decode(encoded(photo(30, 60), "PNG"), Target(64, 64, 3, fit="pad"))
    assert (pixels[:16] == 255).all()
    assert (pixels[-16:] == 255).all()
    assert difference(pixels[16:48], photo(30, 60).resize((64, 32), Image.Resampling.BICUBIC)) <= 1


def test_arrays_are_taken_as_they_are() -> None:
    gray = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    assert difference(decode(gray, Target(48, 64, 1)), gray) == 0
    assert difference(decode(gray, FULL), np.repeat(gray[:, :, None], 3, 2)) == 0
    color = np.asarray(photo())
    assert difference(decode(color, Target(48, 64, 1)), np.asarray(photo().convert("L"))) == 0
    clear = np.dstack([color, np.zeros((48, 64), np.uint8)])
    assert (decode(clear, FULL) == 255).all()


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_a_sliver_still_fills_the_target(mode: str) -> None:
    for shape in ((1, 500, 3), (500, 1, 3), (1, 1, 3)):
        assert fit(np.full(shape, 7, np.uint8), Target(32, 48, 3, fit=mode)).shape == (32, 48, 3)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DataError, match="decompression bomb: 64x48 pixels, over max_pixels=3000"):
        decode(encoded(photo(), "PNG"), Target(48, 64, 3, max_pixels=3000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_file_is_a_reason_and_not_a_crash(kind: str, share: float) -> None:
    content = encoded(photo(200, 300), kind)
    with pytest.raises(DataError) as caught:
        decode(content[: int(len(content) * share)], FULL)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 200


def test_reasons_are_the_same_on_every_run() -> None:
    for content in (b"no image", b"", encoded(photo(), "PNG")[:200]):
        reasons = set()
        for _ in range(3):
            with pytest.raises(DataError) as caught:
                decode(content, FULL)
            reasons.add(str(caught.value))
        assert len(reasons) == 1
        assert "0x" not in reasons.pop()


def test_flipped_bits_never_crash() -> None:
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = encoded(photo(), kind)
        for _ in range(60):
            content = bytearray(whole)
            for place in random.integers(0, len(content), 4):
                content[place] ^= 1 << random.integers(0, 8)
            try:
                assert decode(bytes(content), FULL).shape == (48, 64, 3)
            except DataError as error:
                assert "\n" not in str(error)


def test_large_jpegs_do_take_the_short_cut() -> None:
    content = encoded(photo(960, 1280), "JPEG", quality=95)
    whole = Image.open(io.BytesIO(content))
    whole.draft("RGB", (256, 192))
    assert whole.size == (320, 240)  # what a quarter is
    drafted, full = decode(content, Target(96, 96, 3)), decode(content, Target(96, 96, 3, draft=False))
    assert not np.array_equal(drafted, full)


@pytest.mark.parametrize("broken", ["PNG", "WEBP", "JPEG"])
def test_broken_exif_says_nothing_about_the_pixels(broken: str) -> None:
    content = encoded(photo(), broken, exif=b"Exif\0\0 no TIFF at all")
    assert decode(content, FULL).shape == (48, 64, 3)


def test_pillows_own_limit_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode(encoded(photo(), "PNG"), FULL)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True}, {"comment": "x" * 500}, {"dpi": (72, 72)}]
)
def test_sizes_are_read_from_markers_as_pillow_reads_them(options: dict[str, Any]) -> None:
    for image in (photo(31, 57), photo(31, 57).convert("L")):
        assert plain_jpeg_format(encoded(image, "JPEG", **options)) == (57, 31, len(image.getbands()))
    assert plain_jpeg_format(encoded(photo().convert("CMYK"), "JPEG", **options)) is None
    content = encoded(photo(), "JPEG", **options)
    assert all(plain_jpeg_format(content[:length]) in (None, (64, 48, 3)) for length in range(0, 400))


@pytest.mark.parametrize("channels", [1, 3])
def test_without_the_quick_decoder_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """torchvision means to drop it."""
    content, target = encoded(photo(150, 211), "JPEG", quality=92), Target(64, 64, channels)
    quick = decode(content, target)
    monkeypatch.setattr(decoding, "HAS_JPEG", False)
    assert difference(quick, decode(content, target)) <= 1
