"""Gradients of many networks of any module at once: ``torch.func.grad`` under ``vmap``."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.losses import Loss, WeightedLoss


class ModuleNetworks:
    """A chunk of networks with their parameters and gradient, each in one flat buffer.

    Parameters
    ----------
    architecture : Architecture
        The module is run in evaluation mode.
    weights : Tensor of shape (n_networks, n_weights)
        Initial weights; copied.
    X : Tensor of shape (n_inputs, ...)
        Training inputs.
    y : Tensor of shape (n_inputs, ...)
        Targets.
    loss : callable
        Maps outputs ``(batch, n_outputs)`` and targets of one network, and weights ``(batch,)`` if
        there are any, to a scalar.
    sample_weight : Tensor of shape (n_inputs,), optional
        Weights of the inputs, of mean one.

    Attributes
    ----------
    parameters, gradient : Tensor of shape (n_networks * n_weights,)
        Updated in place by the optimizer and by `compute_gradient`.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Tensor,
        X: Tensor,
        y: Tensor,
        loss: Loss | WeightedLoss,
        sample_weight: Tensor | None = None,
    ) -> None:
        self._data = (X, y) if sample_weight is None else (X, y, sample_weight)
        self.parameters = weights.flatten().clone()
        self.gradient = torch.empty_like(self.parameters)
        self._weights = self.parameters.view(weights.shape)
        self._gradient = self.gradient.view(weights.shape)

        def loss_of_one(row: Tensor, inputs: Tensor, *targets: Tensor) -> Tensor:
            return loss(architecture.call(row, inputs), *targets)

        self._differentiate = torch.func.grad(loss_of_one)

    def compute_gradient(self, rows: Tensor) -> None:
        """Write the gradient of every network's minibatch loss into `gradient`.

        Parameters
        ----------
        rows : Tensor of shape (n_networks, batch) or (1, batch)
            Indices of the minibatch of each network, or of all networks.
        """
        shared = len(rows) == 1 and len(self._weights) > 1
        rows = rows[0] if shared else rows
        minibatch = [values[rows] for values in self._data]
        in_dims = (0, *(None if shared else 0 for _ in minibatch))
        differentiate = torch.vmap(self._differentiate, in_dims)
        self._gradient.copy_(differentiate(self._weights, *minibatch))

    def read_weights(self, out: Tensor) -> None:
        """Copy the current weights into `out`, a Tensor of shape (n_networks, n_weights)."""
        out.copy_(self._weights)
