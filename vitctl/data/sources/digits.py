"""scikit-learn's handwritten digits: 1,797 images of 8x8, to try everything without a download."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from vitctl.data.sources.contract import FoundImage, Sighting, Source

BRIGHTEST = 16  # scikit-learn's largest pixel value


class Digits(Source):
    kind = "digits"
    native = 8, 8, 1
    class_names = tuple("0123456789")

    def sightings(self) -> Iterator[Sighting]:
        for row, label in enumerate(digits()[1].tolist()):
            yield FoundImage(f"digits/{row:04d}", label, None, 0, row)

    def read(self, name: str, file: int, offset: int, size: int) -> np.ndarray[Any, Any]:
        return np.array(digits()[0][offset])  # [H, W]

    def no_images_message(self) -> str:
        return "digits: scikit-learn has none; install it again"


@lru_cache(maxsize=1)
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """uint8 [M, 8, 8] and their classes [M]."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels: np.ndarray[Any, Any] = np.round(loaded.images * 255 / BRIGHTEST)
    return pixels.astype(np.uint8), loaded.target
