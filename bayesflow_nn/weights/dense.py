"""Multilayer perceptrons on the flat weight vector: place of each layer, and the batched forward.

A layer computes ``a_l = W_l h_{l-1} + b_l`` and ``h_l = activation(a_l)``. Activations are held as
``(n_networks, n_features, n_inputs)``: in that layout the first layer of all networks, whose input
is shared, is one matrix product ``(n_networks * n_hidden, n_in) @ (n_in, n_inputs)``, and the
others are batched products without a transpose in between.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


@dataclass(frozen=True)
class DenseLayer:
    """Where one dense layer sits in the flat weight vector.

    Parameters
    ----------
    weight : slice
        Columns of the weight matrix, row-major ``(n_out, n_in)``.
    bias : slice or None
        Columns of the bias ``(n_out,)``; None for a layer without bias.
    n_in, n_out : int
        Number of inputs and outputs of the layer.
    """

    weight: slice
    bias: slice | None
    n_in: int
    n_out: int


@dataclass(frozen=True)
class DenseStack:
    """A module recognised as a multilayer perceptron.

    Parameters
    ----------
    layers : tuple of DenseLayer
        Layers from the input to the output.
    activation : str
        Name of the hidden activation, a key of ``ACTIVATIONS``.
    function : callable
        The activation itself, elementwise on a tensor.
    """

    layers: tuple[DenseLayer, ...]
    activation: str
    function: Callable[[Tensor], Tensor]


def build_mlp(sizes: Sequence[int], activation: str, bias: bool) -> nn.Sequential:
    """Sequential of dense layers, all weights zero; consumes no random numbers."""
    modules: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        modules += [
            nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias),
            ACTIVATIONS[activation](),
        ]
    module = nn.Sequential(*modules[:-1])
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def recognise_mlp(module: nn.Module) -> DenseStack | None:
    """Read a ``Sequential(Linear, activation, Linear, ..., Linear)``; None for any other module.

    The hidden activations must be one and the same elementwise function without parameters, and no
    parameter may be shared between layers.
    """
    if type(module) is not nn.Sequential or len(module) % 2 == 0:
        return None
    linears, activations = list(module[0::2]), list(module[1::2])
    if not all(map(_is_plain_linear, linears)) or not _are_chained(linears):
        return None
    function = activations[0] if activations else nn.Identity()
    name = next((name for name, kind in ACTIVATIONS.items() if type(function) is kind), None)
    if name is None or len(set(map(repr, activations))) > 1:
        return None
    return DenseStack(_locate(linears), name, function)


def dense_forward(stack: DenseStack, weights: Tensor, X: Tensor) -> Tensor:
    """Evaluate all networks on all inputs.

    Parameters
    ----------
    stack : DenseStack
        The layers.
    weights : Tensor of shape (n_networks, n_weights)
        One network per row.
    X : Tensor of shape (n_inputs, n_in)
        Inputs shared by all networks.

    Returns
    -------
    Tensor of shape (n_networks, n_inputs, n_out)
    """
    first, *others = stack.layers
    n_networks = weights.shape[0]
    rows = weights[:, first.weight].reshape(n_networks * first.n_out, first.n_in)
    hidden = (rows @ X.T).reshape(n_networks, first.n_out, X.shape[0])
    if first.bias is not None:
        hidden = hidden + weights[:, first.bias, None]
    for layer in others:
        hidden = stack.function(hidden)
        matrix = weights[:, layer.weight].reshape(n_networks, layer.n_out, layer.n_in)
        if layer.bias is None:
            hidden = torch.bmm(matrix, hidden)
        else:
            hidden = torch.baddbmm(weights[:, layer.bias, None], matrix, hidden)
    return hidden.transpose(1, 2)


def _is_plain_linear(module: nn.Module) -> bool:
    # Weight normalisation and the like keep the type and replace the parameters or add hooks.
    hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
    names = [name for name, _ in module.named_parameters()]
    return type(module) is nn.Linear and names in (["weight", "bias"], ["weight"]) and not hooks


def _are_chained(linears: Sequence[nn.Linear]) -> bool:
    """Whether each layer takes the outputs of the one before and no parameter is shared."""
    parameters = [id(parameter) for linear in linears for parameter in linear.parameters()]
    fits = all(a.out_features == b.in_features for a, b in itertools.pairwise(linears))
    return fits and len(set(parameters)) == len(parameters)


def _locate(linears: Sequence[nn.Linear]) -> tuple[DenseLayer, ...]:
    layers = []
    start = 0
    for linear in linears:
        middle = start + linear.weight.numel()
        end = middle + (0 if linear.bias is None else linear.out_features)
        bias = None if linear.bias is None else slice(middle, end)
        layers.append(
            DenseLayer(slice(start, middle), bias, linear.in_features, linear.out_features)
        )
        start = end
    return tuple(layers)
