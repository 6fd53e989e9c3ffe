import gzip

import numpy as np
import pytest

from vitctl.errors import DataError


@pytest.fixture
def write(make, tmp_path):
    """Writes one split's two files."""

    def write(prefix="", word="train", form="{}-idx{}-ubyte", images=None, labels=None, packed=False):
        images = make.pixels(4, 3, 5) if images is None else images
        labels = np.arange(4) if labels is None else labels
        for what, values, dimensions in (("images", images, 3), ("labels", labels, 1)):
            content = make.idx_bytes(values) if isinstance(values, np.ndarray) else values
            name = prefix + form.format(f"{word}-{what}", dimensions)
            make.write_folder(tmp_path / "set", {name + ".gz" * packed: gzip.compress(content) if packed else content})
        return tmp_path / "set"

    return write


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["{}-idx{}-ubyte", "{}.idx{}-ubyte"])
def test_images_and_labels(look, make, write, packed, form):
    write(packed=packed, form=form)
    scan = look(
        write(word="t10k", packed=packed, form=form, images=make.pixels(2, 3, 5, seed=1), labels=np.array([9, 0]))
    )
    assert [(each.label, each.split) for each in scan.found] == [
        (0, "train"),
        (1, "train"),
        (2, "train"),
        (3, "train"),
        (9, "test"),
        (0, "test"),
    ]
    assert np.array_equal(list(scan.read().values()), [*make.pixels(4, 3, 5), *make.pixels(2, 3, 5, seed=1)])
    assert scan.source.native == (3, 5, 1)
    assert not scan.source.notes()


def test_emnist(look, write):
    write(prefix="emnist-letters-")
    root = write(prefix="emnist-letters-", word="test")
    scan = look(root)
    assert {each.split for each in scan.found} == {"train", "test"}
    assert "transposed" in scan.source.notes()[0]
    write(prefix="emnist-digits-")
    with pytest.raises(DataError, match=r"several IDX data sets; name one file .*emnist-digits-train"):
        look(root)
    scan = look(root / "emnist-letters-test-images-idx3-ubyte")
    assert scan.found[0].name == "emnist-letters-train-images-idx3-ubyte/000000"
    assert len(scan.found) == 8


def test_a_folder_around_it_with_packed_files_left_beside(look, write, tmp_path):
    (write(packed=True) / "train-images-idx3-ubyte").write_bytes(b"half")
    with pytest.raises(DataError, match="not an IDX file"):
        look(tmp_path / "set")
    write().rename(tmp_path / "raw")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "raw").rename(tmp_path / "a" / "b" / "raw")
    assert look(tmp_path / "a").source.kind == "idx"


def test_packed_together(look, make, write, tmp_path):
    files = {f"mnist/{path.name}": path.read_bytes() for path in write().iterdir()}
    for form in ("tar_bytes", "zip_bytes"):
        (tmp_path / "packed").write_bytes(getattr(make, form)(files))
        with pytest.raises(DataError, match="packed: holds MNIST's own files; unpack it"):
            look(tmp_path / "packed")


def test_wrong_files(look, make, write, tmp_path):
    with pytest.raises(DataError, match="4 images, but 3 labels"):
        look(write(labels=np.arange(3)))
    with pytest.raises(DataError, match="not an IDX file of bytes in 3 dimensions"):
        look(write(images=make.pixels(4, 3)))
    with pytest.raises(DataError, match=r"is empty \(0 x 3 x 5\)"):
        look(write(images=make.pixels(0, 3, 5)))
    with pytest.raises(DataError, match="has 77 bytes, but its header promises 76"):
        look(write(images=make.idx_bytes(make.pixels(4, 3, 5)) + b"x"))
    (write() / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="belong together"):
        look(tmp_path / "set")


def test_an_idx_file_of_another_name(look, make, tmp_path):
    make.write_folder(tmp_path, {"pictures": make.idx_bytes(make.pixels(4, 3, 5))})
    with pytest.raises(DataError, match="not named like one of MNIST's, such as train-images-idx3-ubyte"):
        look(tmp_path / "pictures")


@pytest.mark.parametrize("packed", [False, True])
def test_cut_anywhere(look, write, packed):
    root = write(packed=packed)
    for path in sorted(root.iterdir()):
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError):
                look(root)
        path.write_bytes(whole)
    look(root)
