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

from bayesflow_nn.predictive.tiles import (
    CHUNK_SIZE,
    Tiles,
    class_probabilities,
    like,
    normalised,
)
from bayesflow_nn.weights import Architecture


class OutputMoments(NamedTuple):
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
    average = tiles.zeros(tiles.n_outputs, len(tiles.X))
    for networks, inputs, logits in tiles:
        p = class_probabilities(logits)
        average[:, inputs] += torch.tensordot(importance[networks], p, 1)
    return like(X, average.T.contiguous().to(tiles.weights.dtype))


def output_moments(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> OutputMoments:
    """Mean and standard deviation of the outputs over networks, for regression.

    The standard deviation is that of the networks' outputs: what the posterior leaves uncertain.
    The noise of an observation comes on top of it.

    Parameters and errors are those of `predict_proba`, with any number of outputs.

    Returns
    -------
    OutputMoments
        `mean` and `std`, both ``(n_inputs, n_outputs)``, of the kind of `X`.

    Examples
    --------
    >>> linear = Architecture.mlp([1, 1], bias=False)
    >>> output_moments(linear, [[1.0], [3.0]], [[2.0]])
    OutputMoments(mean=array([[4.]]), std=array([[2.]]))
    """
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    importance = normalised(network_weights, tiles.weights)
    moments = RunningMoments(tiles, tiles.n_outputs)
    for networks, inputs, outputs in tiles:
        moments.add(inputs, importance[networks], outputs)
    mean, std = moments.mean, moments.variance.sqrt()
    dtype = tiles.weights.dtype
    return OutputMoments(like(X, mean.to(dtype)), like(X, std.to(dtype)))


class RunningMoments:
    """Mean and variance over networks, both ``(n_inputs, n_columns)``, gathered block by block.

    Parameters
    ----------
    tiles : Tiles
        Where the blocks come from.
    n_columns : int
        Numbers per network and input.
    """

    def __init__(self, tiles: Tiles, n_columns: int) -> None:
        self.mean = tiles.zeros(len(tiles.X), n_columns)
        self.variance = tiles.zeros(len(tiles.X), n_columns)
        self._mass = tiles.zeros(len(tiles.X), 1)

    def add(self, inputs: slice, importance: Tensor, values: Tensor) -> None:
        """Take in a block ``(networks, inputs, n_columns)``; all importances sum to one."""
        # Blocks are merged by their own means and scatters: E f² - (E f)² would cancel.
        w_block = importance.sum().clamp_min(torch.finfo(importance.dtype).tiny)
        mean_block = torch.tensordot(importance, values, 1) / w_block
        mass = self._mass[inputs]
        share = w_block / (mass + w_block)
        step = mean_block - self.mean[inputs]
        squares = (values - mean_block).square()
        self.variance[inputs] += torch.tensordot(importance, squares, 1)
        self.variance[inputs] += mass * share * step.square()
        self.mean[inputs] += share * step
        self._mass[inputs] += w_block
