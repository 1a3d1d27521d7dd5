"""Predictions of many networks on many inputs: model averages, moments and scores per network.

The Bayesian model average is the mean of the networks' probabilities,

    p(y | x, D) = sum_k w_k softmax(f(theta_k, x))_y,    sum_k w_k = 1    ([E25] eq. 2.1),

and never the softmax of their mean logits, which is no average over the posterior. Everything here
runs a block of networks on a block of inputs at a time and accumulates in float64, so memory does
not grow with the number of networks times the number of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights import Architecture, validation

_CHUNK_SIZE = 2**16  # 64 MiB of float64 for 128 numbers per network-input pair


class ClassificationScores(NamedTuple):
    """Accuracy and negative log likelihood (nats) of each network, both ``(n_networks,)``."""

    accuracy: Tensor | np.ndarray
    nll: Tensor | np.ndarray


class RegressionScores(NamedTuple):
    """Mean squared error of each network, ``(n_networks,)``."""

    mse: Tensor | np.ndarray


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
    chunk_size: int = _CHUNK_SIZE,
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
    tiles = _Tiles(architecture, weights, X, buffers, chunk_size).for_classification()
    importance = _normalised(network_weights, tiles.weights)
    average = tiles.zeros(len(tiles.X), tiles.n_outputs)
    for networks, inputs, logits in tiles:
        average[inputs] += torch.einsum("k,kic->ic", importance[networks], logits.softmax(-1))
    return _like(X, average.to(tiles.weights.dtype))


def predict_moments(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = _CHUNK_SIZE,
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
    tiles = _Tiles(architecture, weights, X, buffers, chunk_size)
    importance = _normalised(network_weights, tiles.weights)
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
    return PredictiveMoments(_like(X, mean.to(dtype)), _like(X, scatter.sqrt().to(dtype)))


def network_scores(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    task: str = "classification",
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = _CHUNK_SIZE,
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
    tiles = _Tiles(architecture, weights, X, buffers, chunk_size)
    if task == "regression":
        return RegressionScores(_like(X, _mean_squared_errors(tiles, _targets(y, tiles))))
    scores = _accuracy_and_nll(tiles.for_classification(), _labels(y, tiles))
    return ClassificationScores(*(_like(X, score) for score in scores))


class _Tiles:
    """Outputs of all networks on all inputs, a bounded block at a time.

    Iterating gives ``(networks, inputs, outputs)``: two slices and the float64 outputs of shape
    ``(networks in the block, inputs in the block, n_outputs)``.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: ArrayLike | Tensor,
        X: ArrayLike | Tensor,
        buffers: Mapping[str, Tensor] | None,
        chunk_size: int,
    ) -> None:
        self.architecture = architecture
        self.weights = _as_tensor(weights)
        validation.check_weights(self.weights, architecture.n_weights)
        if not self.weights.is_floating_point():
            raise TypeError(f"weights must be of floating point, got {self.weights.dtype}.")
        _check_finite("weights", self.weights)
        self.X = _as_tensor(X).to(self.weights.device)
        if self.X.ndim == 0 or len(self.X) == 0:
            raise ValueError(f"X must hold at least one input, got shape {tuple(self.X.shape)}.")
        _check_finite("X", self.X)
        self.buffers = buffers or {}
        self.chunk_size = validation.check_integer("chunk_size", chunk_size)
        # One network on one input tells the number of outputs of any module, and lets the
        # architecture refuse inputs or buffers that do not fit before the long loop begins.
        self.n_outputs = self._run(slice(0, 1), slice(0, 1)).shape[-1]

    def for_classification(self) -> _Tiles:
        if self.n_outputs < 2:
            raise ValueError(
                "architecture must have one output per class, at least 2, for class "
                f"probabilities, got {self.n_outputs}."
            )
        return self

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.weights.device)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        n_inputs = min(len(self.X), self.chunk_size)
        n_networks = max(1, self.chunk_size // n_inputs)
        for i in range(0, len(self.X), n_inputs):
            for k in range(0, len(self.weights), n_networks):
                networks, inputs = slice(k, k + n_networks), slice(i, i + n_inputs)
                yield networks, inputs, self._run(networks, inputs).double()

    @torch.no_grad()
    def _run(self, networks: slice, inputs: slice) -> Tensor:
        buffers = {name: buffer[networks] for name, buffer in self.buffers.items()}
        return self.architecture.apply(self.weights[networks], self.X[inputs], buffers=buffers)


def _accuracy_and_nll(tiles: _Tiles, y: Tensor) -> tuple[Tensor, Tensor]:
    accuracy, nll = tiles.zeros(len(tiles.weights)), tiles.zeros(len(tiles.weights))
    for networks, inputs, logits in tiles:
        labels = y[inputs].expand(len(logits), -1)
        accuracy[networks] += (logits.argmax(-1) == labels).sum(-1)
        nll[networks] -= logits.log_softmax(-1).gather(-1, labels[..., None]).sum((-2, -1))
    dtype = tiles.weights.dtype
    return (accuracy / len(y)).to(dtype), (nll / len(y)).to(dtype)


def _mean_squared_errors(tiles: _Tiles, y: Tensor) -> Tensor:
    total = tiles.zeros(len(tiles.weights))
    for networks, inputs, outputs in tiles:
        total[networks] += (outputs - y[inputs]).square().sum((-2, -1))
    return (total / y.numel()).to(tiles.weights.dtype)


def _check_finite(name: str, tensor: Tensor) -> None:
    bad = ~tensor.isfinite().flatten(1).all(1)
    if bad.any():
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in rows {validation.name_rows(bad)}."
        )


