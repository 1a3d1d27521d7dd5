r"""Velocity by a network on the graph of a network ([E25] 6.3, [K24]).

Every weight is read into the features of an edge, every bias into those of a node; blocks update
nodes from their incident edges, and edges from their ends ([E25] 5.1-5.2),

.. math::
    n_i \leftarrow \phi_N\Bigl(n_i, \bigoplus_{j \in N_i} \phi_M(e_{ij}, n_i, n_j)\Bigr), \qquad
    e_{ij} \leftarrow \phi_E(e_{ij}, n_i, n_j) ;

then edges and nodes are read out as a refinement of a Gaussian prediction. Kinds of velocities
differ in the update of nodes. Time and condition enter every node and edge; input and output nodes
have embeddings of their own, layers have embeddings of their role, hidden nodes have none, so that
the model commutes with their permutations; for aligned populations they may have them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity.exchangeable import ExchangeableDenoiser
from bayesflow_nn.velocity.features import all_features
from bayesflow_nn.velocity.mlp import initialise
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.problem import VelocityProblem
from bayesflow_nn.weights.validation import check_option

_N_CHANNELS = 2  # of every coordinate: the point, and the prediction to start from


class GraphVelocity(nn.Module):
    """What graph velocities have in common; a kind of them says how nodes gather.

    Parameters
    ----------
    problem : VelocityProblem
        Its chart must be that of a multilayer perceptron.
    make_gather : callable
        Makes the `gather` of a :class:`GraphBlock`.
    node_width, edge_width : int
        Features of nodes and edges; edges are many and should be narrow.
    n_blocks : int
        Rounds of updates.
    base : {"auto", "affine", "exchangeable"}
        What the graph network refines: the Gaussian approximation of aligned populations, or one
        that no permutation of hidden neurons changes. "auto" is "exchangeable" if the chart is
        pooled, as it is without an alignment.
    node_embeddings : bool
        Whether hidden nodes have embeddings too; the model then commutes with no permutation.

    Raises
    ------
    ValueError
        If the chart has no multilayer perceptron, or `base` is unknown.
    """

    def __init__(
        self,
        problem: VelocityProblem,
        make_gather: Callable[[], nn.Module],
        *,
        node_width: int,
        edge_width: int,
        n_blocks: int,
        base: str,
        node_embeddings: bool,
    ) -> None:
        super().__init__()
        check_option("base", base, ("auto", "affine", "exchangeable"))
        if base == "auto":
            base = "exchangeable" if problem.chart.pooled else "affine"
        self.graph = NeuralGraph(problem.chart)
        self.base = (
            problem.make_denoiser() if base == "affine" else problem.make_exchangeable_denoiser()
        )
        self.node_embeddings = node_embeddings
        self.n_condition_features = problem.n_condition_features
        sizes = self.graph.sizes
        self.read_edge = nn.Linear(_N_CHANNELS, edge_width)
        self.read_node = nn.Linear(2 * _N_CHANNELS, node_width)
        self.time_edge = nn.Linear(problem.n_features, edge_width)
        self.time_node = nn.Linear(problem.n_features, node_width)
        self.edge_role = nn.Parameter(torch.zeros(len(sizes) - 1, edge_width))
        self.node_names = nn.ParameterList(
            torch.zeros(n if node_embeddings or place in (0, len(sizes) - 1) else 1, node_width)
            for place, n in enumerate(sizes)
        )
        self.blocks = nn.ModuleList(
            GraphBlock(make_gather(), node_width, edge_width) for _ in range(n_blocks)
        )
        self.write_edge = nn.Linear(edge_width, 1)
        self.write_node = nn.Linear(node_width, 2)
        initialise(self, problem.generator)
        for parameter in (self.edge_role, *self.node_names):
            nn.init.normal_(parameter, generator=problem.generator)
        for layer in (self.write_edge, self.write_node):
            nn.init.zeros_(layer.weight)

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict the target, ``(n, n_coordinates)``."""
        base = self.base(t, x, condition)
        features = all_features(t, condition, self.n_condition_features)
        split = self.graph.split(torch.stack([x, base.mean], dim=-1))
        on_edges = self.time_edge(features)[:, None, None]
        on_nodes = self.time_node(features)[:, None]
        edges = [
            self.read_edge(block) + on_edges + role
            for block, role in zip(split.edges, self.edge_role, strict=True)
        ]
        nodes = [
            self.read_node(own) + on_nodes + name
            for own, name in zip(split.nodes, self.node_names, strict=True)
        ]
        for block in self.blocks:
            edges, nodes = block(edges, nodes)
        refinement = self.graph.join(
            [self.write_edge(block).squeeze(-1) for block in edges],
            [self.write_node(own) for own in nodes[1:]],
        )
        return base.mean + base.variance.sqrt() * refinement

    def on(self, chart: WeightChart) -> GraphVelocity:
        """Run the same model on the graph of networks with other widths.

        Parameters
        ----------
        chart : WeightChart
            Of networks that differ from those of the problem in the widths of hidden layers alone.

        Returns
        -------
        GraphVelocity
            With the parameters of this one, not copies.

        Raises
        ------
        ValueError
            If the model tells hidden neurons apart.
        """
        if not isinstance(self.base, ExchangeableDenoiser) or self.node_embeddings:
            raise ValueError(
                "velocity must not tell hidden neurons apart, to serve other widths, got "
                "base='affine' or node_embeddings=True; leave these options out."
            )
        other = copy.copy(self)
        other.graph = NeuralGraph(chart)
        other.base = self.base.on(other.graph)
        return other


