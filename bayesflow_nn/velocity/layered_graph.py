"""Coordinates of networks as a graph whose nodes come in sets, joined by dense blocks of edges.

A set of nodes holds the neurons of a layer, or the channels; every edge of a block joins a node of
one set to a node of another (or of the same one), and there is one for every pair. Edges and nodes
have features, each of which is one coordinate: the weights between two nodes, the bias of a node.
Named nodes, inputs and outputs, differ from each other; the others may be permuted (Kofinas et al.
2024, arXiv 2403.12143).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class EdgeBlock:
    """All edges from one set of nodes to another.

    Attributes
    ----------
    source, target : int
        Places of the sets among those of the graph.
    index : Tensor of int64, shape (n_out, n_in, n_features)
        Coordinate of every feature.
    """

    source: int
    target: int
    index: Tensor


@dataclass(frozen=True)
class NodeSet:
    """Nodes of one layer.

    Attributes
    ----------
    index : Tensor of int64, shape (n_nodes, n_features)
        Coordinate of every feature; nodes may share one.
    is_named : bool
        Whether the nodes are inputs or outputs, which have no other order.
    """

    index: Tensor
    is_named: bool


@dataclass(frozen=True)
class GraphFeatures:
    """Edges and nodes of networks.

    Attributes
    ----------
    edges : list of Tensor of shape (n, n_out, n_in, n_features)
        One per block.
    nodes : list of Tensor of shape (n, n_nodes, n_features)
        One per set.
    """

    edges: list[Tensor]
    nodes: list[Tensor]


@dataclass(frozen=True)
class Layout:
    """How the nodes of all sets, and the edges of all blocks, lie one after the other.

    Attributes
    ----------
    sizes : tuple of int
        Numbers of nodes of the sets.
    ends : tuple of (int, int)
        Source and target of the blocks, places of sets.

    Examples
    --------
    >>> layout = Layout(sizes=(2, 3), ends=((0, 1),))
    >>> layout.n_edges
    6
    >>> [nodes.tolist() for nodes in layout.split_nodes(torch.arange(5), axis=0)]
    [[0, 1], [2, 3, 4]]
    >>> layout.split_edges(torch.arange(6))[0]  # a row for every target
    tensor([[0, 1],
            [2, 3],
            [4, 5]])
    >>> layout.by_node_set([("into", "out of")])
    [['out of'], ['into']]
    """

    sizes: tuple[int, ...]
    ends: tuple[tuple[int, int], ...]

    @property
    def n_edges(self) -> int:
        """Number of edges of all blocks."""
        return sum(self.sizes[source] * self.sizes[target] for source, target in self.ends)

    def split_nodes(self, x: Tensor, axis: int) -> Sequence[Tensor]:
        """What belongs to the nodes of every set, of ``x (..., n_nodes, ...)``."""
        return x.split(self.sizes, dim=axis)

    def split_edges(self, x: Tensor) -> list[Tensor]:
        """Blocks ``(..., n_out, n_in)`` of ``x (..., n_edges)``."""
        shapes = [(self.sizes[target], self.sizes[source]) for source, target in self.ends]
        blocks = x.split([n_out * n_in for n_out, n_in in shapes], dim=-1)
        return [block.unflatten(-1, shape) for block, shape in zip(blocks, shapes, strict=True)]

    def by_node_set(self, of_blocks: Iterable[tuple[T, T]]) -> list[list[T]]:
        """Sort by set of nodes what every block brings to its targets, and what to its sources."""
        found: list[list[T]] = [[] for _ in self.sizes]
        for (source, target), (into, out_of) in zip(self.ends, of_blocks, strict=True):
            found[target].append(into)
            found[source].append(out_of)
        return found


class LayeredGraph:
    """Between coordinates of a chart and the features of a graph; kinds of graphs say which.

    Parameters
    ----------
    blocks : sequence of EdgeBlock
    node_sets : sequence of NodeSet
        Every coordinate is a feature of an edge or of a node.

    Attributes
    ----------
    n_coordinates : int
    layout : Layout
        Order of edges and nodes, that of `split`.
    """

    def __init__(self, blocks: Sequence[EdgeBlock], node_sets: Sequence[NodeSet]) -> None:
        self.blocks, self.node_sets = tuple(blocks), tuple(node_sets)
        self.layout = Layout(
            sizes=tuple(len(nodes.index) for nodes in node_sets),
            ends=tuple((block.source, block.target) for block in blocks),
        )
        indices = [each.index for each in (*blocks, *node_sets)]
        self._shapes = [tuple(index.shape) for index in indices]
        self._index = torch.cat([index.flatten() for index in indices])
        counts = self._index.bincount()
        self.n_coordinates = len(counts)
        self._share = 1 / counts[self._index]

    def split(self, x: Tensor) -> GraphFeatures:
        """Features of coordinates ``(n, n_coordinates, n_channels)``.

        Edges and nodes have `n_channels` of them for every coordinate that belongs to them.
        """
        n, _, n_channels = x.shape
        pieces = x.index_select(1, self._index.to(x.device))
        pieces = pieces.split([torch.Size(shape).numel() for shape in self._shapes], dim=1)
        features = [
            piece.reshape(n, *shape[:-1], shape[-1] * n_channels)
            for piece, shape in zip(pieces, self._shapes, strict=True)
        ]
        return GraphFeatures(features[: len(self.blocks)], features[len(self.blocks) :])

    def join(self, edges: Sequence[Tensor], nodes: Sequence[Tensor]) -> Tensor:
        """Coordinates ``(n, n_coordinates)`` of features; what nodes share is averaged.

        Parameters
        ----------
        edges : sequence of Tensor of shape (n, n_out, n_in, n_features)
        nodes : sequence of Tensor of shape (n, n_nodes, n_features)
        """
        values = torch.cat([each.flatten(1) for each in (*edges, *nodes)], dim=1)
        x = values.new_zeros(len(values), self.n_coordinates)
        index, share = self._index.to(values.device), self._share.to(values)
        return x.index_add(1, index, share * values)

    def permute(self, x: Tensor, orders: Sequence[Tensor]) -> Tensor:
        """Coordinates with nodes in another order.

        Parameters
        ----------
        x : Tensor of shape (n, n_coordinates)
        orders : sequence of Tensor of shape (n_nodes,)
            One per set without names: node i of the result is node ``order[i]`` of what was given.
        """
        given = iter(orders)
        orders = [
            torch.arange(size) if nodes.is_named else next(given)
            for size, nodes in zip(self.layout.sizes, self.node_sets, strict=True)
        ]
        features = self.split(x.unsqueeze(-1))
        edges = [
            block[:, orders[target]][:, :, orders[source]]
            for block, (source, target) in zip(features.edges, self.layout.ends, strict=True)
        ]
        nodes = [own[:, order] for own, order in zip(features.nodes, orders, strict=True)]
        return self.join(edges, nodes)
