"""Coordinates of a multilayer perceptron as a graph: neurons are nodes, weights are edges.

Every edge joins neighbouring layers. Biases are features of nodes. In an output layer in polar
coordinates the log norm is a feature that all output nodes share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity.layered_graph import EdgeBlock, LayeredGraph, NodeSet


@dataclass(frozen=True)
class GraphLayer:
    """One layer of nodes, and the edges into it.

    Attributes
    ----------
    n_out, n_in : int
    has_biases, has_log_norm : bool
        Features of the nodes, in this order.
    """

    n_out: int
    n_in: int
    has_biases: bool
    has_log_norm: bool


class NeuralGraph(LayeredGraph):
    """Graph of a multilayer perceptron, from the inputs to the outputs.

    Parameters
    ----------
    chart : WeightChart
        Of a multilayer perceptron.

    Attributes
    ----------
    layers : list of GraphLayer
        Of all but the input nodes.

    Raises
    ------
    ValueError
        If the chart has no multilayer perceptron, or reduces it.
    """

    def __init__(self, chart: WeightChart) -> None:
        architecture = chart.architecture
        if architecture is None or not architecture.is_mlp or chart.reducer is not None:
            raise ValueError(
                f"graph velocities need a multilayer perceptron, not reduced to components, got "
                f"{architecture!r} with reducer={chart.reducer!r}; use velocity='mlp'."
            )
        sizes = list(architecture.sizes)
        sizes[-1] -= int(chart.logit_shift)
        is_polar = chart.output_layer == "polar" and chart.geometry != "euclidean"
        pieces = iter(_index_blocks(chart))
        self.layers: list[GraphLayer] = []
        blocks, node_sets = [], [NodeSet(_columns(sizes[0], []), is_named=True)]
        for place, layer in enumerate(architecture.layers):
            n_in, n_out = sizes[place : place + 2]
            is_last = place + 1 == len(architecture.layers)
            own = GraphLayer(n_out, n_in, layer.bias is not None, is_last and is_polar)
            blocks.append(EdgeBlock(place, place + 1, next(pieces).view(n_out, n_in, 1)))
            log_norm = [next(pieces).expand(n_out)] if own.has_log_norm else []
            biases = [next(pieces)] if own.has_biases else []
            node_sets.append(NodeSet(_columns(n_out, biases + log_norm), is_named=is_last))
            self.layers.append(own)
        super().__init__(blocks, node_sets)


def _index_blocks(chart: WeightChart) -> list[Tensor]:
    """Places of the coordinates, block by block of the manifold."""
    manifold = chart.canonical_manifold
    lengths = [block.n_coordinates for block in manifold.blocks]
    return list(torch.arange(manifold.n_coordinates).split(lengths))


def _columns(n_nodes: int, features: list[Tensor]) -> Tensor:
    """Index ``(n_nodes, n_features)`` of features ``(n_nodes,)``, which may be none."""
    none = torch.empty(n_nodes, 0, dtype=torch.int64)
    return torch.cat([none, *(feature[:, None] for feature in features)], dim=1)
