"""Checks of what users pass in: which parameter, what was expected, what came, what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.preprocessing import LabelEncoder
from torch import Tensor

from bayesflow_nn.calibration.inputs import as_array


def check_vector(name: str, values: ArrayLike | Tensor, n: int | None = None) -> np.ndarray:
    """Return finite numbers ``(n,)`` in float64, from one column as well, or raise."""
    array = as_array(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or len(array) == 0 or n not in (None, len(array)):
        raise ValueError(
            f"{name} must be a vector of {'numbers' if n is None else f'{n} numbers'}, or one "
            f"column, got shape {array.shape}; of several columns pass one."
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity; leave these points out.")
    return array


def check_posterior(posterior: Any, *attributes: str) -> None:
    """Raise unless the fitted posterior has what a figure needs."""
    missing = [name for name in attributes if not hasattr(posterior, name)]
    if missing:
        raise TypeError(
            f"posterior must be a fitted FlowPosterior, got {type(posterior).__name__} without "
            f"{missing[0]}; fit it, or pass the posterior_ of a FlowBNNClassifier or "
            f"FlowBNNRegressor."
        )


def class_labels(estimator: Any, n_classes: int) -> np.ndarray:
    """Labels of the columns of `predict_proba`: `classes_`, or 0, ..., n_classes - 1."""
    return np.asarray(getattr(estimator, "classes_", np.arange(n_classes)))


def class_indices(labels: np.ndarray, y: ArrayLike | Tensor) -> np.ndarray:
    """Columns of the labels `y`; scikit-learn raises for a label that is not there."""
    encoder = LabelEncoder()
    encoder.classes_ = labels
    return encoder.transform(as_array(y))
