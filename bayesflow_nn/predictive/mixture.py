"""The predictive distribution of a target: a mixture over networks.

    p(y | x, D) = sum_k w_k p(y | f(theta_k, x)),    sum_k w_k = 1       ([E25] eq. 2.1)
    E y = sum_k w_k m_k
    Var y = sum_k w_k s_k^2 + sum_k w_k (m_k - E y)^2                    aleatoric + epistemic

with the mean m_k and the variance s_k^2 that the likelihood gives the target under network k. The
second line is the law of total variance: the noise that the networks see, and their disagreement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.predictive.averages import RunningMoments
from bayesflow_nn.predictive.tiles import (
    CHUNK_SIZE,
    Tiles,
    check_labels,
    check_targets,
    like,
    normalised,
)
from bayesflow_nn.weights import Architecture, Likelihood
from bayesflow_nn.weights.likelihoods import resolve_likelihood


class RegressionMoments(NamedTuple):
    """Moments of the predictive distribution, ``(n_inputs, n_targets)`` each, in units of y.

    Attributes
    ----------
    mean : array or Tensor of shape (n_inputs, n_targets)
    std : array or Tensor of shape (n_inputs, n_targets)
        Of a new target: the root of the sum of the squares of the two below.
    aleatoric_std : array or Tensor of shape (n_inputs, n_targets)
        Of the noise, averaged over networks.
    epistemic_std : array or Tensor of shape (n_inputs, n_targets)
        Of the networks' means.
    """

    mean: Tensor | np.ndarray
    std: Tensor | np.ndarray
    aleatoric_std: Tensor | np.ndarray
    epistemic_std: Tensor | np.ndarray


def predictive_moments(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    likelihood: float | Likelihood,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> RegressionMoments:
    """Mean and standard deviation of new targets, and the two parts of the latter.

    Parameters and errors not listed here are those of `predict_proba`, with any number of outputs.

    Parameters
    ----------
    likelihood : Likelihood or float
        Of a regression; a float is the standard deviation of normal noise.

    Returns
    -------
    RegressionMoments
        Of the kind of `X` and in the dtype of `weights`.

    Raises
    ------
    ValueError
        If `likelihood` is not that of a regression or does not fit the number of outputs.

    Examples
    --------
    >>> line = Architecture.mlp([1, 1], bias=False)
    >>> moments = predictive_moments(line, [[1.0], [3.0]], [[2.0]], 1.5)
    >>> moments.std, moments.aleatoric_std, moments.epistemic_std
    (array([[2.5]]), array([[1.5]]), array([[2.]]))
    """
    likelihood = resolve_likelihood("regression", likelihood)
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    importance = normalised(network_weights, tiles.weights)
    n_targets = count_targets(tiles, likelihood)
    means, noise = RunningMoments(tiles, n_targets), tiles.zeros(len(tiles.X), n_targets)
    for networks, inputs, outputs in tiles:
        mean, variance = likelihood.moments(outputs)
        means.add(inputs, importance[networks], mean)
        noise[inputs] += torch.tensordot(importance[networks], variance, 1)
    stds = (v.sqrt() for v in (noise + means.variance, noise, means.variance))
    dtype = tiles.weights.dtype
    return RegressionMoments(*(like(X, moment.to(dtype)) for moment in (means.mean, *stds)))


def predictive_log_density(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    likelihood: float | Likelihood,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor | np.ndarray:
    """Log density of every target under the mixture, or log probability of its label.

    Summed in logs, so that it is finite where every density underflows. Parameters and errors not
    listed here are those of `predictive_moments`.

    Parameters
    ----------
    y : array or Tensor of shape (n_inputs,) or, for regression, (n_inputs, n_targets)
        Class indices 0, ..., n_classes - 1, or regression targets.
    likelihood : Likelihood or float
        ``Categorical()`` for classes; a float is the standard deviation of normal noise.

    Returns
    -------
    array or Tensor (as `X`) of shape (n_inputs,)
        In nats, of all targets of an input together, in the dtype of `weights`. The mean is the log
        predictive density, a proper score.

    Raises
    ------
    ValueError
        If `y` does not fit `X` and the outputs.

    Examples
    --------
    >>> line = Architecture.mlp([1, 1], bias=False)
    >>> predictive_log_density(line, [[-1.0], [1.0]], [[1.0]], [0.0], 1.0).round(4)
    array([-1.4189])
    """
    likelihood = resolve_likelihood(getattr(likelihood, "task", "regression"), likelihood)
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    log_w = normalised(network_weights, tiles.weights).log()
    targets = read_targets(y, tiles, likelihood)
    result = tiles.zeros(len(tiles.X)).fill_(-torch.inf)
    for networks, inputs, outputs in tiles:
        log_p = likelihood.log_prob(outputs, targets[inputs])
        block = (log_w[networks, None] + log_p).logsumexp(0)
        result[inputs] = torch.logaddexp(result[inputs], block)
    return like(X, result.to(tiles.weights.dtype))


def read_targets(y: ArrayLike | Tensor, tiles: Tiles, likelihood: Likelihood) -> Tensor:
    """Return labels ``(n_inputs,)`` or float64 targets ``(n_inputs, n_targets)``, or raise."""
    if likelihood.task == "classification":
        return check_labels(y, tiles.for_classification())
    return check_targets(y, tiles, count_targets(tiles, likelihood))


def count_targets(tiles: Tiles, likelihood: Likelihood) -> int:
    """Return how many targets the outputs of a regression describe, or raise."""
    per_target = likelihood.n_outputs(1)
    if tiles.n_outputs % per_target:
        raise ValueError(
            f"architecture must have {per_target} outputs per target for {likelihood!r}, got "
            f"{tiles.n_outputs}."
        )
    return tiles.n_outputs // per_target
