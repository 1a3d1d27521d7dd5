"""A round of updates on a graph: of nodes from their edges, of edges from their ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.edge_features import EdgeNorm, project
from bayesflow_nn.velocity.layered_graph import Layout


class GraphBlock(nn.Module):
    """Nodes gather from incident edges, then by themselves; edges are updated from their ends.

    Parameters
    ----------
    gather : nn.Module
        Edges ``(edge_width, n, n_edges)`` and nodes ``(n, n_nodes, node_width)``, normed, with
        their :class:`~bayesflow_nn.velocity.layered_graph.Layout`, to updates of nodes.
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
        self.edge_norm = EdgeNorm(edge_width)
        hidden = 2 * edge_width
        self.from_edge = nn.Linear(edge_width, hidden)
        self.from_target = nn.Linear(node_width, hidden, bias=False)
        self.from_source = nn.Linear(node_width, hidden, bias=False)
        self.to_edge = nn.Linear(hidden, edge_width)

    def forward(self, edges: Tensor, nodes: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Updated edges and nodes, of the same shapes."""
        normed = self.edge_norm(edges)
        nodes = nodes + self.gather(normed, self.node_norm(nodes), layout)
        nodes = nodes + self.node_update(nodes)
        hidden = project(self.from_edge, normed) + self._from_ends(nodes, layout)
        return edges + project(self.to_edge, nn.functional.silu(hidden)), nodes

    def _from_ends(self, nodes: Tensor, layout: Layout) -> Tensor:
        """What the two ends bring to the update of an edge, ``(hidden, n, n_edges)``."""
        of_targets, of_sources = (
            layout.split_nodes(layer(nodes).permute(2, 0, 1), axis=2)
            for layer in (self.from_target, self.from_source)
        )
        of_blocks = [
            of_targets[target].unsqueeze(3) + of_sources[source].unsqueeze(2)
            for source, target in layout.ends
        ]
        return torch.cat([block.flatten(2) for block in of_blocks], dim=2)
