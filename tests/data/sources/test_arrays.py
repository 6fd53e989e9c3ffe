import io
import pickle
import zipfile

import numpy as np
import pytest

from vitctl.errors import DataError


@pytest.fixture
def arrays(make, look, tmp_path):
    """Scans a .npz of these arrays."""

    def arrays(**values):
        (tmp_path / "set.npz").write_bytes(make.npz_bytes(**values))
        return look(tmp_path / "set.npz")

    return arrays


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "y_train", "X_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("image_train", "label_train", "image_test", "label_test"),
    ],
)
def test_names_with_splits(arrays, make, names):
    values = make.pixels(3, 4, 5, 3), np.array([2, 0, 1]), make.pixels(1, 4, 5, 3, seed=1), np.array([[7]], np.uint8)
    scan = arrays(**dict(zip(names, values, strict=True)))
    assert [(each.label, each.split) for each in scan.found] == [(2, "train"), (0, "train"), (1, "train"), (7, "test")]
    assert np.array_equal(list(scan.read().values()), np.concatenate([values[0], values[2]]))
    assert scan.source.native == (4, 5, 3)


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y"), ("images", "labels"), ("data", "target")])
def test_names_without_splits(arrays, make, names):
    scan = arrays(**dict(zip(names, (make.pixels(2, 4, 5), np.array([1, -1])), strict=True)), other=np.zeros(3))
    assert [(each.label, each.split) for each in scan.found] == [(1, None), (None, None)]
    assert scan.source.native == (4, 5, 1)
    assert scan.source.notes() == ["ignored arrays: other"]


@pytest.mark.parametrize(
    ("shape", "native"),
    [
        ((2, 9, 8), (9, 8, 1)),
        ((2, 9, 8, 1), (9, 8, 1)),
        ((2, 9, 8, 4), (9, 8, 4)),
        ((2, 3, 9, 8), (9, 8, 3)),
        ((2, 1, 9, 8), (9, 8, 1)),
        ((2, 3, 3, 3), (3, 3, 3)),
    ],
)
def test_shapes(arrays, make, shape, native):
    values = make.pixels(*shape)
    scan = arrays(x=values)
    assert scan.source.native == native
    expected = np.moveaxis(values, 1, -1) if shape[-1] not in (1, 3, 4) and len(shape) == 4 else values
    assert np.array_equal(list(scan.read().values()), expected)
    assert all(image.flags.c_contiguous for image in scan.read().values())


def test_fortran_order(arrays, make):
    values = np.asfortranarray(make.pixels(3, 4, 5, 3))
    assert np.array_equal(list(arrays(x=values).read().values()), values)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats(arrays, make, kind):
    levels = np.arange(256).reshape(1, 16, 16)
    scan = arrays(x_train=(levels / 255).astype(kind), x_test=np.zeros((1, 16, 16), kind))
    if kind != np.float16:  # whose steps are wider than half a level
        assert np.array_equal(scan.read()["x_train/000000"], levels[0])
    assert scan.source.notes() == ["x_train, x_test: values from 0 to 1 were multiplied by 255 and rounded to bytes"]
    scan = arrays(x_train=levels.astype(kind), x_test=np.ones((1, 16, 16), kind))
    assert np.array_equal(scan.read()["x_train/000000"], levels[0])
    assert scan.read()["x_test/000000"].max() == 1
    assert scan.source.notes() == ["x_train, x_test: values from 0 to 255 were rounded to bytes"]


def test_other_numbers(arrays):
    assert arrays(x=np.full((1, 2, 2), 255)).read()["x/000000"].max() == 255
    assert arrays(x=np.ones((1, 2, 2), bool)).read()["x/000000"].max() == 255
    assert arrays(x=np.ones((1, 2, 2), np.int32)).read()["x/000000"].max() == 1