def _labels(y: ArrayLike | Tensor, tiles: _Tiles) -> Tensor:
    y = _as_tensor(y).to(tiles.weights.device)
    is_integer = not (y.is_floating_point() or y.is_complex())
    if y.shape != (len(tiles.X),) or not is_integer or y.min() < 0 or y.max() >= tiles.n_outputs:
        found = f", from {y.min().item()} to {y.max().item()}" if y.numel() and is_integer else ""
        raise ValueError(
            f"y must hold one integer class index 0, ..., {tiles.n_outputs - 1} per input, shape "
            f"({len(tiles.X)},), got {y.dtype} of shape {tuple(y.shape)}{found}."
        )
    return y.long()


def _targets(y: ArrayLike | Tensor, tiles: _Tiles) -> Tensor:
    y = _as_tensor(y).to(tiles.weights.device)
    y = y[:, None] if y.ndim == 1 else y
    if y.shape != (len(tiles.X), tiles.n_outputs) or not y.isfinite().all():
        raise ValueError(
            f"y must hold finite targets of shape ({len(tiles.X)}, {tiles.n_outputs}), got shape "
            f"{tuple(y.shape)}."
        )
    return y.double()


def _normalised(network_weights: ArrayLike | Tensor | None, weights: Tensor) -> Tensor:
    if network_weights is None:
        return weights.new_full((len(weights),), 1 / len(weights), dtype=torch.float64)
    w = _as_tensor(network_weights).to(weights.device, torch.float64)
    if w.shape != (len(weights),) or not w.isfinite().all() or w.min() < 0 or w.sum() == 0:
        raise ValueError(
            f"network_weights must be ({len(weights)},), finite, non-negative and not "
            f"all zero, got shape {tuple(w.shape)}; for log weights pass their softmax."
        )
    return w / w.sum()


def _as_tensor(values: ArrayLike | Tensor) -> Tensor:
    # A copy of an array, since torch warns about sharing memory with a read-only one.
    return values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))


def _like(X: ArrayLike | Tensor, result: Tensor) -> Tensor | np.ndarray:
    return result if isinstance(X, Tensor) else result.numpy(force=True)
