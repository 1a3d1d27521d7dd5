"""Whether probabilities come true: the reliability curve and calibration errors.

    calibration error         sum_b (n_b / n) |accuracy_b - confidence_b|
    class-wise error          mean_c sum_b (n_cb / n) |frequency_cb - probability_cb|

The first groups inputs by confidence, the probability of the predicted class, into bins b
[Guo et al. 2017, On calibration of modern neural networks, eq. 3]; the second groups them by the
probability of each class c in turn [Kull et al. 2019, Beyond temperature scaling, section 2].

Both are biased upward: noise in the frequency of a bin adds to the gap, of either sign, and so a
perfectly calibrated prediction has an error above zero, the larger the fewer inputs a bin holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.calibration.binning import assign_bins, assign_bins_per_class
from bayesflow_nn.calibration.inputs import check_fractions, check_probabilities
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_integer

_CHUNK_NUMBERS = 2**20
"""Resampled inputs held at once: 8 MiB per array, of which there are about five."""


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Accuracy against confidence, in bins of equal width or equal mass.

    Attributes
    ----------
    edges : array of shape (n_bins + 1,)
        Bin b holds the confidences above ``edges[b]`` and up to ``edges[b + 1]``; the first also
        holds its lower edge.
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


class CalibrationErrorInterval(NamedTuple):
    """Plug-in calibration error, and an interval for the error of infinitely many inputs.

    Attributes
    ----------
    estimate : float
        `expected_calibration_error`, biased upward; it may lie above the interval.
    lower, upper : float
    """

    estimate: float
    lower: float
    upper: float


def reliability_curve(
    proba: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    n_bins: int = 15,
    strategy: str = "uniform",
) -> ReliabilityCurve:
    """Accuracy of the predicted class against its probability.

    Parameters
    ----------
    proba : array or Tensor of shape (n_inputs, n_classes)
        Probabilities; rows sum to one.
    y : array or Tensor of shape (n_inputs,)
        Class indices 0, ..., n_classes - 1.
    n_bins : int
        Number of bins.
    strategy : {"uniform", "quantile"}
        Bins of equal width between 0 and 1, or of equal mass. Equal confidences share a bin, and
        with many of them bins of equal mass may be empty.

    Raises
    ------
    ValueError
        If `proba` holds no probabilities, `y` no class indices for them, `n_bins` is no positive
        integer, or `strategy` is unknown.

    Examples
    --------
    >>> curve = reliability_curve([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]], [0, 1, 1], n_bins=4)
    >>> curve.count, curve.accuracy
    (array([0, 0, 1, 2]), array([nan, nan, 1. , 0.5]))
    """
    confidence, right = _predicted_class(*check_probabilities(proba, y))
    edges, bins = assign_bins(confidence, n_bins, strategy)
    count = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bins, confidence, minlength=n_bins) / count
        accuracy = np.bincount(bins, right, minlength=n_bins) / count
    return ReliabilityCurve(edges, mean_confidence, accuracy, count)


def expected_calibration_error(
    proba: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    n_bins: int = 15,
    strategy: str = "uniform",
) -> float:
    """Mean gap between confidence and accuracy, over `n_bins` bins.

    Parameters and errors are those of `reliability_curve`.

    Examples
    --------
    >>> round(expected_calibration_error([[0.9, 0.1], [0.9, 0.1]], [0, 1]), 4)
    0.4
    """
    curve = reliability_curve(proba, y, n_bins=n_bins, strategy=strategy)
    return curve.expected_calibration_error


def classwise_calibration_error(
    proba: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    n_bins: int = 15,
    strategy: str = "uniform",
) -> float:
    """Mean gap between the probability and the frequency of a class, averaged over classes.

    Unlike `expected_calibration_error` it sees the classes that are not predicted; with many
    classes most probabilities are near 0, where every gap is small. With ``strategy="quantile"``
    it is the adaptive calibration error [Nixon et al. 2019, Measuring calibration in deep
    learning]. Parameters and errors are those of `reliability_curve`.

    Examples
    --------
    >>> proba = [[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]]
    >>> round(classwise_calibration_error(proba, [0, 1]), 4)   # gaps 0.1, 0.2 and 0.1
    0.1333
    """
    p, y = check_probabilities(proba, y)
    bins = assign_bins_per_class(p, n_bins, strategy)
    gap = np.bincount(bins.ravel(), (np.eye(p.shape[1])[y] - p).ravel())
    return float(np.abs(gap).sum() / p.size)


def calibration_error_interval(
    proba: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    n_bootstrap: int = 1000,
    level: float = 0.9,
    n_bins: int = 15,
    strategy: str = "uniform",
    random_state: RandomState = None,
) -> CalibrationErrorInterval:
    """Bootstrap interval for the calibration error that infinitely many inputs would have.

    Inputs are resampled with replacement, in the bins of the data. A resample adds its own noise
    to the gaps, so its errors e* exceed the plug-in error e about as e exceeds the true one, and
    quantiles of e* would lie too high. The interval is therefore the reversed one, from
    ``2 e - e*_upper`` to ``2 e - e*_lower``, cut at 0. Its lower end is 0 as well if e is no larger
    than a share `level` of the errors of labels drawn from the confidences themselves, since
    nothing then speaks against calibration [Bröcker and Smith 2007, Increasing the reliability of
    reliability diagrams]. An interval that begins at 0 says that the data are too few to tell.

    Parameters
    ----------
    proba, y, n_bins, strategy
        As in `reliability_curve`.
    n_bootstrap : int
        Resamples, and drawn sets of labels.
    level : float
        Nominal coverage. In simulations with 15 bins and 200 inputs an interval of level 0.9 held
        true errors of 0, 0.03, 0.1 and 0.2 in 92, 81, 84 and 88 % of data sets; plain quantiles of
        e* would hold them in 0, 1, 71 and 84 %.
    random_state : int, numpy or torch generator, or None
        Source of randomness; an int gives the same interval each time.

    Raises
    ------
    ValueError
        As `reliability_curve`, or if `n_bootstrap` is no positive integer, `level` not between 0
        and 1, or `random_state` no seed.

    Examples
    --------
    >>> proba, y = np.tile([0.9, 0.1], (400, 1)), np.arange(400) % 2
    >>> interval = calibration_error_interval(proba, y, random_state=0)
    >>> round(interval.estimate, 2), round(interval.lower, 2), round(interval.upper, 2)
    (0.4, 0.36, 0.44)
    """
    n_bootstrap = check_integer("n_bootstrap", n_bootstrap)
    level = float(check_fractions("level", level, single=True))
    confidence, right = _predicted_class(*check_probabilities(proba, y))
    _, bins = assign_bins(confidence, n_bins, strategy)
    rng = np.random.default_rng(draw_seed(random_state))
    resampled, calibrated = np.empty((2, n_bootstrap))
    n_rows = max(1, _CHUNK_NUMBERS // len(bins))
    for rows in (slice(k, k + n_rows) for k in range(0, n_bootstrap, n_rows)):
        size = (len(resampled[rows]), len(bins))
        index = rng.integers(len(bins), size=size)
        resampled[rows] = _errors((right - confidence)[index], bins[index], n_bins)
        drawn = rng.random(size) < confidence
        calibrated[rows] = _errors(drawn - confidence, np.broadcast_to(bins, size), n_bins)
    error = float(_errors((right - confidence)[None], bins[None], n_bins)[0])
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    may_be_calibrated = error <= np.quantile(calibrated, level)
    lower = 0.0 if may_be_calibrated else max(0.0, float(2 * error - high))
    return CalibrationErrorInterval(error, lower, max(0.0, float(2 * error - low)))


def _predicted_class(proba: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and whether the predicted class is right."""
    top = proba.argmax(1)
    return proba[np.arange(len(y)), top], top == y


def _errors(gaps: np.ndarray, bins: np.ndarray, n_bins: int) -> np.ndarray:
    """Calibration error of each row of ``right - confidence``, ``(n_sets, n_inputs)``."""
    n_sets, n_inputs = gaps.shape
    bins = bins + n_bins * np.arange(n_sets)[:, None]
    sums = np.bincount(bins.ravel(), gaps.ravel(), minlength=n_sets * n_bins)
    return np.abs(sums).reshape(n_sets, n_bins).sum(1) / n_inputs