class GraphBlock(nn.Module):
    """Nodes gather from incident edges, then by themselves; edges are updated from their ends.

    Parameters
    ----------
    gather : nn.Module
        Lists of edges ``(n, n_out, n_in, edge_width)`` and of nodes ``(n, n_nodes, node_width)``,
        normed, to updates of nodes.
    node_width, edge_width : int
    """

    def __init__(self, gather: nn.Module, node_width: int, edge_width: int) -> None:
        super().__init__()
        self.gather = gather
        self.node_norm = nn.LayerNorm(node_width)
        self.node_update = nn.Sequential(
            nn.LayerNorm(node_width),
            nn.Linear(node_width, 2 * node_width),
            nn.SiLU(),
            nn.Linear(2 * node_width, node_width),
        )
        self.edge_norm = nn.LayerNorm(edge_width)
        hidden = 2 * edge_width
        self.from_edge = nn.Linear(edge_width, hidden)
        self.from_target = nn.Linear(node_width, hidden, bias=False)
        self.from_source = nn.Linear(node_width, hidden, bias=False)
        self.to_edge = nn.Linear(hidden, edge_width)

    def forward(
        self, edges: list[Tensor], nodes: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Updated edges and nodes, of the same shapes."""
        normed = [self.node_norm(own) for own in nodes]
        edge_normed = [self.edge_norm(block) for block in edges]
        gathered = self.gather(edge_normed, normed)
        nodes = [own + new for own, new in zip(nodes, gathered, strict=True)]
        nodes = [own + self.node_update(own) for own in nodes]
        updated = []
        for place, block in enumerate(edges):
            source, target = nodes[place], nodes[place + 1]
            hidden = self.from_edge(edge_normed[place])
            hidden = hidden + self.from_target(target)[:, :, None]
            hidden = hidden + self.from_source(source)[:, None]
            updated.append(block + self.to_edge(nn.functional.silu(hidden)))
        return updated, nodes


def incident(edges: list[Tensor], place: int) -> list[tuple[int, int, Tensor]]:
    """Edges at the nodes of a layer: direction, layer of the other ends, and the block.

    The direction is 0 for edges into the nodes, 1 for those out of them; blocks are
    ``(n, n_nodes, n_others, edge_width)``.
    """
    found = []
    if place > 0:
        found.append((0, place - 1, edges[place - 1]))
    if place < len(edges):
        found.append((1, place + 1, edges[place].transpose(1, 2)))
    return found
