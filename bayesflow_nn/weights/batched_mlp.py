"""Gradients of many multilayer perceptrons at once, written out by hand.

For one network and a minibatch of inputs ``h_0 (batch, n_in)``::

    forward   a_l = h_{l-1} W_l^T + b_l,   h_l = activation(a_l),   z = h_{L-1} W_L^T + b_L
    outputs   d_L = dloss/dz, times the weights of the inputs, if they have any
    backward  d_{l-1} = (d_l W_l) * activation'(a_{l-1}),   dW_l^T = h_{l-1}^T d_l,   db_l = sum d_l

Hidden layers are ``(n_networks, batch, n_out)`` with transposed weight matrices, outputs are
``(n_networks, n_out, batch)``. In these layouts nearly all products avoid the slow "normal times
transposed" order of batched GEMM, and the soft maximum runs along vector lanes: over a last
dimension of 2 it would cost as much as all the rest of the step. Every product writes into a
buffer that is allocated once. A row of data ends with a 1, so that the first bias is the weight of
one more input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bayesflow_nn.weights.activations import Activation, derive
from bayesflow_nn.weights.dense import DenseLayer, DenseStack
from bayesflow_nn.weights.likelihoods import Likelihood
from bayesflow_nn.weights.losses import resolve_derivative

_VECTOR = 64
"""Buffers are padded to a multiple of this: the optimizer's kernel rounds the last numbers, which
fill no vector register, in another way, and the result would depend on the chunk size."""


class MLPNetworks:
    """A chunk of multilayer perceptrons with their parameters and gradient in one flat buffer.

    The buffers are layer-major: each layer's weights of all networks are contiguous, as batched
    GEMM needs its results, and the optimizer still sees one vector.

    Parameters
    ----------
    stack : DenseStack
        The layers.
    weights : Tensor of shape (n_networks, n_weights)
        Initial weights; copied.
    X : Tensor of shape (n_inputs, n_in)
        Training inputs.
    y : Tensor of shape (n_inputs,) or (n_inputs, n_out)
        Integer labels or regression targets.
    loss : {"cross_entropy", "mse"} or Likelihood
        Mean over the minibatch (and the outputs, for "mse").
    batch_size : int
        Largest minibatch.
    n_orders : int
        Number of different minibatches per step: `n_networks`, or 1 if all networks share them.
    sample_weight : Tensor of shape (n_inputs,), optional
        Weights of the inputs, of mean one, in the dtype of the weights of networks.

    Attributes
    ----------
    parameters, gradient : Tensor of shape (n_networks * n_weights + padding,)
        Updated in place by the optimizer and by `compute_gradient`.
    """

    def __init__(
        self,
        stack: DenseStack,
        weights: Tensor,
        X: Tensor,
        y: Tensor,
        *,
        loss: str | Likelihood,
        batch_size: int,
        n_orders: int,
        sample_weight: Tensor | None = None,
    ) -> None:
        self._stack = stack
        has_bias = stack.layers[0].bias is not None
        self._inputs = torch.cat([X, torch.ones_like(X[:, :1])], dim=1) if has_bias else X
        self._targets = y.reshape(len(y), -1)
        self._sample_weight = sample_weight
        self._differentiate = resolve_derivative(loss)
        self._activation = derive(stack.function)
        self._n_networks = len(weights)
        self.parameters = weights.new_zeros(-(-weights.numel() // _VECTOR) * _VECTOR)
        self.gradient = torch.zeros_like(self.parameters)
        self._slots = _locate(stack.layers, self._n_networks, self.parameters)
        self._gradients = _locate(stack.layers, self._n_networks, self.gradient)
        self._workspace = _allocate(
            stack.layers,
            self._activation,
            self._inputs,
            self._targets,
            (self._n_networks, n_orders, batch_size),
        )
        for columns, place in self._correspondence():
            place.copy_(weights[:, columns].view(place.shape))

    def compute_gradient(self, rows: Tensor) -> None:
        """Write the gradient of every network's minibatch loss into `gradient`.

        Parameters
        ----------
        rows : Tensor of shape (n_networks, batch) or (1, batch)
            Indices of the minibatch of each network, or of all networks.
        """
        workspace, batch = self._workspace, rows.shape[1]
        n_missing = workspace.outputs.shape[2] - batch
        if n_missing:
            rows = functional.pad(rows, (0, n_missing))
        workspace.gather(self._inputs, self._targets, rows)
        self._forward(workspace)
        self._differentiate(workspace.outputs, workspace.targets, batch, workspace.output_deltas)
        if self._sample_weight is not None:
            workspace.output_deltas.mul_(self._sample_weight[rows][:, None])
        if n_missing:
            workspace.output_deltas[:, :, batch:] = 0
        self._backward(workspace)

    def read_weights(self, out: Tensor) -> None:
        """Copy the current weights into `out`, a Tensor of shape (n_networks, n_weights)."""
        for columns, place in self._correspondence():
            out[:, columns].view(place.shape).copy_(place)

    def _forward(self, workspace: _Workspace) -> None:
        *hidden, last = self._slots
        inputs = workspace.inputs
        for slot, a, h in zip(hidden, workspace.a, workspace.h, strict=True):
            _multiply(slot.bias, inputs, slot.weight, a)
            self._activation.forward(a, h)
            inputs = h
        _multiply(last.bias, last.weight, inputs.transpose(1, 2), workspace.outputs)

    def _backward(self, workspace: _Workspace) -> None:
        inputs = [workspace.inputs, *workspace.h]
        d, slot, gradient = workspace.output_deltas, self._slots[-1], self._gradients[-1]
        torch.bmm(d, inputs[-1], out=gradient.weight)
        if gradient.bias is not None:
            torch.sum(d, 2, keepdim=True, out=gradient.bias)
        upstream, matrix = d.transpose(1, 2), slot.weight
        for i in reversed(range(len(workspace.h))):
            slot, gradient, d = self._slots[i], self._gradients[i], workspace.deltas[i]
            torch.bmm(upstream, matrix, out=d)
            self._activation.backward(d, workspace.a[i], workspace.h[i])
            torch.bmm(inputs[i].transpose(1, 2), d, out=gradient.weight)
            if gradient.bias is not None:
                torch.sum(d, 1, keepdim=True, out=gradient.bias)
            upstream, matrix = d, slot.weight.transpose(1, 2)

    def _correspondence(self) -> list[tuple[slice, Tensor]]:
        """Pair columns of the flat weights with views of `parameters` in the same order."""
        pairs = []
        for layer, slot in zip(self._stack.layers, self._slots, strict=True):
            is_last = layer is self._stack.layers[-1]
            matrix = slot.weight if is_last else slot.weight.transpose(1, 2)
            pairs.append((layer.weight, matrix[:, :, : layer.n_in]))
            if layer.bias is not None:
                bias = matrix[:, :, layer.n_in] if slot.bias is None else slot.bias.flatten(1)
                pairs.append((layer.bias, bias))
        return pairs


@dataclass(frozen=True)
class _Slot:
    """Views of one layer in a layer-major buffer.

    ``weight`` is ``(n_networks, n_in, n_out)``, in the last layer ``(n_networks, n_out, n_in)``.
    In the first layer the bias is the weight of one more input, and ``bias`` is None.
    """

    weight: Tensor
    bias: Tensor | None


def _locate(layers: tuple[DenseLayer, ...], n_networks: int, buffer: Tensor) -> list[_Slot]:
    slots = []
    start = 0

    def take(n_rows: int, n_columns: int) -> Tensor:
        nonlocal start
        piece = buffer[start : start + n_networks * n_rows * n_columns]
        start += len(piece)
        return piece.view(n_networks, n_rows, n_columns)

    for i, layer in enumerate(layers):
        is_last = i == len(layers) - 1
        own_bias = layer.bias is not None and i > 0
        n_in = layer.n_in + (layer.bias is not None and i == 0)
        weight = take(layer.n_out, n_in) if is_last else take(n_in, layer.n_out)
        bias_shape = (layer.n_out, 1) if is_last else (1, layer.n_out)
        slots.append(_Slot(weight, take(*bias_shape) if own_bias else None))
    return slots


@dataclass(frozen=True)
class _Workspace:
    """Everything between the minibatch and the gradient.

    The last minibatch of an epoch may be smaller. It is computed at full size, since products need
    whole buffers; the derivatives beyond it are zero and add nothing to the gradient.
    """

    gathered_inputs: Tensor  # (n_orders * batch, n_in [+ 1])
    gathered_targets: Tensor  # (n_orders * batch, n_targets)
    inputs: Tensor  # (n_networks, batch, n_in [+ 1]), a view of gathered_inputs
    targets: Tensor  # (n_networks, n_targets, batch), a view of gathered_targets
    a: list[Tensor]  # hidden layers before the activation, (n_networks, batch, n_hidden)
    h: list[Tensor]  # and after it; the same memory where the derivative allows
    deltas: list[Tensor]  # dloss/da
    outputs: Tensor  # (n_networks, n_out, batch)
    output_deltas: Tensor

    def gather(self, inputs: Tensor, targets: Tensor, rows: Tensor) -> None:
        rows = rows.reshape(-1)
        torch.index_select(inputs, 0, rows, out=self.gathered_inputs)
        torch.index_select(targets, 0, rows, out=self.gathered_targets)


def _allocate(
    layers: tuple[DenseLayer, ...],
    activation: Activation,
    inputs: Tensor,
    targets: Tensor,
    sizes: tuple[int, int, int],
) -> _Workspace:
    n_networks, n_orders, batch = sizes
    hidden = [(n_networks, batch, layer.n_out) for layer in layers[:-1]]
    gathered_inputs = inputs.new_empty(n_orders * batch, inputs.shape[1])
    gathered_targets = targets.new_empty(n_orders * batch, targets.shape[1])
    outputs = inputs.new_empty(n_networks, layers[-1].n_out, batch)
    a = [inputs.new_empty(shape) for shape in hidden]
    return _Workspace(
        gathered_inputs=gathered_inputs,
        gathered_targets=gathered_targets,
        inputs=gathered_inputs.view(n_orders, batch, -1).expand(n_networks, -1, -1),
        targets=gathered_targets.view(n_orders, batch, -1).mT.expand(n_networks, -1, -1),
        a=a,
        h=a if activation.in_place else [inputs.new_empty(shape) for shape in hidden],
        deltas=[inputs.new_empty(shape) for shape in hidden],
        outputs=outputs,
        output_deltas=torch.empty_like(outputs),
    )


def _multiply(bias: Tensor | None, left: Tensor, right: Tensor, out: Tensor) -> None:
    if bias is None:
        torch.bmm(left, right, out=out)
    else:
        torch.baddbmm(bias, left, right, out=out)
