"""Coordinates of a multilayer perceptron as a graph: neurons are nodes, weights are edges.

Nodes come in layers, and every edge joins neighbouring layers, so that the edges between two layers
are one dense block ``(n_out, n_in)``. Biases are features of nodes. In an output layer in polar
coordinates the log norm is a feature of all output nodes (Kofinas et al. 2024, arXiv 2403.12143).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bayesflow_nn.symmetry import WeightChart


@dataclass(frozen=True)
class GraphLayer:
    """Where the edges into one layer of nodes, and its biases, lie among the coordinates.

    Attributes
    ----------
    n_out, n_in : int
    edges : slice
        Row-major ``(n_out, n_in)``.
    biases, log_norm : slice or None
    """

    n_out: int
    n_in: int
    edges: slice
    biases: slice | None
    log_norm: slice | None


@dataclass(frozen=True)
class GraphFeatures:
    """Edges and nodes of networks, layer by layer.

    Attributes
    ----------
    edges : list of Tensor of shape (n, n_out, n_in, n_features)
        One per layer of weights.
    nodes : list of Tensor of shape (n, n_nodes, n_features)
        One more: the input nodes come first.
    """

    edges: list[Tensor]
    nodes: list[Tensor]


class NeuralGraph:
    """Between coordinates of a chart and the features of a graph.

    Parameters
    ----------
    chart : WeightChart
        Of a multilayer perceptron.

    Attributes
    ----------
    layers : list of GraphLayer
    n_coordinates : int

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
        widths = iter([block.n_coordinates for block in chart.canonical_manifold.blocks])
        sizes = list(architecture.sizes)
        sizes[-1] -= int(chart.logit_shift)
        is_polar = chart.output_layer == "polar" and chart.geometry != "euclidean"
        start, self.layers = 0, []

        def take(n: int) -> slice:
            nonlocal start
            if next(widths) != n:
                raise ValueError(f"coordinates of {architecture!r} are not in layers.")
            start += n
            return slice(start - n, start)

        for place, layer in enumerate(architecture.layers):
            n_in, n_out = sizes[place : place + 2]
            is_last = place + 1 == len(architecture.layers)
            edges = take(n_out * n_in)
            log_norm = take(1) if is_last and is_polar else None
            biases = None if layer.bias is None else take(n_out)
            self.layers.append(GraphLayer(n_out, n_in, edges, biases, log_norm))
        self.n_coordinates = start

    @property
    def sizes(self) -> list[int]:
        """Numbers of nodes of the layers, those of the inputs first."""
        return [self.layers[0].n_in, *(layer.n_out for layer in self.layers)]

    def split(self, x: Tensor) -> GraphFeatures:
        """Features of coordinates ``(n, n_coordinates, n_features)``; inputs have zeros.

        Nodes have twice as many: the bias, and the log norm.
        """
        n, _, n_features = x.shape
        none = x.new_zeros(n, self.layers[0].n_in, 2 * n_features)
        edges, nodes = [], [none]
        for layer in self.layers:
            edges.append(x[:, layer.edges].unflatten(1, (layer.n_out, layer.n_in)))
            own = x.new_zeros(n, layer.n_out, 2 * n_features)
            if layer.biases is not None:
                own[..., :n_features] = x[:, layer.biases]
            if layer.log_norm is not None:
                own[..., n_features:] = x[:, layer.log_norm]
            nodes.append(own)
        return GraphFeatures(edges, nodes)

    def join(self, edges: list[Tensor], nodes: list[Tensor]) -> Tensor:
        """Coordinates ``(n, n_coordinates)`` of outputs.

        Parameters
        ----------
        edges : list of Tensor of shape (n, n_out, n_in)
        nodes : list of Tensor of shape (n, n_out, 2)
            Of all but the input nodes: biases, and shares of the log norm, which are averaged.
        """
        x = edges[0].new_empty(len(edges[0]), self.n_coordinates)
        for layer, block, own in zip(self.layers, edges, nodes, strict=True):
            x[:, layer.edges] = block.flatten(1)
            if layer.biases is not None:
                x[:, layer.biases] = own[..., 0]
            if layer.log_norm is not None:
                x[:, layer.log_norm] = own[..., 1].mean(1, keepdim=True)
        return x

    def permute(self, x: Tensor, orders: list[Tensor]) -> Tensor:
        """Coordinates with the hidden neurons in another order, one order per hidden layer."""
        features = self.split(x.unsqueeze(-1))
        edges, nodes = list(features.edges), list(features.nodes)
        for place, order in enumerate(orders):
            edges[place] = edges[place][:, order]
            edges[place + 1] = edges[place + 1][:, :, order]
            nodes[place + 1] = nodes[place + 1][:, order]
        return self.join([block.squeeze(-1) for block in edges], nodes[1:])
