import numpy as np
from sklearn.datasets import load_digits


def test_digits(look):
    scan = look("digits")
    loaded = load_digits()
    assert [each.label for each in scan.found] == loaded.target.tolist()
    read = np.array(list(scan.read().values()))
    assert np.array_equal(read, np.floor(loaded.images * 255 / 16 + 0.5))  # no value lies between two bytes but 8
    assert (read.dtype, read.max(), scan.source.native) == (np.uint8, 255, (8, 8, 1))
    assert scan.source.class_names == tuple("0123456789")
