"""Attention of the relational transformer, against its dense form: all pairs, nothing folded."""

import itertools

import pytest
import torch
from dense_attention import dense_attention
from joined_graph import join_graph

from bayesflow_nn.velocity import RelationalTransformer
from bayesflow_nn.velocity.relational_transformer import IncidentAttention
from bayesflow_nn.weights import Architecture


@pytest.mark.parametrize("sizes", [(4, 5, 6, 2), (9, 3, 4, 7)], ids=str)
def test_attention_is_that_of_all_incident_pairs(generator, sizes):
    """Of sets with fewer nodes than these attend to, and of sets with more."""
    attention = IncidentAttention(node_width=8, edge_width=4, n_heads=2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    edges = [
        torch.randn(3, n_out, n_in, 4, generator=generator).double()
        for n_in, n_out in itertools.pairwise(sizes)
    ]
    nodes = [torch.randn(3, n, 8, generator=generator).double() for n in sizes]
    joined = join_graph(edges, nodes, [(0, 1), (1, 2), (2, 3)])
    expected = torch.cat(dense_attention(attention, edges, nodes), dim=1)
    torch.testing.assert_close(attention(*joined), expected)


def node_by_node(attention, edges, nodes, ends):
    """Updates of nodes by eq. 5.5-5.6 of the thesis, edge by edge, of one network."""

    def project(name, node, direction, edge):
        projected = getattr(attention, name)(node)
        projected = projected + getattr(attention, f"edge_{name}")[direction](edge)
        return projected.unflatten(-1, (attention.n_heads, attention.size))

    updates = []
    for place, layer in enumerate(nodes):
        rows = []
        for i, own in enumerate(layer):
            around = [
                (0, other, block[i, j])
                for block, (source, target) in zip(edges, ends, strict=True)
                if target == place
                for j, other in enumerate(nodes[source])
            ] + [
                (1, other, block[j, i])
                for block, (source, target) in zip(edges, ends, strict=True)
                if source == place
                for j, other in enumerate(nodes[target])
            ]
            q = torch.stack([project("query", own, way, edge) for way, _, edge in around])
            k, v = (
                torch.stack([project(name, other, way, edge) for way, other, edge in around])
                for name in ("key", "value")
            )
            weights = ((q * k).sum(-1) / attention.size**0.5).softmax(0)
            rows.append(attention.out((weights[..., None] * v).sum(0).flatten()))
        updates.append(torch.stack(rows))
    return updates


def test_blocks_may_be_parallel_and_inside_of_a_set(generator):
    attention = IncidentAttention(node_width=8, edge_width=4, n_heads=2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    # Set 0 has more nodes than it attends to.
    sizes, ends = [9, 5, 6, 2], [(0, 1), (1, 2), (3, 2), (1, 2), (2, 2)]
    edges = [
        torch.randn(2, sizes[target], sizes[source], 4, generator=generator).double()
        for source, target in ends
    ]
    nodes = [torch.randn(2, n, 8, generator=generator).double() for n in sizes]
    updates = attention(*join_graph(edges, nodes, ends))
    for network in range(2):
        own = [e[network] for e in edges], [n[network] for n in nodes]
        expected = torch.cat(node_by_node(attention, *own, ends))
        torch.testing.assert_close(updates[network], expected)


def test_heads_divide_the_width_of_nodes(make_problem):
    with pytest.raises(ValueError, match="n_heads must divide node_width=64, got 5"):
        RelationalTransformer(make_problem(Architecture.mlp([4, 5, 3])), n_heads=5)
