r"""Loss on straight lines between networks, and how far it rises above the ends.

On the line w_s = (1 - s) w_a + s w_b from one network to another, 0 <= s <= 1, the loss barrier is

    max_s L(w_s) - (L(w_a) + L(w_b)) / 2    ([A23] definition 2.1),

or, at the midpoint alone, L(w_1/2) - (L(w_a) + L(w_b)) / 2 ([E25] figure 7.2). Networks that differ
by a symmetry have the same function and, in general, a barrier between them; alignment lowers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.symmetry.weight_input import read_weights
from bayesflow_nn.weights import Categorical, Likelihood, WeightPopulation
from bayesflow_nn.weights.population import TASKS
from bayesflow_nn.weights.training_data import check_data
from bayesflow_nn.weights.validation import check_integer, check_option

_CHUNK_BYTES = 64 * 2**20
"""Weights, and activations, of the interpolated networks that are evaluated together."""

KINDS = ("midpoint", "maximum")


def interpolation_losses(
    population: WeightPopulation,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    pairs: ArrayLike | Tensor | None = None,
    *,
    n_points: int = 11,
    chunk_size: int | None = None,
) -> Tensor:
    """Mean loss along the straight lines between pairs of networks.

    The loss is the negative log likelihood in nats, for a regression without a likelihood the
    squared error (mean over inputs and outputs). Floating buffers are interpolated along with the
    weights, counters are those of the first network. Batch-norm statistics found like this are not
    those that an interpolated network has: its activations vary less, and its loss is overestimated
    unless they are computed anew (Jordan et al., arXiv 2211.08403).

    No gradient is recorded.

    Parameters
    ----------
    population : WeightPopulation
        Finite networks, with a task.
    X : array or Tensor of shape (n_inputs, ...)
        Network inputs.
    y : array or Tensor of shape (n_inputs,) or, for regression, (n_inputs, n_outputs)
        Class indices 0, ..., n_classes - 1, or regression targets.
    pairs : integer array of shape (n_pairs, 2), optional
        Rows of the two networks of each line. By default (0, 1), (2, 3), ...; an odd network is
        left out.
    n_points : int
        Points on each line, both ends included; at least 3 and odd, so that the midpoint is one.
    chunk_size : int, optional
        Network-input pairs evaluated at once, which bounds the memory; by default as many as fit
        in 64 MiB.

    Returns
    -------
    Tensor of shape (n_pairs, n_points)
        Losses at s = 0, ..., 1, summed in float64, in the dtype of the weights.

    Raises
    ------
    TypeError
        If `population` is no `WeightPopulation`.
    ValueError
        If it has no task or weights that are not finite, `X` and `y` do not fit it or each other,
        `pairs` has a wrong shape or names a row that does not exist, `n_points` is even or below
        3, or `chunk_size` is no positive integer.

    Examples
    --------
    >>> from bayesflow_nn.weights import Architecture
    >>> linear = Architecture.mlp([1, 1], bias=False)
    >>> weights = torch.tensor([[1.0], [3.0]])
    >>> population = WeightPopulation(weights, architecture=linear, task="regression")
    >>> interpolation_losses(population, [[1.0]], [2.0], n_points=5)  # (w - 2)²
    tensor([[1.0000, 0.2500, 0.0000, 0.2500, 1.0000]])
    """
    _check_n_points(n_points)
    data = _read_data(population, X, y)
    lines = _Lines(population, _read_pairs(pairs, len(population)), n_points)
    return _mean_losses(lines, data, chunk_size).to(population.weights.dtype)


def loss_barrier(
    population: WeightPopulation,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    pairs: ArrayLike | Tensor | None = None,
    *,
    kind: str = "midpoint",
    n_points: int = 11,
    chunk_size: int | None = None,
) -> Tensor:
    """How far the loss between two networks rises above the mean of their own losses.

    Parameters and errors not listed here are those of `interpolation_losses`.

    Parameters
    ----------
    kind : {"midpoint", "maximum"}
        Where the loss between them is taken: halfway, as in [E25], or at the worst of `n_points`
        points, ends included, as in [A23]. The maximum is never negative; the midpoint may be.
    n_points : int
        Points on each line for the maximum; the midpoint needs none but itself.

    Returns
    -------
    Tensor of shape (n_pairs,)
        In the dtype of the weights: nats per input, or squared error.

    Raises
    ------
    ValueError
        If `kind` is unknown.

    Examples
    --------
    The function relu(x) - relu(-x) = x, with its two neurons in one order and the other: halfway
    all weights are zero.

    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([1, 2, 1], bias=False)
    >>> weights = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])
    >>> population = WeightPopulation(weights, architecture=mlp, task="regression")
    >>> loss_barrier(population, [[-1.0], [1.0]], [-1.0, 1.0])
    tensor([1.])
    """
    check_option("kind", kind, KINDS)
    _check_n_points(n_points)
    data = _read_data(population, X, y)
    pairs = _read_pairs(pairs, len(population))
    lines = _Lines(population, pairs, 3 if kind == "midpoint" else n_points)
    losses = _mean_losses(lines, data, chunk_size)
    between = losses[:, 1] if kind == "midpoint" else losses.amax(1)
    return (between - losses[:, [0, -1]].mean(1)).to(population.weights.dtype)


class _Data(NamedTuple):
    """Inputs as the network takes them; labels ``(n,)`` or float64 targets ``(n, n_targets)``."""

    X: Tensor
    y: Tensor
    losses: Callable[[Tensor, Tensor], Tensor]


class _Lines:
    """The points of all lines in one sequence, line after line.

    Parameters
    ----------
    population : WeightPopulation
    pairs : Tensor of shape (n_pairs, 2)
    n_points : int
    """

    def __init__(self, population: WeightPopulation, pairs: Tensor, n_points: int) -> None:
        self.population = population
        self.shape = len(pairs), n_points
        device = population.weights.device
        self._first, self._second = pairs.to(device).repeat_interleave(n_points, 0).unbind(1)
        self._s = torch.linspace(0, 1, n_points, dtype=torch.float64, device=device)
        self._s = self._s.repeat(len(pairs))

    def __len__(self) -> int:
        return len(self._s)

    def outputs(self, points: slice, X: Tensor) -> Tensor:
        """Evaluate the networks at some of the points, ``(n_points, n_inputs, n_outputs)``."""
        weights = self._interpolate(self.population.weights, points)
        buffers = self.population.buffers or {}
        buffers = {name: self._interpolate(buffer, points) for name, buffer in buffers.items()}
        return self.population.architecture.apply(weights, X, buffers=buffers)

    def _interpolate(self, tensor: Tensor, points: slice) -> Tensor:
        first = tensor[self._first[points]]
        if not tensor.is_floating_point():
            return first
        s = self._s[points].to(tensor.dtype).reshape(-1, *[1] * (tensor.ndim - 1))
        # Exact at both ends, and everywhere if both are equal.
        return torch.lerp(first, tensor[self._second[points]], s)


@torch.no_grad()
def _mean_losses(lines: _Lines, data: _Data, chunk_size: int | None) -> Tensor:
    """Float64 losses ``(n_pairs, n_points)``, a block of points and inputs at a time."""
    total = data.y.new_zeros(len(lines), dtype=torch.float64)
    for points, inputs in _tiles(lines, data.X, chunk_size):
        outputs = lines.outputs(points, data.X[inputs]).double()
        total[points] += data.losses(outputs, data.y[inputs]).sum(-1)
    return (total / len(data.y)).reshape(lines.shape)


def _tiles(lines: _Lines, X: Tensor, chunk_size: int | None) -> Iterator[tuple[slice, slice]]:
    """Blocks of points and inputs that are evaluated together."""
    architecture, weights = lines.population.architecture, lines.population.weights
    if chunk_size is None:
        # Outputs are held in float64; the rest of the activations count as if they were.
        chunk_size = max(1, _CHUNK_BYTES // (8 * max(1, architecture.activations_per_input(X))))
    check_integer("chunk_size", chunk_size)
    n_inputs = min(len(X), chunk_size)
    # Both ends of a line are gathered beside the point between them.
    n_fitting = _CHUNK_BYTES // (3 * weights[0].nbytes)
    n_points = max(1, min(chunk_size // n_inputs, n_fitting))
    for k in range(0, len(lines), n_points):
        for i in range(0, len(X), n_inputs):
            yield slice(k, k + n_points), slice(i, i + n_inputs)


def _losses_of(likelihood: Likelihood | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Loss of every network and input: negative log likelihoods, or squared errors."""
    if likelihood is None:
        return lambda outputs, y: (outputs - y).square().mean(-1)
    return lambda outputs, y: -likelihood.log_prob(outputs, y)


