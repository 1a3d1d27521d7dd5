"""NeuronCorrection: what it sees, and whom it can tell apart."""

import pytest
import torch
from torch.func import jacrev

from bayesflow_nn.velocity.features import time_features
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.neuron_correction import NeuronCorrection
from bayesflow_nn.weights import Architecture

SIZES = [4, 5, 6, 3]
N = 7


@pytest.fixture(params=["normalized", "euclidean", "product_sphere"])
def geometry(request):
    return request.param


@pytest.fixture
def make_correction(make_problem, generator, geometry):
    """Build a correction in float64, the graph of its networks, features and the problem."""

    def make(sizes, *, pooled, bias=True):
        problem = make_problem(Architecture.mlp(sizes, bias=bias), geometry, pooled=pooled)
        features = time_features(torch.rand(N, generator=generator, dtype=torch.float64))
        correction = NeuronCorrection(problem).double()
        return correction, NeuralGraph(problem.chart), features, problem

    return make


@pytest.mark.parametrize("pooled", [False, True])
def test_a_neuron_answers_to_its_own_coordinates_only(make_correction, pooled):
    """And where it has no name, not to weights between it and others that have none."""
    correction, graph, features, problem = make_correction(SIZES, pooled=pooled)
    features, x = features[:1], problem.points[:1]
    jacobian = jacrev(lambda x: correction(features, x))(x)[0, :, 0]
    (first, between, last), (_, nodes, others, outputs) = graph.blocks, graph.node_sets
    groups = [(node,) for node in outputs.index]  # a bias each, and any log norm of all
    for i, node in enumerate(nodes.index):
        groups.append((node, first.index[i], *(() if pooled else (between.index[:, i],))))
    for j, node in enumerate(others.index):
        groups.append((node, last.index[:, j], *(() if pooled else (between.index[j],))))
    expected = torch.zeros_like(jacobian, dtype=torch.bool)
    for parts in groups:
        own = torch.cat([part.flatten() for part in parts])
        expected[own[:, None], own] = True
    expected[problem.chart.manifold.sphere_mask] = False  # these are seen, and stay
    assert torch.equal(jacobian != 0, expected)


@pytest.mark.parametrize(
    ("geometry", "bias"),
    [
        ("normalized", True),
        ("normalized", False),
        ("euclidean", True),
        ("euclidean", False),
        ("product_sphere", True),
    ],
)
def test_without_identities_it_commutes_with_permutations(make_correction, generator, bias):
    correction, graph, features, problem = make_correction(SIZES, pooled=True, bias=bias)
    x = problem.points[:N]
    orders = [torch.randperm(size, generator=generator) for size in SIZES[1:-1]]
    moved = correction(features, graph.permute(x, orders))
    torch.testing.assert_close(moved, graph.permute(correction(features, x), orders))
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("geometry", ["product_sphere"])
def test_on_spheres_without_biases_only_the_log_norm_is_corrected(make_correction):
    correction, graph, features, problem = make_correction(SIZES, pooled=False, bias=False)
    moved = correction(features, problem.points[:N]).abs().amax(0) > 0
    log_norm = graph.node_sets[-1].index.unique()
    assert moved.nonzero().flatten().tolist() == log_norm.tolist() and len(log_norm) == 1


def test_aligned_neurons_are_told_apart(make_correction):
    correction, graph, features, problem = make_correction([4, 5, 3], pooled=False)
    x = problem.points[:N]
    order = [torch.tensor([1, 0, 2, 3, 4])]
    moved = correction(features, graph.permute(x, order))
    assert not torch.allclose(moved, graph.permute(correction(features, x), order))


def test_other_widths_share_its_parameters(make_correction, make_problem, generator, geometry):
    correction, _, features, problem = make_correction(SIZES, pooled=True)
    x = problem.points[:N]
    assert torch.equal(correction.on(problem.chart)(features, x), correction(features, x))
    other = make_problem(Architecture.mlp([4, 8, 2, 3]), geometry, pooled=True)
    wider = correction.on(other.chart)
    own = zip(wider.parameters(), correction.parameters(), strict=True)
    assert all(a is b for a, b in own)
    x, graph = other.points[:N], NeuralGraph(other.chart)
    orders = [torch.randperm(size, generator=generator) for size in (8, 2)]
    moved = wider(features, graph.permute(x, orders))
    torch.testing.assert_close(moved, graph.permute(wider(features, x), orders))
