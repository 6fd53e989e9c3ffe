"""The labels that an estimator is fitted to."""

import warnings
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets


def encode_labels(y: Any) -> tuple[Any, Any]:
    """(classes, the number of each example's). With a shot or two a class, scikit-learn suspects a regression."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        check_classification_targets(y)
    return np.unique(y, return_inverse=True)
