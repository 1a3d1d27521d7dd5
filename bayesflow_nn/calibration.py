"""How far predicted probabilities can be believed: scores and the reliability curve.

For probabilities p of n inputs, with labels y:

    negative log likelihood   - mean_i log p_i[y_i]                     nats
    Brier score               mean_i sum_c (p_i[c] - 1[y_i = c])²       between 0 and 2
    calibration error         sum_b (n_b / n) |accuracy_b - confidence_b|

The last groups inputs by confidence, the probability of the predicted class, into bins b of equal
width [Guo et al. 2017, On calibration of modern neural networks, eq. 3].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights.validation import check_integer


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Accuracy against confidence, in bins of equal width.

    Attributes
    ----------
    edges : array of shape (n_bins + 1,)
        Bin b holds the confidences above ``edges[b]`` and up to ``edges[b + 1]``.
    confidence, accuracy : array of shape (n_bins,)
        Means over the inputs of each bin; NaN where a bin is empty.
    count : array of shape (n_bins,)
        Inputs in each bin.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean over inputs of the gap between accuracy and confidence of their bin."""
        gap = np.abs(self.accuracy - self.confidence)
        filled = self.count > 0
        return float(np.average(gap[filled], weights=self.count[filled]))


def negative_log_likelihood(proba: ArrayLike | Tensor, y: ArrayLike | Tensor) -> float:
    """Mean negative log likelihood of the labels, in nats.

    Infinite if a label has probability zero, where scikit-learn's `log_loss` clips at a value that
    depends on the dtype.

    Parameters
    ----------
    proba : array or Tensor of shape (n_inputs, n_classes)
        Probabilities; rows sum to one.
    y : array or Tensor of shape (n_inputs,)
        Class indices 0, ..., n_classes - 1.

    Raises
    ------
    ValueError
        If `proba` holds no probabilities, or `y` no class indices for them.

    Examples
    --------
    >>> round(negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
    0.4904
    """
    proba, y = _checked(proba, y)
    with np.errstate(divide="ignore"):
        return float(-np.log(proba[np.arange(len(y)), y]).mean()) + 0.0  # no negative zero


def brier_score(proba: ArrayLike | Tensor, y: ArrayLike | Tensor) -> float:
    """Mean squared distance between probabilities and one-hot labels, from 0 to 2.

    The sum runs over all classes, for two classes as well. Parameters and errors are those of
    `negative_log_likelihood`.

    Examples
    --------
    >>> brier_score([[0.5, 0.5], [0.0, 1.0]], [0, 1])
    0.25
    """
    proba, y = _checked(proba, y)
    return float(np.square(proba - np.eye(proba.shape[1])[y]).sum(1).mean())


def expected_calibration_error(
    proba: ArrayLike | Tensor, y: ArrayLike | Tensor, *, n_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, over `n_bins` bins of equal width.

    Parameters and errors are those of `reliability_curve`.

    Examples
    --------
    >>> round(expected_calibration_error([[0.9, 0.1], [0.9, 0.1]], [0, 1]), 4)
    0.4
    """
    return reliability_curve(proba, y, n_bins=n_bins).expected_calibration_error


def reliability_curve(
    proba: ArrayLike | Tensor, y: ArrayLike | Tensor, *, n_bins: int = 15
) -> ReliabilityCurve:
    """Accuracy of the predicted class against its probability.

    Parameters
    ----------
    proba, y
        As in `negative_log_likelihood`.
    n_bins : int
        Bins of equal width between 0 and 1.

    Raises
    ------
    ValueError
        If `proba` holds no probabilities, `y` no class indices for them, or `n_bins` is no
        positive integer.

    Examples
    --------
    >>> curve = reliability_curve([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]], [0, 1, 1], n_bins=4)
    >>> curve.count, curve.accuracy
    (array([0, 0, 1, 2]), array([nan, nan, 1. , 0.5]))
    """
    proba, y = _checked(proba, y)
    edges = np.linspace(0, 1, check_integer("n_bins", n_bins) + 1)
    top = proba.argmax(1)
    confidence = proba[np.arange(len(y)), top]
    # Rounding may put a confidence just above 1.
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    count = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bins, confidence, minlength=n_bins) / count
        accuracy = np.bincount(bins, top == y, minlength=n_bins) / count
    return ReliabilityCurve(edges, mean_confidence, accuracy, count)


def _checked(proba: ArrayLike | Tensor, y: ArrayLike | Tensor) -> tuple[np.ndarray, np.ndarray]:
    proba, y = _as_array(proba), _as_array(y)
    if proba.ndim != 2 or proba.shape[1] < 2 or len(proba) == 0:
        raise ValueError(
            f"proba must have shape (n_inputs, n_classes) with at least one input and two "
            f"classes, got {proba.shape}; for one column p pass [1 - p, p]."
        )
    # Rows summed in float32 over many classes, or averaged, are off by a few roundings.
    if not (proba >= 0).all() or not np.allclose(proba.sum(1), 1, rtol=0, atol=1e-4):
        raise ValueError(
            "proba must hold probabilities: finite, non-negative, rows that sum to one; turn "
            "logits into probabilities with a softmax."
        )
    if y.shape != proba.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"y must hold one integer class index per row of proba, shape {proba.shape[:1]}, got "
            f"{y.dtype} of shape {y.shape}; encode labels as 0, ..., n_classes - 1."
        )
    if y.min() < 0 or y.max() >= proba.shape[1]:
        raise ValueError(
            f"y must hold class indices 0, ..., {proba.shape[1] - 1}, got {y.min()} to {y.max()}."
        )
    return proba.astype(np.float64), y


def _as_array(values: ArrayLike | Tensor) -> np.ndarray:
    return values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)
