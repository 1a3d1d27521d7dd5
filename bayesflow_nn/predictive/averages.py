"""The Bayesian model average: probabilities and moments over networks.

    p(y | x, D) = sum_k w_k softmax(f(theta_k, x))_y,    sum_k w_k = 1    ([E25] eq. 2.1),

is the mean of the networks' probabilities, and never the softmax of their mean logits, which is no
average over the posterior.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.predictive.tiles import CHUNK_SIZE, Tiles, like, normalised
from bayesflow_nn.weights import Architecture


class PredictiveMoments(NamedTuple):
    """Mean and standard deviation over networks, both ``(n_inputs, n_outputs)``."""

    mean: Tensor | np.ndarray
    std: Tensor | np.ndarray


def predict_proba(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor | np.ndarray:
    """Class probabilities of the Bayesian model average.

    Parameters
    ----------
    architecture : Architecture
        A classifier with at least two outputs.
    weights : array or Tensor of shape (n_networks, n_weights)
        One network per row.
    X : array or Tensor of shape (n_inputs, ...)
        Network inputs.
    network_weights : array or Tensor of shape (n_networks,), optional
        Non-negative importance of each network, of any sum. Equal by default.
    buffers : mapping from name to Tensor of shape (n_networks, *shape), optional
        Buffers of every network, for example batch-norm statistics.
    chunk_size : int
        Network-input pairs evaluated at once, which bounds the memory.

    Returns
    -------
    array or Tensor (as `X`) of shape (n_inputs, n_classes)
        In the dtype of `weights`.

    Raises
    ------
    ValueError
        If a shape is wrong, a value is not finite, `network_weights` is negative or all zero, the
        networks have one output, or `chunk_size` is no positive integer.

    Examples
    --------
    >>> linear = Architecture.mlp([1, 2], bias=False)
    >>> predict_proba(linear, [[9.0, -9.0], [-9.0, 9.0], [-9.0, 9.0]], [[1.0]]).round(3)
    array([[0.333, 0.667]])
    """
    tiles = Tiles(architecture, weights, X, buffers, chunk_size).for_classification()
    importance = normalised(network_weights, tiles.weights)
    average = tiles.zeros(len(tiles.X), tiles.n_outputs)
    for networks, inputs, logits in tiles:
        average[inputs] += torch.einsum("k,kic->ic", importance[networks], logits.softmax(-1))
    return like(X, average.to(tiles.weights.dtype))


def predict_moments(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> PredictiveMoments:
    """Mean and standard deviation of the outputs over networks, for regression.

    The standard deviation is that of the networks' outputs: what the posterior leaves uncertain.
    The noise of an observation comes on top of it.

    Parameters and errors are those of `predict_proba`, with any number of outputs.

    Returns
    -------
    PredictiveMoments
        `mean` and `std`, both ``(n_inputs, n_outputs)``, of the kind of `X`.

    Examples
    --------
    >>> linear = Architecture.mlp([1, 1], bias=False)
    >>> predict_moments(linear, [[1.0], [3.0]], [[2.0]])
    PredictiveMoments(mean=array([[4.]]), std=array([[2.]]))
    """
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    importance = normalised(network_weights, tiles.weights)
    shape = len(tiles.X), tiles.n_outputs
    mass, mean, scatter = tiles.zeros(len(tiles.X), 1), tiles.zeros(*shape), tiles.zeros(*shape)
    # Blocks are merged by their own means and scatters: E f² - (E f)² would cancel.
    for networks, inputs, outputs in tiles:
        w = importance[networks][:, None, None]
        w_tile = w.sum().clamp_min(torch.finfo(w.dtype).tiny)
        tile_mean = (w * outputs).sum(0) / w_tile
        share = w_tile / (mass[inputs] + w_tile)
        step = tile_mean - mean[inputs]
        scatter[inputs] += (w * (outputs - tile_mean).square()).sum(0)
        scatter[inputs] += mass[inputs] * share * step.square()
        mean[inputs] += share * step
        mass[inputs] += w_tile
    dtype = tiles.weights.dtype
    return PredictiveMoments(like(X, mean.to(dtype)), like(X, scatter.sqrt().to(dtype)))