@pytest.mark.parametrize("value", [256, -1, 1e9, np.nan, np.inf])
def test_values_that_are_not_images(arrays, value):
    values = np.zeros((5, 3, 3))
    values[4, 2, 2] = value
    with pytest.raises(DataError, match=r"set\.npz: x hold"):
        arrays(x=values)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array(["b", "a"]), ["b", "a"]),
        (np.array([b"b", b"a"]), ["b", "a"]),
        (np.array([1.0, 0.0]), [1, 0]),
        (np.array([True, False]), [1, 0]),
        (np.array([[3], [4]], np.uint16), [3, 4]),
    ],
)
def test_labels(arrays, make, labels, expected):
    assert [each.label for each in arrays(x=make.pixels(2, 4, 4), y=labels).found] == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros((2, 14))},
            r"y has shape \(2, 14\); 2 images need one label",
        ),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros(3)}, r"y has shape \(3,\)"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.array([0.5, 1])}, "not whole"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.array([1j, 1])}, "dtype complex128; labels must be"),
        ({"x": np.zeros((2, 4, 4, 4, 4), np.uint8)}, r"\[M, H, W, C\]"),
        ({"x": np.zeros((2, 5, 5, 2), np.uint8)}, "with C of 1, 3 or 4"),
        ({"x": np.array(["a"])}, "images must be numbers"),
        ({"x": np.zeros((1, 2, 2)), "images": np.zeros((1, 2, 2))}, "x and images could both be the images"),
        ({"x": np.zeros((1, 2, 2)), "x_train": np.zeros((1, 2, 2))}, "only some arrays of images are named"),
        ({"x_train": np.zeros((1, 2, 2)), "x_test": np.zeros((1, 2, 2), np.uint8)}, "in all splits alike"),
        ({"arr_0": np.zeros((1, 2, 2))}, "no array of images; looked for x_train/y_train.*found arr_0"),
        ({"x": np.zeros((0, 2, 2), np.uint8)}, "no image"),
    ],
)
def test_arrays_that_do_not_fit(arrays, values, message):
    with pytest.raises(DataError, match=message):
        arrays(**values)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_objects_are_never_unpickled(look, make, tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (1, 2, 2)})
    stream.write(pickle.dumps(Trap()))
    (tmp_path / "set.npz").write_bytes(make.zip_bytes({"x.npy": stream.getvalue()}))
    with pytest.raises(DataError, match=r"x holds Python objects \(a pickle\)"):
        look(tmp_path / "set.npz")


def test_a_shape_that_its_bytes_do_not_fill(look, make, tmp_path):
    for shape in ((1 << 62, 4, 4), (-1, -2, 2), (2, 2, 2)):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        (tmp_path / "set.npz").write_bytes(make.zip_bytes({"x.npy": stream.getvalue() + bytes(4)}))
        with pytest.raises(DataError, match="do not make"):
            look(tmp_path / "set.npz")


def test_different_sizes_have_no_native_one(arrays, make):
    assert arrays(x_train=make.pixels(2, 4, 4), x_test=make.pixels(2, 5, 4)).source.native is None


def test_cut_anywhere_or_flipped(look, make, tmp_path):
    whole = make.npz_bytes(x=make.pixels(3, 4, 4), y=np.arange(3))
    path = tmp_path / "set.npz"
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            look(path)
    draw = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[draw.integers(len(content))] ^= 1 << draw.integers(8)
        path.write_bytes(content)
        try:
            look(path).read()
        except DataError:
            continue


def test_broken_headers(look, make, tmp_path):
    stream = io.BytesIO()
    np.save(stream, make.pixels(3, 4, 4))
    draw = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(stream.getvalue())
        content[draw.integers(128)] = draw.integers(256)
        (tmp_path / "set.npz").write_bytes(make.zip_bytes({"x.npy": bytes(content)}, zipfile.ZIP_STORED))
        try:
            look(tmp_path / "set.npz").read()
        except DataError:
            continue
