r"""Log likelihood of many multilayer perceptrons on the same inputs, with its gradient.

For one network and all inputs, one per column of :math:`h_0` (n_in, n_inputs):

.. math::
    a_l &= W_l h_{l-1} + b_l, \quad h_l = \sigma(a_l), \quad d_L = \partial \log p / \partial a_L \\
    d_{l-1} &= (W_l^T d_l) \, \sigma'(a_{l-1}), \quad
    \partial \log p / \partial W_l = d_l h_{l-1}^T, \quad \partial \log p / \partial b_l = d_l 1

Inputs run along the last dimension, so that the weights are multiplied as they lie in the flat
vector, and the soft maximum over few classes runs along vector lanes. In the first layer, whose
inputs are shared, all networks are one matrix product, with the bias as the weight of one more
input. Every product writes into a buffer that is allocated once, and inputs come in blocks whose
activations stay in the cache: the passes over them are bound by memory otherwise. Weights w_i of
inputs multiply their log p and their columns of d_L.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesflow_nn.weights.activations import derive
from bayesflow_nn.weights.dense import DenseLayer, DenseStack
from bayesflow_nn.weights.likelihood_gradients import write_log_likelihood
from bayesflow_nn.weights.likelihoods import Likelihood

_N_CACHED = 2**19
"""Activations of a layer, of all networks, that stay in the cache between passes over them."""
_SMALLEST_BLOCK = 1024
"""Inputs of a block at least; below, calls cost more than memory."""


class DenseLikelihood:
    """Log likelihood of the data under many networks, and its gradient.

    Parameters
    ----------
    stack : DenseStack
        The layers.
    likelihood : Likelihood
    X : Tensor of shape (n_inputs, n_in)
    y : Tensor of shape (n_inputs,) of labels, or (n_inputs, n_targets)
    sample_weight : Tensor of shape (n_inputs,), optional
        Factors of the log likelihoods of the inputs.
    """

    def __init__(
        self,
        stack: DenseStack,
        likelihood: Likelihood,
        X: Tensor,
        y: Tensor,
        sample_weight: Tensor | None = None,
    ) -> None:
        self._stack = stack
        self._activation = derive(stack.function)
        self._likelihood = likelihood
        has_bias = stack.layers[0].bias is not None
        self._X = torch.cat([X, torch.ones_like(X[:, :1])], dim=1) if has_bias else X
        self._y = y
        self._sample_weight = sample_weight
        self._workspaces: dict[tuple, _Workspace] = {}

    def write(self, weights: Tensor, rows: Tensor | None, value: Tensor, gradient: Tensor) -> None:
        """Write the log likelihood of the inputs `rows` (None is all) and its gradient.

        Parameters
        ----------
        weights : Tensor of shape (n_networks, n_weights)
        rows : Tensor of shape (batch,) or None
        value : Tensor of shape (n_networks,)
            Filled; nats.
        gradient : Tensor of shape (n_networks, n_weights)
            Filled; nats per unit of weight.
        """
        n_inputs = len(self._X) if rows is None else len(rows)
        size = self._block_size(len(weights))
        own_value, own_gradient = torch.empty_like(value), torch.empty_like(gradient)
        for start in range(0, n_inputs, size):
            block = slice(start, start + size)
            place = block if rows is None else rows[block]
            if start == 0:
                self._write_block(weights, place, value, gradient)
            else:
                self._write_block(weights, place, own_value, own_gradient)
                value += own_value
                gradient += own_gradient

    def _block_size(self, n_networks: int) -> int:
        widest = max(layer.n_out for layer in self._stack.layers)
        return max(_SMALLEST_BLOCK, _N_CACHED // (n_networks * widest))

    def _write_block(
        self, weights: Tensor, rows: Tensor | slice, value: Tensor, gradient: Tensor
    ) -> None:
        X, y, w = self._X[rows].to(weights.dtype), self._y[rows], self._sample_weight
        y = y.to(weights.dtype) if y.is_floating_point() else y
        w = None if w is None else w[rows].to(weights.dtype)
        work = self._workspace(len(weights), len(X), weights)
        self._forward(work, weights, X)
        write_log_likelihood(self._likelihood, work.a[-1], y, w, value, work.d[-1])
        self._backward(work, weights, X, gradient)

    def _forward(self, work: _Workspace, weights: Tensor, X: Tensor) -> None:
        first, *others = self._stack.layers
        work.weights[:, :, : first.n_in] = _matrix(first, weights)
        if first.bias is not None:
            work.weights[:, :, first.n_in] = weights[:, first.bias]
        torch.mm(work.weights.flatten(0, 1), X.T, out=work.a[0].flatten(0, 1))
        for i, layer in enumerate(others):
            self._activation.forward(work.a[i], work.h[i])
            matrix, a = _matrix(layer, weights), work.a[i + 1]
            if layer.bias is None:
                torch.bmm(matrix, work.h[i], out=a)
            else:
                torch.baddbmm(weights[:, layer.bias, None], matrix, work.h[i], out=a)

    def _backward(self, work: _Workspace, weights: Tensor, X: Tensor, gradient: Tensor) -> None:
        first, *others = self._stack.layers
        for i, layer in reversed(list(enumerate(others))):
            d = work.d[i + 1]
            torch.bmm(d, work.h[i].mT, out=work.gradients[i])
            _matrix(layer, gradient).copy_(work.gradients[i])
            if layer.bias is not None:
                gradient[:, layer.bias] = d.sum(2)
            torch.bmm(_matrix(layer, weights).mT, d, out=work.d[i])
            self._activation.backward(work.d[i], work.a[i], work.h[i])
        # In this order the result is wide; (n_networks * n_out, n_inputs) @ X, as narrow as the
        # inputs are few, takes twice as long.
        torch.mm(X.T, work.d[0].flatten(0, 1).T, out=work.first_gradient)
        by_network = work.first_gradient.unflatten(1, (-1, first.n_out)).permute(1, 2, 0)
        _matrix(first, gradient).copy_(by_network[:, :, : first.n_in])
        if first.bias is not None:
            gradient[:, first.bias] = by_network[:, :, first.n_in]

    def _workspace(self, n_networks: int, batch: int, like: Tensor) -> _Workspace:
        key = n_networks, batch, like.dtype
        if key not in self._workspaces:
            # Four at most: blocks of inputs and chunks of networks, with a shorter one of each.
            while len(self._workspaces) > 3:
                self._workspaces.pop(next(iter(self._workspaces)))
            layers, n_in = self._stack.layers, self._X.shape[1]
            a = [like.new_empty(n_networks, layer.n_out, batch) for layer in layers]
            self._workspaces[key] = _Workspace(
                weights=like.new_empty(n_networks, layers[0].n_out, n_in),
                first_gradient=like.new_empty(n_in, n_networks * layers[0].n_out),
                gradients=[like.new_empty(n_networks, x.n_out, x.n_in) for x in layers[1:]],
                a=a,
                h=a[:-1] if self._activation.in_place else [torch.empty_like(x) for x in a[:-1]],
                d=[torch.empty_like(outputs) for outputs in a],
            )
        return self._workspaces[key]


@dataclass(frozen=True)
class _Workspace:
    """Everything between the weights and the gradient."""

    weights: Tensor  # first layer, with its bias as a column, (n_networks, n_out, n_in [+ 1])
    first_gradient: Tensor  # by these, (n_in [+ 1], n_networks * n_out)
    gradients: list[Tensor]  # by the matrices of the other layers, (n_networks, n_out, n_in)
    a: list[Tensor]  # layers before the activation, (n_networks, n_out, batch)
    h: list[Tensor]  # hidden layers after it; the same memory where the derivative allows
    d: list[Tensor]  # derivatives of the log likelihood by a


def _matrix(layer: DenseLayer, weights: Tensor) -> Tensor:
    """View of one layer's matrices ``(n_networks, n_out, n_in)``."""
    return weights[:, layer.weight].unflatten(1, (layer.n_out, layer.n_in))
