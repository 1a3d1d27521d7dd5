r"""Relational transformer on the graph of a network: attention over incident edges ([E25] 5.5-5.6).

Nodes n_i attend to their neighbours j through the edges e_ij between them, with queries, keys and
values of both,

.. math::
    q_{ij} = n_i W^Q_N + e_{ij} W^Q_E, \quad
    k_{ij} = n_j W^K_N + e_{ij} W^K_E, \quad
    v_{ij} = n_j W^V_N + e_{ij} W^V_E ,

and edges are updated from their ends. Nothing of the width of nodes is ever held for an edge: with
:math:`q_{ij} \cdot k_{ij}` multiplied out, the part of two nodes is a matrix product, and those of
edges act on the narrow e_ij through matrices folded into one end. The cost is linear in the number
of weights. Time and condition enter every node and edge; input and output nodes have embeddings of
their own, layers have embeddings of their role, hidden nodes have none, so that the model commutes
with their permutations; for aligned populations they may have them (`node_embeddings`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.affine import Denoised, Schedule
from bayesflow_nn.velocity.features import all_features
from bayesflow_nn.velocity.mlp import initialise
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.problem import VelocityProblem

_N_CHANNELS = 2  # of every coordinate: the point, and the prediction to start from


class RelationalTransformer(nn.Module):
    """Prediction of the target by a graph network, on top of an affine or isotropic one.

    Parameters
    ----------
    problem : VelocityProblem
        Its chart must be that of a multilayer perceptron.
    node_width, edge_width : int
        Features of nodes and edges; edges are many and should be narrow.
    n_heads : int
        Divides `node_width`.
    n_blocks : int
        Rounds of attention and edge updates.
    base : {"affine", "isotropic"}
        What the graph network refines: the Gaussian approximation of aligned populations, or that
        of a standard normal law, which no permutation changes.
    node_embeddings : bool
        Whether hidden nodes have embeddings too; the model then commutes with no permutation.

    Raises
    ------
    ValueError
        If the chart has no multilayer perceptron, or a parameter is out of range.

    Notes
    -----
    Called with times ``t (n,)``, points ``x (n, n_coordinates)`` of about unit variance, and with
    the features of conditions if the problem has them; returns predictions of the target,
    ``(n, n_coordinates)``.
    """

    def __init__(
        self,
        problem: VelocityProblem,
        *,
        node_width: int = 64,
        edge_width: int = 8,
        n_heads: int = 4,
        n_blocks: int = 3,
        base: str = "affine",
        node_embeddings: bool = False,
    ) -> None:
        super().__init__()
        if base not in ("affine", "isotropic"):
            raise ValueError(f"base must be 'affine' or 'isotropic', got {base!r}.")
        if node_width % n_heads:
            raise ValueError(f"n_heads must divide node_width={node_width}, got {n_heads}.")
        self.graph = NeuralGraph(problem.chart)
        self.base = problem.make_denoiser() if base == "affine" else _Isotropic(problem.schedule)
        self.n_condition_features = problem.n_condition_features
        layers = self.graph.layers
        n_layers = len(layers)
        self.read_edge = nn.Linear(_N_CHANNELS, edge_width)
        self.read_node = nn.Linear(2 * _N_CHANNELS, node_width)
        self.time_edge = nn.Linear(problem.n_features, edge_width)
        self.time_node = nn.Linear(problem.n_features, node_width)
        self.edge_role = nn.Parameter(torch.zeros(n_layers, edge_width))
        widths = [layers[0].n_in, *(layer.n_out for layer in layers)]
        self.node_names = nn.ParameterList(
            torch.zeros(n if node_embeddings or place in (0, n_layers) else 1, node_width)
            for place, n in enumerate(widths)
        )
        self.blocks = nn.ModuleList(
            _Block(node_width, edge_width, n_heads) for _ in range(n_blocks)
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


class _Block(nn.Module):
    """Attention of nodes over incident edges, their own layer, and an update of edges."""

    def __init__(self, node_width: int, edge_width: int, n_heads: int) -> None:
        super().__init__()
        self.attention = IncidentAttention(node_width, edge_width, n_heads)
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
        normed = [self.node_norm(own) for own in nodes]
        edge_normed = [self.edge_norm(block) for block in edges]
        attended = self.attention(edge_normed, normed)
        nodes = [own + new for own, new in zip(nodes, attended, strict=True)]
        nodes = [own + self.node_update(own) for own in nodes]
        updated = []
        for place, block in enumerate(edges):
            source, target = nodes[place], nodes[place + 1]
            hidden = self.from_edge(edge_normed[place])
            hidden = hidden + self.from_target(target)[:, :, None]
            hidden = hidden + self.from_source(source)[:, None]
            updated.append(block + self.to_edge(nn.functional.silu(hidden)))
        return updated, nodes


class IncidentAttention(nn.Module):
    """Attention of every node over the edges into it and out of it, in one softmax.

    Parameters
    ----------
    node_width, edge_width, n_heads : int
        As in :class:`RelationalTransformer`. Edges in the two directions have projections of their
        own.
    """

    def __init__(self, node_width: int, edge_width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads, self.size = n_heads, node_width // n_heads
        self.query, self.key, self.value = (nn.Linear(node_width, node_width) for _ in range(3))
        for name in ("query", "key", "value"):
            # One for edges into a node, one for those out of it.
            weights = [nn.Linear(edge_width, node_width, bias=False) for _ in range(2)]
            setattr(self, f"edge_{name}", nn.ModuleList(weights))
        self.out = nn.Linear(node_width, node_width)

    def forward(self, edges: list[Tensor], nodes: list[Tensor]) -> list[Tensor]:
        """Updates of nodes ``(n, n_nodes, node_width)``, one per layer."""
        queries, keys, values = (
            [self._heads(layer(own)) for own in nodes]
            for layer in (self.query, self.key, self.value)
        )
        updates = []
        for place, query in enumerate(queries):
            incident = []
            if place > 0:
                incident.append((0, place - 1, edges[place - 1]))
            if place < len(edges):
                incident.append((1, place + 1, edges[place].transpose(1, 2)))
            scores = [
                self._scores(direction, query, keys[other], block)
                for direction, other, block in incident
            ]
            weights = torch.cat(scores, dim=-1).softmax(-1)
            weights = weights.split([score.shape[-1] for score in scores], dim=-1)
            update = sum(
                self._gather(direction, weight, values[other], block)
                for (direction, other, block), weight in zip(incident, weights, strict=True)
            )
            updates.append(self.out(update.transpose(1, 2).flatten(2)))
        return updates

    def _heads(self, x: Tensor) -> Tensor:
        """``(n, n_nodes, node_width)`` to ``(n, n_heads, n_nodes, size)``."""
        return x.unflatten(-1, (self.n_heads, self.size)).transpose(1, 2)

    def _matrix(self, name: str, direction: int) -> Tensor:
        """Projection of edges ``(n_heads, edge_width, size)``."""
        weight = getattr(self, f"edge_{name}")[direction].weight
        return weight.unflatten(0, (self.n_heads, self.size)).transpose(1, 2)

    def _scores(self, direction: int, query: Tensor, key: Tensor, edges: Tensor) -> Tensor:
        """q_ij . k_ij / sqrt(size), ``(n, n_heads, n_nodes, n_others)``, multiplied out."""
        of_query, of_key = (self._matrix(name, direction) for name in ("query", "key"))
        # On an edge act: the key's projection seen from node i, the query's from node j, and both.
        from_i = query @ of_key.mT  # (n, n_heads, n_nodes, edge_width)
        from_j = key @ of_query.mT
        of_both = of_query @ of_key.mT  # (n_heads, edge_width, edge_width)
        scores = query @ key.mT
        scores = scores + torch.einsum("nhid,nijd->nhij", from_i, edges)
        scores = scores + torch.einsum("nhjd,nijd->nhij", from_j, edges)
        scores = scores + torch.einsum("nijc,hcd,nijd->nhij", edges, of_both, edges)
        return scores / math.sqrt(self.size)

    def _gather(self, direction: int, weight: Tensor, value: Tensor, edges: Tensor) -> Tensor:
        """Sums of v_ij, ``(n, n_heads, n_nodes, size)``; edges are summed, then projected."""
        summed = torch.einsum("nhij,nijd->nhid", weight, edges)
        return weight @ value + summed @ self._matrix("value", direction)


class _Isotropic(nn.Module):
    """Gaussian posterior of a standard normal target."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        signal, noise = self.schedule(t)
        evidence = signal.square() + noise.square()
        return Denoised(signal / evidence * x, noise.square() / evidence)
