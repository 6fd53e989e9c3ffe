import numpy as np
import pytest

from vitctl.errors import DataError


def test_cifar10(look, make, tmp_path):
    scan = look(make.make_cifar(tmp_path))
    record = make.pixels(2, 3073) % 10
    assert len(scan.found) == 11
    assert scan.source.class_names == tuple(f"class {number}" for number in range(10))
    assert scan.placed()["data_batch_3.bin/00001"] == (record[1, 0], "train")
    assert scan.placed()["test_batch.bin/00000"] == (record[0, 0], "test")
    image = scan.read()["data_batch_5.bin/00001"]
    assert image[3, 7].tolist() == record[1, 1:][[3 * 32 + 7, 1024 + 3 * 32 + 7, 2048 + 3 * 32 + 7]].tolist()


def test_cifar100(look, make, tmp_path):
    record = np.arange(3074, dtype=np.uint8)
    names = {"fine_label_names.txt": "apple\nbear\n", "coarse_label_names.txt": "fruit\n"}
    root = make.write_folder(
        tmp_path / "set", {"train.bin": record.tobytes() * 2, "test.bin": record.tobytes(), **names}
    )
    scan = look(root)
    assert [(each.label, each.split) for each in scan.found] == [(1, "train"), (1, "train"), (1, "test")]
    assert scan.source.class_names == ("apple", "bear")
    assert scan.read()["test.bin/00000"][0, 0].tolist() == record[[2, 1026, 2050]].tolist()


def test_missing_and_broken_files(look, make, tmp_path):
    root = make.make_cifar(tmp_path)
    with open(root / "data_batch_2.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="its 6147 bytes are not a multiple of 3073"):
        look(root)
    (root / "data_batch_2.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"data_batch_2.bin: is empty"):
        look(root)
    (root / "data_batch_2.bin").unlink()
    (root / "batches.meta.txt").unlink()
    with pytest.raises(DataError, match=r"batches.meta.txt, data_batch_2.bin missing"):
        look(root)


@pytest.mark.parametrize(
    ("names", "version"),
    [(["data_batch_1", "data_batch_2", "test_batch", "batches.meta"], "10"), (["train", "test", "meta"], "100")],
)
def test_pickles_are_never_opened(look, make, tmp_path, names, version):
    files = dict.fromkeys(names, b"\x80\x04.")
    with pytest.raises(DataError, match=rf"CIFAR-{version}'s Python version.*pickles.*cifar-{version}-binary.tar.gz"):
        look(make.write_folder(tmp_path / "set", files))
    (tmp_path / "set.tgz").write_bytes(
        make.tar_bytes({f"cifar/{name}": content for name, content in files.items()}, "w:gz")
    )
    with pytest.raises(DataError, match="Python version"):
        look(tmp_path / "set.tgz")
