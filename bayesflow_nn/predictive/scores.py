"""Every network scored on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.predictive.tiles import CHUNK_SIZE, Tiles, check_labels, check_targets, like
from bayesflow_nn.weights import Architecture, validation


class ClassificationScores(NamedTuple):
    """Accuracy and negative log likelihood (nats) of each network, both ``(n_networks,)``."""

    accuracy: Tensor | np.ndarray
    nll: Tensor | np.ndarray


class RegressionScores(NamedTuple):
    """Mean squared error of each network, ``(n_networks,)``."""

    mse: Tensor | np.ndarray


def network_scores(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    task: str = "classification",
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> ClassificationScores | RegressionScores:
    """Score every network on its own.

    Parameters and errors not listed here are those of `predict_proba`.

    Parameters
    ----------
    y : array or Tensor of shape (n_inputs,) or, for regression, (n_inputs, n_outputs)
        Class indices 0, ..., n_classes - 1, or regression targets.
    task : {"classification", "regression"}
        Which scores.

    Returns
    -------
    ClassificationScores or RegressionScores
        Vectors of shape ``(n_networks,)`` in the dtype of `weights`, of the kind of `X`.

    Raises
    ------
    ValueError
        If `task` is unknown or `y` does not fit `X` and the outputs.

    Examples
    --------
    >>> linear = Architecture.mlp([1, 2], bias=False)
    >>> network_scores(linear, [[0.0, 0.0]], [[1.0], [1.0]], [0, 1]).nll.round(4)  # log 2
    array([0.6931])
    """
    validation.check_option("task", task, ("classification", "regression"))
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    if task == "regression":
        return RegressionScores(
            like(X, _mean_squared_errors(tiles, check_targets(y, tiles, tiles.n_outputs)))
        )
    scores = _accuracy_and_nll(tiles.for_classification(), check_labels(y, tiles))
    return ClassificationScores(*(like(X, score) for score in scores))


def _accuracy_and_nll(tiles: Tiles, y: Tensor) -> tuple[Tensor, Tensor]:
    accuracy, nll = tiles.zeros(len(tiles.weights)), tiles.zeros(len(tiles.weights))
    for networks, inputs, logits in tiles:
        labels = y[inputs].expand(len(logits), -1)
        accuracy[networks] += (logits.argmax(-1) == labels).sum(-1)
        nll[networks] -= logits.log_softmax(-1).gather(-1, labels[..., None]).sum((-2, -1))
    dtype = tiles.weights.dtype
    return (accuracy / len(y)).to(dtype), (nll / len(y)).to(dtype)


def _mean_squared_errors(tiles: Tiles, y: Tensor) -> Tensor:
    total = tiles.zeros(len(tiles.weights))
    for networks, inputs, outputs in tiles:
        total[networks] += (outputs - y[inputs]).square().sum((-2, -1))
    return (total / y.numel()).to(tiles.weights.dtype)
