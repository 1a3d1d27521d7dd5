r"""Quantiles, draws and noise of the predictive distribution of a regression.

.. math::
    p(y | x, D) = \sum_k w_k \, p(y | f(\theta_k, x)), \qquad F(y_q) = q,

the mixture over networks of :mod:`bayesflow_nn.predictive.mixture` ([E25] eq. 2.1), one target at a
time. Its quantiles :math:`y_q` are exact: the root of the distribution function F, not a sorted
sample.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import stdtr, stdtrit
from torch import Tensor

from bayesflow_nn.calibration import mixture_log_density, mixture_quantile
from bayesflow_nn.calibration.inputs import check_fractions
from bayesflow_nn.predictive.mixture import count_targets
from bayesflow_nn.predictive.tiles import CHUNK_SIZE, Tiles, check_targets, like, normalised
from bayesflow_nn.weights import (
    Architecture,
    HeteroscedasticNormal,
    Likelihood,
    Normal,
    StudentT,
)
from bayesflow_nn.weights.likelihoods import resolve_likelihood
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_integer, check_sample_weight

_N_STARTS = 32
"""Scales among which `fit_noise` looks for the best before it refines one."""


def predictive_quantiles(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    likelihood: float | Likelihood,
    quantiles: ArrayLike | Tensor,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor | np.ndarray:
    """Points below which new targets lie with given probabilities.

    Those of Student's t take about ten times as long as those of normals.

    Parameters and errors not listed here are those of `predictive_moments`.

    Parameters
    ----------
    likelihood : Normal, HeteroscedasticNormal, StudentT or float
        A float is the standard deviation of normal noise.
    quantiles : array or Tensor of shape (n_quantiles,)
        Probabilities strictly between 0 and 1, for example ``[0.05, 0.95]`` for an interval that
        holds nine of ten targets.

    Returns
    -------
    array or Tensor (as `X`) of shape (n_inputs, n_quantiles[, n_targets])
        In the units of y and the dtype of `weights`; without the last dimension for one target.

    Raises
    ------
    ValueError
        If `quantiles` is no vector of numbers between 0 and 1.
    TypeError
        If the distribution function of `likelihood` is not known.

    Examples
    --------
    >>> line = Architecture.mlp([1, 1], bias=False)
    >>> predictive_quantiles(line, [[-1.0], [1.0]], [[1.0]], 1.0, [0.05, 0.95]).round(4)
    array([[-2.2845,  2.2845]])
    """
    likelihood = resolve_likelihood("regression", likelihood)
    if not isinstance(likelihood, Normal | HeteroscedasticNormal | StudentT):
        raise TypeError(
            f"likelihood must be Normal, HeteroscedasticNormal or StudentT for quantiles, got "
            f"{likelihood!r}; take the quantiles of draw_targets instead."
        )
    levels = check_fractions("quantiles", quantiles)
    if levels.ndim != 1:
        raise ValueError(f"quantiles must have shape (n_quantiles,), got {levels.shape}.")
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    w = normalised(network_weights, tiles.weights).numpy(force=True)
    result = tiles.zeros(len(tiles.X), len(levels), count_targets(tiles, likelihood))
    for inputs, outputs in tiles.over_all_networks():
        location, scale = _location_and_scale(likelihood, outputs)
        for j in range(result.shape[2]):
            m, s = location[..., j], scale[..., j]
            if isinstance(likelihood, StudentT):
                roots = _student_quantile(m, s, likelihood.df, levels, w)
            else:
                roots = mixture_quantile(m, s, levels, weights=w)
            result[inputs, :, j] = torch.as_tensor(roots.T)
    return like(X, result.squeeze(-1).to(tiles.weights.dtype))


def draw_targets(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    likelihood: float | Likelihood,
    *,
    n_draws: int | None = None,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    random_state: RandomState = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor | np.ndarray:
    """Draw targets from the predictive distribution, one of every input for each drawn network.

    The targets of a draw belong together: they are what one network expects, so that draws show how
    errors at different inputs go together.

    Parameters and errors not listed here are those of `predictive_moments`.

    Parameters
    ----------
    likelihood : Likelihood or float
        ``Categorical()`` draws labels; a float is the standard deviation of normal noise.
    n_draws : int, optional
        Networks to draw, with replacement and with their weights. By default as many as there are,
        which without `network_weights` is every network once.
    random_state : int, Generator, RandomState or None
        Decides networks and noise.

    Returns
    -------
    array or Tensor (as `X`) of shape (n_draws, n_inputs[, n_targets])
        In the dtype of `weights`, labels as integers; without the last dimension for one target.

    Raises
    ------
    ValueError
        If `n_draws` is no positive integer.

    Examples
    --------
    >>> line = Architecture.mlp([1, 1], bias=False)
    >>> draws = draw_targets(line, [[-9.0], [9.0]], [[1.0], [-1.0]], 0.1, random_state=0)
    >>> draws.round()
    array([[-9.,  9.],
           [ 9., -9.]])
    """
    likelihood = resolve_likelihood(getattr(likelihood, "task", "regression"), likelihood)
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    classifies = likelihood.task == "classification"
    if classifies:
        tiles.for_classification()
    else:
        count_targets(tiles, likelihood)
    rng = np.random.default_rng(draw_seed(random_state))
    networks = np.arange(len(tiles.weights))
    if n_draws is not None or network_weights is not None:
        n_draws = len(networks) if n_draws is None else check_integer("n_draws", n_draws)
        p = normalised(network_weights, tiles.weights).numpy(force=True)
        networks = rng.choice(networks, n_draws, p=p)
    rows = torch.as_tensor(networks, device=tiles.weights.device)
    # In whole rows, so that the blocks that they come in do not change the draws.
    y = torch.cat([likelihood.draw(outputs, rng) for outputs in tiles.of_networks(rows)])
    return like(X, y if classifies else y.squeeze(-1).to(tiles.weights.dtype))


def fit_noise(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    sample_weight: ArrayLike | Tensor | None = None,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Normal:
    """Fit the standard deviation of normal noise to held-out data, for every target.

    It maximises the mean log density of the mixture over networks, one target at a time, so that it
    leaves out what the networks' disagreement explains already. The data must be held out: networks
    follow the noise of their own training targets, and residuals there are too small.

    Holds the outputs of all networks on all inputs, ``n_networks * n_inputs * n_outputs`` numbers.
    Parameters and errors not listed here are those of `predict_proba`, with any number of outputs.

    Parameters
    ----------
    X : array or Tensor of shape (n_inputs, ...)
        Inputs that no network was trained on.
    y : array or Tensor of shape (n_inputs,) or (n_inputs, n_outputs)
        Their targets.
    sample_weight : array of shape (n_inputs,), optional
        Weights of the inputs in the mean log density, non-negative and not all zero.

    Returns
    -------
    Normal
        With one scale, or one per target if there are several, in the units of y.

    Raises
    ------
    ValueError
        If `y` does not fit `X` and the outputs, or networks meet every target exactly.

    Examples
    --------
    The root of the mean square of the residuals 3 and 4, for a single network.

    >>> line = Architecture.mlp([1, 1], bias=False)
    >>> round(fit_noise(line, [[1.0]], [[1.0], [2.0]], [4.0, -2.0]).scale, 4)
    3.5355
    """
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    w = normalised(network_weights, tiles.weights).numpy(force=True)
    y = check_targets(y, tiles, tiles.n_outputs).numpy(force=True)
    v = np.ones(len(y)) if sample_weight is None else sample_weight
    v = check_sample_weight(v, len(y)).numpy(force=True)
    outputs = torch.cat([block for _, block in tiles.over_all_networks()], 1).numpy(force=True)
    counts = w > 0
    scales = [
        _fit_scale(outputs[counts, :, j], y[:, j], w[counts], v) for j in range(tiles.n_outputs)
    ]
    return Normal(scales[0] if len(scales) == 1 else scales)


def _fit_scale(mean: np.ndarray, y: np.ndarray, w: np.ndarray, v: np.ndarray) -> float:
    """Best scale of one target, for means ``(n_networks, n_inputs)`` and weights v of the inputs.

    Where the derivative vanishes, s^2 = mean_i sum_k r_ik e_ik^2, with residuals e_ik and shares
    r_ik of the networks in the density at input i. These favour small residuals more than w does,
    which bounds s^2 between mean_i min_k e_ik^2 and mean_i sum_k w_k e_ik^2. Means over inputs have
    the weights v.
    """
    square = np.square(y - mean)
    low, high = np.average(square.min(0), weights=v), np.average(w @ square, weights=v)
    if low == 0:
        raise ValueError(
            "y must hold noisy held-out targets, got targets that networks meet exactly; pass data "
            "that the networks were not trained on."
        )

    def loss(log_scale: float) -> float:
        return -np.average(mixture_log_density(mean, np.exp(log_scale), y, weights=w), weights=v)

    # Far networks and a near one can make two optima; the grid finds the basin of the better.
    grid = np.linspace(np.log(low) / 2, np.log(max(low, high)) / 2, _N_STARTS)
    best = int(np.argmin([loss(log_scale) for log_scale in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, _N_STARTS - 1)]
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x))


def _location_and_scale(likelihood: Likelihood, outputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = likelihood.moments(outputs)
    if isinstance(likelihood, StudentT):
        variance = variance * ((likelihood.df - 2) / likelihood.df)
    return mean.numpy(force=True), variance.sqrt().numpy(force=True)


def _student_quantile(
    location: np.ndarray, scale: np.ndarray, df: float, levels: np.ndarray, w: np.ndarray
) -> np.ndarray:
    """Quantiles ``(n_levels, n_inputs)`` of mixtures of Student's t, by bisection.

    As `mixture_quantile` does for normals: between the networks' own quantiles, and in the smaller
    tail, so that both tails are equally exact.
    """
    location, scale, w = location[w > 0], scale[w > 0], w[w > 0]
    upper = levels[:, None] > 0.5
    sign, tail = np.where(upper, -1.0, 1.0), np.where(upper, 1 - levels[:, None], levels[:, None])
    z = (sign * stdtrit(df, tail))[..., None]
    # Older versions of SciPy invert to some eight digits, and the bracket must hold the root.
    slack = 1e-6 * (1 + np.abs(z))
    low, high = (location + scale * (z - slack)).min(1), (location + scale * (z + slack)).max(1)
    while True:
        x = low + (high - low) / 2
        if (high - low <= np.finfo(float).eps * np.maximum(np.abs(x), scale.min(0))).all():
            return x
        below = np.einsum(
            "k,qki->qi", w, stdtr(df, sign[..., None] * (x[:, None] - location) / scale)
        )
        too_low = (below < tail) != upper
        low, high = np.where(too_low, x, low), np.where(too_low, high, x)
