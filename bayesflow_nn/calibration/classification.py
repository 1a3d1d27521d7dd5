"""Proper scores of class probabilities, and what the Brier score is made of.

For probabilities p of n inputs, with labels y:

    negative log likelihood   - mean_i log p_i[y_i]                     nats
    Brier score               mean_i sum_c (p_i[c] - 1[y_i = c])²       between 0 and 2

The second splits over bins k of the probabilities of each class c, with the mean probability f_k
and the frequency o_k of the class in the bin, and its frequency o overall:

    reliability - resolution + uncertainty + within_variance - within_covariance

    reliability         sum_c sum_k (n_k / n) (f_k - o_k)²
    resolution          sum_c sum_k (n_k / n) (o_k - o)²
    uncertainty         sum_c o (1 - o)
    within_variance     sum_c mean_i (p_i[c] - f_k)²
    within_covariance   sum_c mean_i 2 (1[y_i = c] - o_k) (p_i[c] - f_k)

[the first three: Murphy 1973, A new vector partition of the probability score, Journal of Applied
Meteorology 12, 595; the last two: Stephenson et al. 2008, Two extra components in the Brier score
decomposition, Weather and Forecasting 23, 752].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.calibration.binning import assign_bins_per_class
from bayesflow_nn.calibration.inputs import check_probabilities


class BrierDecomposition(NamedTuple):
    """Parts of the Brier score, each a sum over classes.

    Attributes
    ----------
    reliability : float
        Squared gap between probability and frequency; 0 if calibrated in every bin.
    resolution : float
        Spread of the frequencies over bins; the larger, the better the classes are told apart.
    uncertainty : float
        Brier score of the class frequencies, whatever the input; no property of the predictions.
    within_variance, within_covariance : float
        What bins hide: spread of the probabilities inside them, and twice the covariance of that
        spread with the labels. Both are 0 if each bin holds a single probability.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def generalized_resolution(self) -> float:
        """Resolution with what is resolved inside bins; it depends less on their width."""
        return self.resolution - self.within_variance + self.within_covariance

    @property
    def brier_score(self) -> float:
        """The score that the parts make up, equal to `brier_score` for any bins."""
        return self.reliability - self.generalized_resolution + self.uncertainty


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
    proba, y = check_probabilities(proba, y)
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
    proba, y = check_probabilities(proba, y)
    return float(np.square(proba - np.eye(proba.shape[1])[y]).sum(1).mean())


def brier_decomposition(
    proba: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    n_bins: int = 15,
    strategy: str = "uniform",
) -> BrierDecomposition:
    """Reliability, resolution and uncertainty, and the two terms that binning adds.

    The variant is class by class: each class against the rest in bins of its own probability,
    summed over all classes. For two classes every part is thus twice that of the usual score of a
    single event. (Bins of whole probability vectors would nearly all hold one input.) With bins of
    few inputs, reliability and resolution are both biased upward, by about the same amount.

    Parameters
    ----------
    proba, y
        As in `negative_log_likelihood`.
    n_bins : int
        Bins per class.
    strategy : {"uniform", "quantile"}
        Bins of equal width between 0 and 1, or of equal mass.

    Raises
    ------
    ValueError
        If `proba` holds no probabilities, `y` no class indices for them, `n_bins` is no positive
        integer, or `strategy` is unknown.

    Examples
    --------
    >>> proba, y = [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]], [0, 0, 0, 1]
    >>> parts = brier_decomposition(proba, y)
    >>> parts.reliability, parts.resolution, parts.uncertainty
    (0.125, 0.125, 0.375)
    >>> parts.brier_score == brier_score(proba, y)
    True
    """
    p, y = check_probabilities(proba, y)
    bins = assign_bins_per_class(p, n_bins, strategy)
    outcome = np.eye(p.shape[1])[y]
    count = np.maximum(np.bincount(bins.ravel()), 1)  # an empty bin is never looked up
    f_k, o_k = (np.bincount(bins.ravel(), x.ravel())[bins] / count[bins] for x in (p, outcome))
    o = outcome.mean(0)
    parts = (
        np.square(f_k - o_k),
        np.square(o_k - o),
        np.broadcast_to(o * (1 - o), p.shape),
        np.square(p - f_k),
        2 * (outcome - o_k) * (p - f_k),
    )
    return BrierDecomposition(*(float(part.sum() / len(p)) for part in parts))
