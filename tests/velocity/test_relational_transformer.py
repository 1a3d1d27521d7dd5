"""Attention of the relational transformer, against its dense form: all pairs, nothing folded."""

import pytest
import torch
from dense_attention import dense_attention

from bayesflow_nn.velocity import RelationalTransformer
from bayesflow_nn.velocity.relational_transformer import IncidentAttention
from bayesflow_nn.weights import Architecture


def test_attention_is_that_of_all_incident_pairs(generator):
    attention = IncidentAttention(node_width=8, edge_width=4, n_heads=2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    edges = [
        torch.randn(3, n, m, 4, generator=generator).double() for n, m in [(5, 4), (6, 5), (2, 6)]
    ]
    nodes = [torch.randn(3, n, 8, generator=generator).double() for n in (4, 5, 6, 2)]
    updates = attention(edges, nodes, [(0, 1), (1, 2), (2, 3)])
    for own, expected in zip(updates, dense_attention(attention, edges, nodes), strict=True):
        torch.testing.assert_close(own, expected)


def test_heads_divide_the_width_of_nodes(make_problem):
    with pytest.raises(ValueError, match="n_heads must divide node_width=64, got 5"):
        RelationalTransformer(make_problem(Architecture.mlp([4, 5, 3])), n_heads=5)
