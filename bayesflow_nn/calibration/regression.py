"""Scores of predictive distributions of real targets: CRPS, PIT values, interval coverage.

The continuous ranked probability score of a distribution F at a target y, in the units of y, is

    CRPS(F, y) = ∫ (F(x) - 1[x >= y])² dx = E|X - y| - E|X - X'| / 2,      X, X' ~ F independent

[Gneiting and Raftery 2007, Strictly proper scoring rules, eq. 21, with the sign reversed]. For a
mixture of normals, weights w_i, means μ_i, standard deviations s_i, it is

    sum_i w_i A(y - μ_i, s_i²) - 1/2 sum_ij w_i w_j A(μ_i - μ_j, s_i² + s_j²)
    A(m, s²) = E|N(m, s²)| = 2 s φ(m / s) + m (2 Φ(m / s) - 1)

[Grimit et al. 2006, The continuous ranked probability score for circular variables, eq. 5].
The probability integral transform (PIT) F(y) is uniform if the targets are drawn from F.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf
from torch import Tensor

from bayesflow_nn.calibration.inputs import as_array, check_mixture, check_targets
from bayesflow_nn.calibration.mixtures import chunks, mixture_cdf
from bayesflow_nn.weights.validation import check_integer

_TILE_NUMBERS = 2**16
"""Pairs times inputs at once: 512 KiB per temporary array, so that a tile stays in cache. Measured
per pair and input: 11 ns, but 13 ns for 8 MiB and 20 ns for 32 MiB."""


@dataclass(frozen=True, eq=False)
class PitHistogram:
    """How often targets fall into each part of their predictive distribution.

    Flat if calibrated; a U is too narrow a prediction, a hump too wide a one, a slope is biased.

    Attributes
    ----------
    edges : array of shape (n_bins + 1,)
        Bin b holds PIT values from ``edges[b]`` to below ``edges[b + 1]``; the last also holds 1.
    count : array of shape (n_bins,)
    """

    edges: np.ndarray
    count: np.ndarray

    @property
    def density(self) -> np.ndarray:
        """Heights of the histogram, (n_bins,): 1 in every bin if calibrated."""
        return self.count * (len(self.count) / self.count.sum())

    @property
    def density_error(self) -> float:
        """Standard deviation of a height around 1, if calibrated and targets are independent."""
        return float(np.sqrt((len(self.count) - 1) / self.count.sum()))


class IntervalCoverage(NamedTuple):
    """How many targets intervals hold, and how wide they are; judge the two together.

    Attributes
    ----------
    coverage : float
        Share of targets inside, bounds included.
    mean_width : float
        Mean of upper - lower, in the units of y.
    """

    coverage: float
    mean_width: float


def pit_values(
    mean: ArrayLike | Tensor,
    std: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    weights: ArrayLike | Tensor | None = None,
) -> np.ndarray:
    """Share of each target's predictive distribution that lies below the target.

    Parameters
    ----------
    mean, std, weights
        As in `mixture_cdf`.
    y : array or Tensor of shape (n_inputs,)
        Targets.

    Returns
    -------
    array of shape (n_inputs,)
        Uniform between 0 and 1 if calibrated; float64.

    Raises
    ------
    ValueError
        As `mixture_cdf`, or if `y` is not one finite target per input.

    Examples
    --------
    >>> pit_values([[0.0, 0.0]], 1.0, [0.0, 1.0]).round(4)
    array([0.5   , 0.8413])
    """
    n_inputs = check_mixture(mean, std, weights).mean.shape[1]
    return mixture_cdf(mean, std, check_targets(y, n_inputs), weights=weights)


def pit_histogram(pit: ArrayLike | Tensor, *, n_bins: int = 10) -> PitHistogram:
    """Histogram of PIT values.

    Parameters
    ----------
    pit : array or Tensor of shape (n_inputs,)
        Values between 0 and 1, for example of `pit_values`.
    n_bins : int
        Bins of equal width.

    Raises
    ------
    ValueError
        If `pit` is no vector of numbers between 0 and 1, or `n_bins` no positive integer.

    Examples
    --------
    >>> histogram = pit_histogram([0.1, 0.2, 0.3, 0.9], n_bins=2)
    >>> histogram.count, histogram.density
    (array([3, 1]), array([1.5, 0.5]))
    """
    pit, n_bins = as_array(pit), check_integer("n_bins", n_bins)
    if pit.ndim != 1 or len(pit) == 0 or not ((pit >= 0) & (pit <= 1)).all():
        raise ValueError(
            f"pit must hold numbers between 0 and 1, shape (n_inputs,), got shape {pit.shape}; "
            "compute them with pit_values."
        )
    count, edges = np.histogram(pit, bins=n_bins, range=(0, 1))
    return PitHistogram(edges, count)


def crps_normal_mixture(
    mean: ArrayLike | Tensor,
    std: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    weights: ArrayLike | Tensor | None = None,
) -> np.ndarray:
    """CRPS of a mixture of normals in closed form, in the units of y.

    Time grows with ``n_networks**2 * n_inputs / 2``; memory does not. Parameters and errors are
    those of `pit_values`.

    Returns
    -------
    array of shape (n_inputs,)
        One score per target, float64; the smaller the better.

    Examples
    --------
    >>> crps_normal_mixture([[0.0]], 1.0, [0.0]).round(4)         # (sqrt(2) - 1) / sqrt(pi)
    array([0.2337])
    >>> crps_normal_mixture([[-1.0], [1.0]], 1.0, [0.0]).round(4)
    array([0.3594])
    """
    mean, std, w = check_mixture(mean, std, weights)
    y = check_targets(y, mean.shape[1])
    score = np.empty(len(y))
    for inputs in chunks(len(y), len(w)):
        m = y[inputs] - mean[:, inputs]
        score[inputs] = w @ _mean_absolute_normal(m, np.square(std[:, inputs]))
    # Networks last: the sums over pairs then run along memory.
    mean, variance = np.ascontiguousarray(mean.T), np.ascontiguousarray(np.square(std.T))
    for n, i, j, w_j in _tiles(len(y), w):
        m = mean[n, i, None] - mean[n, None, j]
        a = _mean_absolute_normal(m, variance[n, i, None] + variance[n, None, j])
        score[n] -= a @ w_j @ w[i] / 2
    return np.maximum(score, 0.0)  # positive but for rounding


def crps_sample(
    draws: ArrayLike | Tensor, y: ArrayLike | Tensor, *, fair: bool = False
) -> np.ndarray:
    """CRPS from draws of the predictive distribution, in the units of y.

    The sum over pairs is taken over the sorted draws, in time n_draws log(n_draws).

    Parameters
    ----------
    draws : array or Tensor of shape (n_draws, n_inputs)
        Equally weighted draws, for example predictions of networks plus noise.
    y : array or Tensor of shape (n_inputs,)
        Targets.
    fair : bool
        False scores the draws themselves, as the step distribution that they form: never negative,
        and larger on average than the score of the distribution that they come from. True takes
        the mean over pairs of different draws, which is unbiased for that distribution and may be
        negative [Ferro 2014, Fair scores for ensemble forecasts].

    Returns
    -------
    array of shape (n_inputs,)
        One score per target, float64.

    Raises
    ------
    ValueError
        If `draws` is not finite of this shape, with at least two draws for the fair form, or `y`
        not one finite target per input.

    Examples
    --------
    >>> crps_sample([[-1.0], [1.0]], [0.0]), crps_sample([[-1.0], [1.0]], [0.0], fair=True)
    (array([0.5]), array([0.]))
    """
    draws, at_least = as_array(draws), 2 if fair else 1
    if draws.ndim != 2 or len(draws) < at_least or not (np.isfinite(draws).all() and draws.size):
        raise ValueError(
            f"draws must be finite of shape (n_draws, n_inputs) with at least {at_least} draws and "
            f"one input, got shape {draws.shape}."
        )
    n = len(draws)
    # Differences from y, as large numbers would cancel in the sum over pairs.
    x = np.sort(draws - check_targets(y, draws.shape[1]), axis=0)
    half_sum = (2 * np.arange(n) + 1.0 - n) @ x  # of |x_i - x_j| over all i and j
    return np.abs(x).mean(0) - half_sum / (n * (n - 1) if fair else n * n)


def interval_coverage(
    lower: ArrayLike | Tensor, upper: ArrayLike | Tensor, y: ArrayLike | Tensor
) -> IntervalCoverage:
    """Share of targets inside predicted intervals, and the intervals' mean width.

    Parameters
    ----------
    lower, upper : array or Tensor of shape (n_inputs,)
        Bounds, for example of `mixture_quantile` at 0.05 and 0.95 for a nominal coverage of 0.9.
    y : array or Tensor of shape (n_inputs,)
        Targets.

    Raises
    ------
    ValueError
        If shapes differ, a bound is NaN or above its partner, or a target is not finite.

    Examples
    --------
    >>> interval_coverage([0.0, 0.0], [1.0, 2.0], [0.5, 3.0])
    IntervalCoverage(coverage=0.5, mean_width=1.5)
    """
    lower, upper = as_array(lower), as_array(upper)
    if lower.ndim != 1 or lower.shape != upper.shape or not len(lower):
        raise ValueError(
            f"lower and upper must both have shape (n_inputs,) with at least one input, got "
            f"{lower.shape} and {upper.shape}; score several levels one by one."
        )
    if not (lower <= upper).all():
        raise ValueError("lower must not be NaN or above upper; are the two swapped?")
    y = check_targets(y, len(lower))
    inside = (lower <= y) & (y <= upper)
    width = upper.astype(np.float64) - lower
    return IntervalCoverage(float(inside.mean()), float(width.mean()))


def _mean_absolute_normal(m: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """A(m, s²) of the module's equation; 2 Φ(z) - 1 is erf(z / sqrt(2))."""
    s = np.sqrt(2 * variance)
    z = m / s
    return s * np.exp(-np.square(z)) / np.sqrt(np.pi) + m * erf(z)


def _tiles(n_inputs: int, w: np.ndarray) -> Iterator[tuple[slice, slice, slice, np.ndarray]]:
    """Inputs, networks i, networks j >= i in blocks, and weights that count j > i twice."""
    k = len(w)
    n_i = max(1, min(_TILE_NUMBERS // k, k // 4))
    n = max(1, _TILE_NUMBERS // (n_i * k))
    for first in range(0, k, n_i):
        i, j = slice(first, first + n_i), slice(first, k)
        w_j = np.where(np.arange(first, k) < first + n_i, 1, 2) * w[j]
        for start in range(0, n_inputs, n):
            yield slice(start, start + n), i, j, w_j
