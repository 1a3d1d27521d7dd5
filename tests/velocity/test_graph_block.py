"""A round of updates, against one edge after the other."""

import torch
from joined_graph import join_graph
from torch import nn

from bayesflow_nn.velocity.graph_block import GraphBlock


class _Half(nn.Module):
    """Gathers half of a node, whatever its edges."""

    def forward(self, edges, nodes, layout):
        return nodes / 2


def test_edges_are_updated_from_the_nodes_at_their_ends(generator):
    block = GraphBlock(_Half(), node_width=8, edge_width=4).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, generator=generator)
    sizes, ends = (4, 3, 2), [(0, 1), (1, 2), (1, 1), (0, 1)]
    edges = [
        torch.randn(2, sizes[target], sizes[source], 4, generator=generator).double()
        for source, target in ends
    ]
    nodes = [torch.randn(2, n, 8, generator=generator).double() for n in sizes]
    joined = join_graph(edges, nodes, ends)
    updated_edges, updated_nodes = block(*joined)

    expected_nodes = []
    for own in nodes:
        own = own + block.node_norm(own) / 2
        expected_nodes.append(own + block.node_update(own))
    torch.testing.assert_close(updated_nodes, torch.cat(expected_nodes, dim=1))
    norm = block.edge_norm
    for found, given, (source, target) in zip(
        joined[2].split_edges(updated_edges), edges, ends, strict=True
    ):
        for i in range(sizes[target]):
            for j in range(sizes[source]):
                edge = given[:, i, j]
                hidden = block.from_edge(
                    nn.functional.layer_norm(edge, (4,), norm.weight, norm.bias)
                )
                hidden = hidden + block.from_target(expected_nodes[target][:, i])
                hidden = hidden + block.from_source(expected_nodes[source][:, j])
                expected = edge + block.to_edge(nn.functional.silu(hidden))
                torch.testing.assert_close(found[:, :, i, j].mT, expected)
