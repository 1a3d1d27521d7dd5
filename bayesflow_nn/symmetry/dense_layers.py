"""The layers of many multilayer perceptrons, cut from the flat weight vectors and joined again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesflow_nn.weights import Architecture

HOMOGENEOUS_ACTIVATIONS = ("relu", "leaky_relu", "identity")
"""Activations with f(s a) = s f(a) for every s > 0."""


ODD_ACTIVATIONS = ("tanh",)
"""Activations with f(-a) = -f(a). The identity, which is odd as well, is homogeneous above all."""


class DenseWeights(NamedTuple):
    """One layer of all networks.

    Parameters
    ----------
    matrix : Tensor of shape (..., n_out, n_in)
        Weight matrices.
    bias : Tensor of shape (..., n_out) or None
        Biases, None for a layer without.
    """

    matrix: Tensor
    bias: Tensor | None


def split_layers(architecture: Architecture, weights: Tensor) -> list[DenseWeights]:
    """Cut flat weights into layers, input side first.

    Parameters
    ----------
    architecture : Architecture
        A multilayer perceptron.
    weights : Tensor of shape (..., n_weights)

    Returns
    -------
    list of DenseWeights
        Views of `weights`.
    """
    return [
        DenseWeights(
            weights[..., layer.weight].unflatten(-1, (layer.n_out, layer.n_in)),
            None if layer.bias is None else weights[..., layer.bias],
        )
        for layer in architecture.layers
    ]


def join_layers(layers: Sequence[DenseWeights]) -> Tensor:
    """Join layers to flat weights ``(..., n_weights)``; the inverse of `split_layers`."""
    pieces = []
    for layer in layers:
        pieces.append(layer.matrix.flatten(-2))
        if layer.bias is not None:
            pieces.append(layer.bias)
    return torch.cat(pieces, dim=-1)


def check_mlp(architecture: Architecture, purpose: str) -> None:
    """Raise unless the architecture is a multilayer perceptron."""
    if not architecture.is_mlp:
        raise ValueError(
            f"architecture must be a multilayer perceptron (Linear layers with one activation "
            f"between them) for {purpose}, got {architecture!r}; build it with Architecture.mlp, "
            f"or leave this step out."
        )


def hidden_activation(architecture: Architecture) -> Callable[[Tensor], Tensor]:
    """Activation of the hidden layers of a multilayer perceptron; identity if it has none."""
    if len(architecture.layers) == 1:
        return nn.Identity()
    modules = list(architecture.to_module(torch.zeros(architecture.n_weights)).children())
    return modules[1]
