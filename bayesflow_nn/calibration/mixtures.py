"""Predictive distributions that are mixtures of normals: one normal per network and input.

    F(y) = sum_i w_i Φ((y - μ_i) / s_i)                      cumulative distribution
    f(y) = sum_i w_i φ((y - μ_i) / s_i) / s_i                density
    F(y_q) = q                                               quantile y_q

with the mean μ_i and the standard deviation s_i that network i predicts, its weight w_i, and Φ
and φ of the standard normal. This is the Bayesian model average of networks that predict a normal;
its spread is that of the noise s_i and of the networks' disagreement together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp, ndtr, ndtri
from torch import Tensor

from bayesflow_nn.calibration.inputs import NormalMixture, as_array, check_fractions, check_mixture

_CHUNK_NUMBERS = 2**17
"""Numbers per temporary array, 1 MiB; larger ones are no faster."""


def mixture_cdf(
    mean: ArrayLike | Tensor,
    std: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    weights: ArrayLike | Tensor | None = None,
) -> np.ndarray:
    """Probability that the target is at most y.

    Parameters
    ----------
    mean : array or Tensor of shape (n_networks, n_inputs)
        Mean that each network predicts, in the units of y.
    std : float, or array or Tensor of shape (n_networks, n_inputs)
        Standard deviation, in the units of y; shapes (n_networks, 1) and (1, n_inputs) broadcast.
    y : array or Tensor of shape (..., n_inputs)
        Points, for example one target per input, or a grid of them.
    weights : array or Tensor of shape (n_networks,), optional
        Non-negative weights of the networks, normalised here; equal by default.

    Returns
    -------
    array of the shape of y
        Probabilities between 0 and 1, float64.

    Raises
    ------
    ValueError
        If a shape is wrong, a number is not finite, `std` not positive, or `weights` negative or
        all zero.

    Examples
    --------
    >>> mixture_cdf([[-1.0], [1.0]], 1.0, [[0.0], [2.0]]).round(4)
    array([[0.5 ],
           [0.92]])
    """
    mixture = check_mixture(mean, std, weights)
    y = _check_points(y, mixture.mean.shape[1])
    # Weights that sum to 1 but for rounding may push the result just above it.
    return np.minimum(_over_inputs(mixture, y, lambda z, s: mixture.weights @ ndtr(z)), 1.0)


def mixture_log_density(
    mean: ArrayLike | Tensor,
    std: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    weights: ArrayLike | Tensor | None = None,
) -> np.ndarray:
    """Log density of the mixture at y, in nats (per unit of y).

    Summed in logs, so that it is finite where every density underflows. Its mean over targets is
    the log predictive density, a proper score. Parameters and errors are those of `mixture_cdf`.

    Examples
    --------
    >>> mixture_log_density([[-1.0], [1.0]], 1.0, [0.0]).round(4)
    array([-1.4189])
    >>> mixture_log_density([[-1.0], [1.0]], 1.0, [100.0]).round(4)
    array([-4902.1121])
    """
    mixture = check_mixture(mean, std, weights)
    y = _check_points(y, mixture.mean.shape[1])
    log_w = np.log(mixture.weights)[:, None] - 0.5 * np.log(2 * np.pi)
    with np.errstate(over="ignore"):
        return _over_inputs(
            mixture, y, lambda z, s: logsumexp(log_w - np.log(s) - np.square(z) / 2, axis=-2)
        )


def mixture_quantile(
    mean: ArrayLike | Tensor,
    std: ArrayLike | Tensor,
    level: float | ArrayLike | Tensor,
    *,
    weights: ArrayLike | Tensor | None = None,
) -> np.ndarray:
    """Point below which the target lies with probability `level`.

    Bisection of all inputs and levels together, between the smallest and the largest quantile of
    the networks, until the bracket is as narrow as the floats around it or as the rounding of the
    narrowest normal. Above 1/2 the upper tail is solved for, so that both tails are equally exact.
    Where the distribution is flat between distant networks, some point of the flat part.

    Parameters
    ----------
    mean, std, weights
        As in `mixture_cdf`.
    level : float, or array or Tensor of shape (...)
        Probabilities strictly between 0 and 1.

    Returns
    -------
    array of shape (..., n_inputs)
        In the units of the mean, float64; ``(n_inputs,)`` for a single level.

    Raises
    ------
    ValueError
        As `mixture_cdf`, or if `level` is not between 0 and 1.

    Examples
    --------
    >>> mixture_quantile([[-1.0], [1.0]], 1.0, [0.05, 0.95]).round(4)
    array([[-2.2845],
           [ 2.2845]])
    """
    mixture = check_mixture(mean, std, weights)
    level = check_fractions("level", level)
    quantile = np.empty((level.size, mixture.mean.shape[1]))
    for inputs in chunks(quantile.shape[1], len(mixture.mean) * level.size):
        part = NormalMixture(mixture.mean[:, inputs], mixture.std[:, inputs], mixture.weights)
        quantile[:, inputs] = _bisect(part, level.reshape(-1, 1))
    return quantile.reshape(*level.shape, -1)


def chunks(n_inputs: int, n_numbers: int) -> Iterator[slice]:
    """Slices of inputs that take `n_numbers` numbers each, as many as fit a temporary array."""
    size = max(1, _CHUNK_NUMBERS // n_numbers)
    return (slice(k, k + size) for k in range(0, n_inputs, size))


def _over_inputs(
    mixture: NormalMixture, y: np.ndarray, reduce: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Fill the shape of y with ``reduce(z, std)``, z = (y - mean) / std: (..., n_networks, n)."""
    result = np.empty(y.shape)
    n_inputs = y.shape[-1]
    for inputs in chunks(n_inputs, len(mixture.mean) * (y.size // n_inputs)):
        std = mixture.std[:, inputs]
        z = (y[..., None, inputs] - mixture.mean[:, inputs]) / std
        result[..., inputs] = reduce(z, std)
    return result


def _bisect(mixture: NormalMixture, level: np.ndarray) -> np.ndarray:
    """Quantiles ``(n_levels, n_inputs)`` for levels ``(n_levels, 1)``."""
    mean, std, weights = mixture
    upper = level > 0.5
    sign, tail = np.where(upper, -1.0, 1.0), np.where(upper, 1 - level, level)
    quantiles = mean + std * (sign * ndtri(tail))[..., None]
    low, high = quantiles.min(1), quantiles.max(1)
    while True:
        x = low + (high - low) / 2
        if (high - low <= np.finfo(float).eps * np.maximum(np.abs(x), std.min(0))).all():
            return x
        z = sign[..., None] * (x[:, None] - mean) / std
        too_low = (weights @ ndtr(z) < tail) != upper
        low, high = np.where(too_low, x, low), np.where(too_low, high, x)


def _check_points(y: ArrayLike | Tensor, n_inputs: int) -> np.ndarray:
    y = as_array(y)
    if y.ndim == 0 or y.shape[-1] != n_inputs or y.size == 0 or not np.isfinite(y).all():
        raise ValueError(
            f"y must hold finite points of shape (..., {n_inputs}), one column per input, got "
            f"shape {y.shape}; for the same points at every input pass y[:, None] repeated."
        )
    return y.astype(np.float64)
