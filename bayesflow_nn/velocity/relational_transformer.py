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
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.edge_features import quadratic_forms
from bayesflow_nn.velocity.graph_velocity import Base, GraphVelocity
from bayesflow_nn.velocity.layered_graph import Layout
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
        Whether :func:`torch.compile` translates the blocks, at the first call and for new sizes of
        batches, or of their parts. That takes long, and less once the machine remembers it; it
        needs a C++ compiler on CPUs. Training runs the translated blocks; copies of the model, such
        as the average that a fit keeps, run the plain ones. ``torch.func`` transforms the plain
        ones too, and after it the model may stay with them: give it a copy.

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


class _Side(NamedTuple):
    """A block of edges as the nodes at one side of it see it.

    Attributes
    ----------
    scores : Tensor of shape (n, n_heads, n_nodes, n_others)
    values : Tensor of shape (n, n_heads, n_others, size)
        Of the nodes at the other side.
    edges : Tensor of shape (n, n_nodes, edge_width, n_others)
    of_value : Tensor of shape (n_heads, edge_width, size)
        Projection of edges in this direction to values.
    """

    scores: Tensor
    values: Tensor
    edges: Tensor
    of_value: Tensor


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

    def forward(self, edges: Tensor, nodes: Tensor, layout: Layout) -> Tensor:
        """Updates of nodes ``(n, n_nodes, node_width)``."""
        query, key, value = self._heads(nodes)
        # Copies for batched products, (n, n_nodes, edge_width, n_others) from either side.
        sides = [
            (block.permute(1, 2, 0, 3).contiguous(), block.permute(1, 3, 0, 2).contiguous())
            for block in layout.split_edges(edges)
        ]
        scores = self._scores(query, key, edges, sides, layout)
        values, of_value = layout.split_nodes(value, axis=2), self._matrices("value")
        of_blocks = [
            (
                _Side(into, values[source], at_target, of_value[0]),
                _Side(out_of.mT, values[target], at_source, of_value[1]),
            )
            for (source, target), (into, out_of), (at_target, at_source) in zip(
                layout.ends, scores, sides, strict=True
            )
        ]
        gathered = [_gather(around) for around in layout.by_node_set(of_blocks)]
        return self.out(torch.cat(gathered, dim=2).transpose(1, 2).flatten(2))

    def _heads(self, nodes: Tensor) -> Tensor:
        """Queries, keys and values of nodes, ``(3, n, n_heads, n_nodes, size)``."""
        layers = (self.query, self.key, self.value)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        projected = nn.functional.linear(nodes, weight, bias)
        return projected.unflatten(-1, (3, self.n_heads, self.size)).permute(2, 0, 3, 1, 4)

    def _matrices(self, name: str) -> Tensor:
        """Projections of edges into a node and out of it, ``(2, n_heads, edge_width, size)``."""
        weight = torch.stack([layer.weight for layer in getattr(self, f"edge_{name}")])
        return weight.unflatten(1, (self.n_heads, self.size)).transpose(2, 3)

    def _scores(
        self,
        query: Tensor,
        key: Tensor,
        edges: Tensor,
        sides: Sequence[tuple[Tensor, Tensor]],
        layout: Layout,
    ) -> list[Sequence[Tensor]]:
        """q_ij . k_ij / sqrt(size), multiplied out.

        Of every block ``(n, n_heads, n_out, n_in)`` for edges into its targets, and as much for
        those out of its sources.
        """
        query = query / math.sqrt(self.size)
        of_query, of_key = self._matrices("query") / math.sqrt(self.size), self._matrices("key")
        # Targets ask along the edges into them, sources along those out of them.
        targets, sources = torch.cat([query, key], dim=1), torch.cat([key, query], dim=1)
        # On an edge act the projection of the other end, seen from this one, and both projections.
        targets_on_edges = targets @ torch.cat([of_key[0], of_query[1]]).mT
        sources_on_edges = sources @ torch.cat([of_query[0], of_key[1]]).mT
        forms = layout.split_edges(quadratic_forms((of_query @ of_key.mT).flatten(0, 1), edges))
        targets, sources, targets_on_edges, sources_on_edges = (
            layout.split_nodes(each, axis=2)
            for each in (targets, sources, targets_on_edges, sources_on_edges)
        )
        scores = []
        for (source, target), form, (at_target, at_source) in zip(
            layout.ends, forms, sides, strict=True
        ):
            score = targets[target] @ sources[source].mT + form.transpose(0, 1)
            from_target = targets_on_edges[target].transpose(1, 2) @ at_target
            from_source = sources_on_edges[source].transpose(1, 2) @ at_source
            score = score + from_target.transpose(1, 2) + from_source.permute(0, 2, 3, 1)
            scores.append(score.split(self.n_heads, dim=1))
        return scores


def _gather(around: Sequence[_Side]) -> Tensor:
    """Sums of v_ij, ``(n, n_heads, n_nodes, size)``; edges are summed, then projected."""
    gathered = []
    for weight, side in zip(_softmax([side.scores for side in around]), around, strict=True):
        summed = (weight.transpose(1, 2) @ side.edges.mT).transpose(1, 2)
        gathered.append(weight @ side.values + summed @ side.of_value)
    return sum(gathered)


def _softmax(scores: Sequence[Tensor]) -> Sequence[Tensor]:
    """Joint softmax over the last axes of scores ``(n, n_heads, n_nodes, n_others)``."""
    n_others = [score.shape[-1] for score in scores]
    if scores[0].shape[-2] <= sum(n_others):
        return torch.cat(list(scores), dim=-1).softmax(-1).split(n_others, dim=-1)
    # Nodes outnumber what they attend to: laid last, they are normalised side by side.
    joint = torch.cat([score.mT for score in scores], dim=-2).softmax(-2)
    return [weight.mT for weight in joint.split(n_others, dim=-2)]
