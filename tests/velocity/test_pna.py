"""Principal neighbourhood aggregation, against one node and one edge after the other."""

import itertools
import math

import pytest
import torch
from joined_graph import join_graph

from bayesflow_nn.velocity import PNAVelocity
from bayesflow_nn.velocity.layered_graph import Layout
from bayesflow_nn.velocity.pna import PrincipalAggregation, mean_log_degree
from bayesflow_nn.weights import Architecture

SIZES = [4, 5, 6, 2]
CHAIN = list(itertools.pairwise(range(4)))


def node_by_node(model, edges, nodes, ends):
    """Updates of nodes by eq. 5.3-5.4 of the thesis, edge by edge, of one network."""

    def message(direction, own, other, edge):
        of_nodes = torch.nn.functional.silu(
            model.own[direction](own) + model.other[direction](other)
        )
        return of_nodes * (1 + model.factor[direction](edge)) + model.shift[direction](edge)

    updates = []
    for place, layer in enumerate(nodes):
        rows = []
        for i, own in enumerate(layer):
            messages = []
            for block, (source, target) in zip(edges, ends, strict=True):
                if target == place:
                    for j, other in enumerate(nodes[source]):
                        messages.append(message(0, own, other, block[i, j]))
                if source == place:
                    for j, other in enumerate(nodes[target]):
                        messages.append(message(1, own, other, block[j, i]))
            degree = len(messages)
            of_feature = list(zip(*(message.tolist() for message in messages), strict=True))
            mean = [sum(values) / degree for values in of_feature]
            variance = [
                sum(value**2 for value in values) / degree - m**2
                for values, m in zip(of_feature, mean, strict=True)
            ]
            std = [math.sqrt(v + 1e-5) for v in variance]
            most, least = [max(values) for values in of_feature], [min(v) for v in of_feature]
            aggregated = []
            for alpha in (0, 1, -1):
                scaler = (math.log(degree + 1) / model.delta) ** alpha
                aggregated += [scaler * value for value in [*mean, *std, *most, *least]]
            rows.append(model.out(torch.tensor(aggregated, dtype=torch.float64)))
        updates.append(torch.stack(rows))
    return updates


@pytest.mark.parametrize("ends", [CHAIN, [(0, 1), (1, 2), (3, 2), (1, 2), (2, 2)]], ids=str)
def test_aggregation_is_that_of_a_loop_over_nodes_and_edges(generator, ends):
    model = PrincipalAggregation(node_width=8, edge_width=4, message_width=3, delta=1.7).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    edges = [
        torch.randn(2, SIZES[target], SIZES[source], 4, generator=generator).double()
        for source, target in ends
    ]
    nodes = [torch.randn(2, n, 8, generator=generator).double() for n in SIZES]
    updates = model(*join_graph(edges, nodes, ends))
    for network in range(2):
        own = [e[network] for e in edges], [n[network] for n in nodes]
        twin = torch.cat(node_by_node(model, *own, ends))
        # The twin's variance, a difference of squares, loses some digits.
        torch.testing.assert_close(updates[network], twin, atol=1e-9, rtol=1e-9)


def test_the_scale_of_degrees_is_their_mean_logarithm_over_nodes(make_problem):
    degrees = [5] * 4 + [4 + 6] * 5 + [5 + 2] * 6 + [6] * 2
    expected = sum(math.log(degree + 1) for degree in degrees) / len(degrees)
    assert mean_log_degree(Layout(tuple(SIZES), tuple(CHAIN))) == pytest.approx(expected)
    # Two blocks between the same sets.
    of_both = (2 * math.log(6 + 1) + 3 * math.log(4 + 1)) / 5
    assert mean_log_degree(Layout((2, 3), ((0, 1), (0, 1)))) == pytest.approx(of_both)
    # Three outputs are two coordinates of each neuron, without the mean over classes.
    model = PNAVelocity(make_problem(Architecture.mlp([4, 5, 6, 3])))
    assert model.blocks[0].gather.delta == pytest.approx(expected)


def test_equal_messages_have_finite_gradients():
    """At zero spread the root has no derivative, unless the variance has a floor."""
    model = PrincipalAggregation(node_width=8, edge_width=4, message_width=3, delta=1.0)
    edges, nodes = [torch.zeros(1, 2, 3, 4)], [torch.zeros(1, n, 8) for n in (3, 2)]
    edges[0].requires_grad_()
    model(*join_graph(edges, nodes, [(0, 1)])).sum().backward()
    assert edges[0].grad.isfinite().all()
    assert edges[0].grad.any()
