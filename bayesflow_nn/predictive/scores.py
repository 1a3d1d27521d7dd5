"""Every network scored on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.predictive.tiles import CHUNK_SIZE, Tiles, like
from bayesflow_nn.weights import Architecture, validation
from bayesflow_nn.weights.validation import as_tensor


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
        return RegressionScores(like(X, _mean_squared_errors(tiles, _targets(y, tiles))))
    scores = _accuracy_and_nll(tiles.for_classification(), _labels(y, tiles))
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


def _labels(y: ArrayLike | Tensor, tiles: Tiles) -> Tensor:
    y = as_tensor(y).to(tiles.weights.device)
    is_integer = not (y.is_floating_point() or y.is_complex())
    if y.shape != (len(tiles.X),) or not is_integer or y.min() < 0 or y.max() >= tiles.n_outputs:
        found = f", from {y.min().item()} to {y.max().item()}" if y.numel() and is_integer else ""
        raise ValueError(
            f"y must hold one integer class index 0, ..., {tiles.n_outputs - 1} per input, shape "
            f"({len(tiles.X)},), got {y.dtype} of shape {tuple(y.shape)}{found}."
        )
    return y.long()


def _targets(y: ArrayLike | Tensor, tiles: Tiles) -> Tensor:
    y = as_tensor(y).to(tiles.weights.device)
    y = y[:, None] if y.ndim == 1 else y
    if y.shape != (len(tiles.X), tiles.n_outputs) or not y.isfinite().all():
        raise ValueError(
            f"y must hold finite targets of shape ({len(tiles.X)}, {tiles.n_outputs}), got shape "
            f"{tuple(y.shape)}."
        )
    return y.double()
