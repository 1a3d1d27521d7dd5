"""Coordinates of a graph in parts that permutations of hidden neurons do not mix.

Permutations of hidden neurons act on a point of a multilayer perceptron by exchanging coordinates.
As a representation of the group the space falls apart into

- the *symmetric* part: means over all coordinates that may be exchanged,
- for every hidden layer the *deviations* of its neurons from their mean: of the weights between a
  neuron and inputs or outputs, of its bias, and of its mean weight to or from every hidden layer
  beside it,
- for two hidden layers side by side the *interactions*: what is left of the weights between them.

Means over m coordinates are multiplied by sqrt(m), which makes the parts orthogonal projections in
orthonormal bases, and their sizes those of one neuron: they do not depend on the widths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesflow_nn.velocity.neural_graph import NeuralGraph


@dataclass(frozen=True)
class Parts:
    """Parts of points.

    Attributes
    ----------
    symmetric : Tensor of shape (n, n_symmetric)
    deviations : list of Tensor of shape (n, n_neurons, n_features)
        One per hidden layer; the mean over neurons is zero.
    interactions : list of Tensor of shape (n, n_out, n_in)
        One per pair of neighbouring hidden layers; means over rows and over columns are zero.
    """

    symmetric: Tensor
    deviations: list[Tensor]
    interactions: list[Tensor]


def decompose(graph: NeuralGraph, x: Tensor) -> Parts:
    """Parts of points ``(n, n_coordinates)``.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.symmetry import WeightChart
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([4, 5, 6, 3])
    >>> graph = NeuralGraph(WeightChart(mlp, "euclidean", logit_shift=False))
    >>> x = torch.randn(7, graph.n_coordinates)
    >>> parts = decompose(graph, x)
    >>> [part.shape for part in (parts.symmetric, *parts.deviations, *parts.interactions)]
    [torch.Size([7, 13]), torch.Size([7, 5, 6]), torch.Size([7, 6, 5]), torch.Size([7, 6, 5])]
    >>> torch.allclose(compose(graph, parts), x, atol=1e-5)
    True
    """
    split = graph.split(x.unsqueeze(-1))
    edges = [block.squeeze(-1) for block in split.edges]
    last = len(edges) - 1
    symmetric, interactions = [], []
    features: list[list[Tensor]] = [[] for _ in range(last)]
    for place, (block, layer) in enumerate(zip(edges, graph.layers, strict=True)):
        rows = _sum(block, 1) if place < last else block  # (n, 1 or n_out, n_in)
        columns = _sum(block, 2) if place > 0 else block
        both = _sum(rows, 2) if place > 0 else rows
        symmetric.append(both.flatten(1))
        if place < last:
            features[place].append(columns)
        if place > 0:
            features[place - 1].append(rows.mT)
        if 0 < place < last:
            interactions.append(_centre(_centre(block, 1), 2))
        own = split.nodes[place + 1]
        if layer.has_biases:
            symmetric.append((_sum(own[..., :1], 1) if place < last else own[..., :1]).flatten(1))
            if place < last:
                features[place].append(own[..., :1])
        if layer.has_log_norm:
            symmetric.append(own[:, 0, -1:])
    deviations = [_centre(torch.cat(blocks, dim=2), 1) for blocks in features]
    return Parts(torch.cat(symmetric, dim=1), deviations, interactions)


def compose(graph: NeuralGraph, parts: Parts) -> Tensor:
    """Points ``(n, n_coordinates)`` of parts."""
    n, last = len(parts.symmetric), len(graph.layers) - 1
    symmetric = _Reader(parts.symmetric)
    features = [_Reader(block) for block in parts.deviations]
    interactions = iter(parts.interactions)
    edges, nodes = [], [parts.symmetric.new_zeros(n, graph.layers[0].n_in, 0)]
    for place, layer in enumerate(graph.layers):
        n_out, n_in = (1 if place < last else layer.n_out), (1 if place > 0 else layer.n_in)
        mean = symmetric.take(n_out * n_in).unflatten(-1, (n_out, n_in))
        block = _spread(mean, layer.n_out, layer.n_in)
        if place < last:
            block = block + _spread(features[place].take(n_in), layer.n_out, layer.n_in)
        if place > 0:
            block = block + _spread(features[place - 1].take(n_out).mT, layer.n_out, layer.n_in)
        if 0 < place < last:
            block = block + next(interactions)
        own = [block.new_zeros(n, layer.n_out, 0)]
        if layer.has_biases:
            biases = symmetric.take(n_out).unsqueeze(-1)
            if place < last:
                biases = biases / math.sqrt(layer.n_out) + features[place].take(1)
            own.append(biases)
        if layer.has_log_norm:
            own.append(symmetric.take(1).unsqueeze(1).expand(-1, layer.n_out, -1))
        edges.append(block.unsqueeze(-1))
        nodes.append(torch.cat(own, dim=2))
    return graph.join(edges, nodes)


class _Reader:
    """Takes features from the last axis, one after the other."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.start = values, 0

    def take(self, n: int) -> Tensor:
        self.start += n
        return self.values[..., self.start - n : self.start]


def _sum(x: Tensor, axis: int) -> Tensor:
    """Mean over an axis of m entries times sqrt(m), which keeps the axis."""
    return x.sum(axis, keepdim=True) / math.sqrt(x.shape[axis])


def _spread(x: Tensor, n_out: int, n_in: int) -> Tensor:
    """Undo `_sum` for the axes that have length one: ``(n, n_out, n_in)``."""
    count = n_out // x.shape[1] * (n_in // x.shape[2])
    return x.expand(-1, n_out, n_in) / math.sqrt(count)


def _centre(x: Tensor, axis: int) -> Tensor:
    return x - x.mean(axis, keepdim=True)