def _read_data(population: WeightPopulation, X: ArrayLike | Tensor, y: ArrayLike | Tensor) -> _Data:
    """Check the population, and the data against it."""
    if not isinstance(population, WeightPopulation):
        raise TypeError(
            f"population must be a WeightPopulation, got {type(population).__name__}; "
            f"use WeightPopulation(weights, architecture=..., task=...)."
        )
    if population.task is None:
        raise ValueError(
            f"population must have a task, one of {list(TASKS)}, that says which loss, got None; "
            f"use dataclasses.replace(population, task=...)."
        )
    weights = read_weights(population, None).tensor
    X, y = _as_tensor(X, weights.device), _as_tensor(y, weights.device)
    X = X.to(weights.dtype) if X.is_floating_point() else X
    is_labels = population.task == "classification"
    likelihood = Categorical() if is_labels else population.likelihood
    data = check_data(population.architecture, X, y, likelihood or "mse", weights.device)
    # From `y`, not `data.y`, which has the dtype of the inputs: those may be token indices.
    targets = data.y if is_labels else y.double().reshape(len(y), -1)
    return _Data(data.X, targets, _losses_of(likelihood))


def _check_n_points(n_points: int) -> None:
    check_integer("n_points", n_points, 3)
    if n_points % 2 == 0:
        raise ValueError(
            f"n_points must be odd, so that the midpoint is among the points, got {n_points}; "
            f"use {n_points + 1}."
        )


def _read_pairs(pairs: ArrayLike | Tensor | None, n_networks: int) -> Tensor:
    """Indices ``(n_pairs, 2)`` of existing networks."""
    if pairs is None:
        if n_networks < 2:
            raise ValueError("population must have at least 2 networks to form a pair, got 1.")
        return torch.arange(n_networks // 2 * 2).reshape(-1, 2)
    pairs = _as_tensor(pairs, "cpu")
    is_integer = not (pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0 or not is_integer:
        raise ValueError(
            f"pairs must be integers of shape (n_pairs, 2) with at least one pair, got "
            f"{pairs.dtype} of shape {tuple(pairs.shape)}; pass [[i, j], ...]."
        )
    if pairs.min() < 0 or pairs.max() >= n_networks:
        raise ValueError(
            f"pairs must hold rows from 0 to {n_networks - 1} of the population, got "
            f"{pairs.min().item()} to {pairs.max().item()}."
        )
    return pairs.long()


def _as_tensor(values: ArrayLike | Tensor, device: torch.device | str) -> Tensor:
    # A copy of an array, since torch warns about sharing memory with a read-only one.
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    return tensor.to(device)
