r"""Relational transformer on the graph of a network: attention over incident edges ([E25] 5.5-5.6).

Nodes n_i attend to their neighbours j through the edges e_ij between them, with queries, keys and
values of both,

.. math::
    q_{ij} = n_i W^Q_N + e_{ij} W^Q_E, \quad
    k_{ij} = n_j W^K_N + e_{ij} W^K_E, \quad
    v_{ij} = n_j W^V_N + e_{ij} W^V_E .

Nothing of the width of nodes is ever held for an edge: with :math:`q_{ij} \cdot k_{ij}` multiplied
out, the part of two nodes is a matrix product, and those of edges act on the narrow e_ij through
matrices folded into one end. The cost is linear in the number of weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.graph_velocity import Base, GraphVelocity, incident
from bayesflow_nn.velocity.problem import VelocityProblem


class RelationalTransformer(GraphVelocity):
    """Prediction of the target by a graph network, on top of a Gaussian one.

    Parameters
    ----------
    problem : VelocityProblem
        Its chart must be that of a multilayer perceptron, or of a module with a
        :class:`~bayesflow_nn.velocity.module_graph.ModuleGraph`.
    node_width, edge_width : int
        Features of nodes and edges; edges are many and should be narrow.
    n_heads : int
        Divides `node_width`.
    n_blocks : int
        Rounds of attention and edge updates.
    base : {"auto", "affine", "exchangeable", "probe"} or callable
        What the graph network refines: the Gaussian approximation of aligned populations, one that
        no permutation of hidden neurons changes, or what the steps of :class:`ProbeVelocity` make
        of either, which see the function of a network. "auto" is "exchangeable" where the neurons
        of a population of multilayer perceptrons are in no order (a posterior with
        ``alignment=None``). A callable makes a `ProbeVelocity` of the problem, for other numbers
        than its own: ``functools.partial(ProbeVelocity, n_probes=256)``.
    node_embeddings : bool
        Whether hidden nodes have embeddings too; the model then commutes with no permutation.
    autocast : bool
        Whether the blocks multiply in bfloat16, for points in float32: for hardware that is faster
        at it. The Gaussian prediction and what is added to it keep the points' own precision; so
        does all for points in float64, as in log densities.
    compile : bool
        Whether :func:`torch.compile` translates the blocks, at the first call and for every new
        size of batches. That takes long, and less once the machine remembers it; it needs a C++
        compiler on CPUs. Training runs the translated blocks; copies of the model, such as the
        average that a fit keeps, run the plain ones. ``torch.func`` transforms the plain ones too,
        and after it the model may stay with them: give it a copy.

    Raises
    ------
    ValueError
        If the chart has no such network, a parameter is out of range, or `autocast` is asked for
        points in float64 or on a device without bfloat16.

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
        base: Base = "auto",
        node_embeddings: bool = False,
        autocast: bool = False,
        compile: bool = False,
    ) -> None:
        if node_width % n_heads:
            raise ValueError(f"n_heads must divide node_width={node_width}, got {n_heads}.")
        super().__init__(
            problem,
            lambda _: IncidentAttention(node_width, edge_width, n_heads),
            node_width=node_width,
            edge_width=edge_width,
            n_blocks=n_blocks,
            base=base,
            node_embeddings=node_embeddings,
            autocast=autocast,
            compile=compile,
        )


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

    def forward(
        self, edges: list[Tensor], nodes: list[Tensor], ends: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Updates of nodes ``(n, n_nodes, node_width)``, one per set."""
        queries, keys, values = (
            [self._heads(layer(own)) for own in nodes]
            for layer in (self.query, self.key, self.value)
        )
        updates = []
        for place, query in enumerate(queries):
            around = incident(edges, ends, place)
            scores = [
                self._scores(direction, query, keys[other], block)
                for direction, other, block in around
            ]
            weights = torch.cat(scores, dim=-1).softmax(-1)
            weights = weights.split([score.shape[-1] for score in scores], dim=-1)
            update = sum(
                self._gather(direction, weight, values[other], block)
                for (direction, other, block), weight in zip(around, weights, strict=True)
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
