"""Outputs of many networks on many inputs, a bounded block at a time.

Everything that predicts runs a block of networks on a block of inputs and accumulates in float64,
so memory does not grow with the number of networks times the number of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights import Architecture, validation
from bayesflow_nn.weights.validation import as_tensor

CHUNK_SIZE = 2**16  # 64 MiB of float64 for 128 numbers per network-input pair

_INPUTS = 2**11
"""Inputs per block. Long rows of few networks leave the cache between two layers: with blocks of
10,000 inputs, networks 784-32-32-10 take a quarter longer. Down to 2**9 the time hardly changes."""


class Tiles:
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
        self.weights = as_tensor(weights)
        validation.check_weights(self.weights, architecture.n_weights)
        if not self.weights.is_floating_point():
            raise TypeError(f"weights must be of floating point, got {self.weights.dtype}.")
        _check_finite("weights", self.weights)
        self.X = as_tensor(X).to(self.weights.device)
        if self.X.is_floating_point():  # once, and not for every block
            self.X = self.X.to(self.weights.dtype)
        if self.X.ndim == 0 or len(self.X) == 0:
            raise ValueError(f"X must hold at least one input, got shape {tuple(self.X.shape)}.")
        _check_finite("X", self.X)
        self.buffers = buffers or {}
        self.chunk_size = validation.check_integer("chunk_size", chunk_size)
        # One network on one input tells the number of outputs of any module, and lets the
        # architecture refuse inputs or buffers that do not fit before the long loop begins.
        self.n_outputs = self._run(slice(0, 1), slice(0, 1)).shape[-1]

    def for_classification(self) -> Tiles:
        """Itself, or an error if the networks have no classes."""
        if self.n_outputs < 2:
            raise ValueError(
                "architecture must have one output per class, at least 2, for class "
                f"probabilities, got {self.n_outputs}."
            )
        return self

    def zeros(self, *shape: int) -> Tensor:
        """A float64 accumulator."""
        return torch.zeros(shape, dtype=torch.float64, device=self.weights.device)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        n_inputs = min(len(self.X), self.chunk_size, _INPUTS)
        n_networks = max(1, self.chunk_size // n_inputs)
        for i in range(0, len(self.X), n_inputs):
            for k in range(0, len(self.weights), n_networks):
                networks, inputs = slice(k, k + n_networks), slice(i, i + n_inputs)
                yield networks, inputs, self._run(networks, inputs).double()

    def over_all_networks(self) -> Iterator[tuple[slice, Tensor]]:
        """``(inputs, outputs)``: blocks of inputs, so few that all networks fit `chunk_size`.

        For what needs all networks of an input at once, such as quantiles. A block has one input at
        least, however many networks there are.
        """
        n_inputs = max(1, self.chunk_size // len(self.weights))
        for i in range(0, len(self.X), n_inputs):
            inputs = slice(i, i + n_inputs)
            yield inputs, self._run(slice(None), inputs).double()

    def of_networks(self, rows: Tensor) -> Iterator[Tensor]:
        """Outputs ``(block, n_inputs, n_outputs)`` of the networks `rows`, block after block."""
        size = max(1, self.chunk_size // len(self.X))
        starts = range(0, len(self.X), self.chunk_size)
        for block in rows.split(size):
            parts = [self._run(block, slice(i, i + self.chunk_size)) for i in starts]
            yield torch.cat(parts, 1).double()

    @torch.no_grad()
    def _run(self, networks: slice | Tensor, inputs: slice) -> Tensor:
        buffers = {name: buffer[networks] for name, buffer in self.buffers.items()}
        return self.architecture.apply(self.weights[networks], self.X[inputs], buffers=buffers)


def normalised(network_weights: ArrayLike | Tensor | None, weights: Tensor) -> Tensor:
    """Weights of the networks, of sum one, float64; equal ones for None."""
    if network_weights is None:
        return weights.new_full((len(weights),), 1 / len(weights), dtype=torch.float64)
    w = as_tensor(network_weights).to(weights.device, torch.float64)
    if w.shape != (len(weights),) or not w.isfinite().all() or w.min() < 0 or w.sum() == 0:
        raise ValueError(
            f"network_weights must be ({len(weights)},), finite, non-negative and not "
            f"all zero, got shape {tuple(w.shape)}; for log weights pass their softmax."
        )
    return w / w.sum()


def class_probabilities(logits: Tensor) -> Tensor:
    """Probabilities ``(networks, n_classes, inputs)`` of logits ``(networks, inputs, n_classes)``.

    Inputs come last, as multilayer perceptrons hold them: a soft maximum over a last dimension of
    few classes would run across the vector lanes, and take several times as long.
    """
    return logits.mT.softmax(1)


def check_labels(y: ArrayLike | Tensor, tiles: Tiles) -> Tensor:
    """Return class indices ``(n_inputs,)``, or raise."""
    y = as_tensor(y).to(tiles.weights.device)
    is_integer = not (y.is_floating_point() or y.is_complex())
    if y.shape != (len(tiles.X),) or not is_integer or y.min() < 0 or y.max() >= tiles.n_outputs:
        found = f", from {y.min().item()} to {y.max().item()}" if y.numel() and is_integer else ""
        raise ValueError(
            f"y must hold one integer class index 0, ..., {tiles.n_outputs - 1} per input, shape "
            f"({len(tiles.X)},), got {y.dtype} of shape {tuple(y.shape)}{found}."
        )
    return y.long()


def check_targets(y: ArrayLike | Tensor, tiles: Tiles, n_targets: int) -> Tensor:
    """Return finite targets ``(n_inputs, n_targets)`` in float64, or raise."""
    y = as_tensor(y).to(tiles.weights.device)
    y = y[:, None] if y.ndim == 1 else y
    if y.shape != (len(tiles.X), n_targets) or not y.isfinite().all():
        raise ValueError(
            f"y must hold finite targets of shape ({len(tiles.X)}, {n_targets}), got shape "
            f"{tuple(y.shape)}."
        )
    return y.double()


def like(X: ArrayLike | Tensor, result: Tensor) -> Tensor | np.ndarray:
    """A result of the kind of `X`: a Tensor or an array."""
    return result if isinstance(X, Tensor) else result.numpy(force=True)


def _check_finite(name: str, tensor: Tensor) -> None:
    bad = ~tensor.isfinite().flatten(1).all(1)
    if bad.any():
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in rows {validation.name_rows(bad)}."
        )
