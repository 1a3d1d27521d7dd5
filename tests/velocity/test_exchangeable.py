"""The exchangeable law is the affine one of networks with their neurons in every order."""

import itertools

import pytest
import torch

from bayesflow_nn.velocity import AffineDenoiser, ConditionalDenoiser, ExchangeableDenoiser
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.orbit_means import compose, decompose
from bayesflow_nn.weights import Architecture

TINY = Architecture.mlp([2, 3, 2, 2])
N_POINTS = 300


def schedule(t):
    return t[:, None], 1 - t[:, None]


@pytest.fixture
def graph(make_problem):
    return NeuralGraph(make_problem(TINY, pooled=True).chart)


@pytest.fixture
def points(graph, generator):
    """Correlated coordinates with a mean, such as an aligned population has."""
    n = graph.n_coordinates
    mixing = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    x = torch.randn(N_POINTS, n, generator=generator, dtype=torch.float64)
    return 0.5 * torch.randn(n, generator=generator, dtype=torch.float64) + x @ mixing + 0.3 * x


def in_every_order(graph, x):
    orders = itertools.product(
        *(itertools.permutations(range(n)) for n in graph.layout.sizes[1:-1])
    )
    return [graph.permute(x, [torch.tensor(order) for order in pair]) for pair in orders]


@pytest.mark.parametrize("geometry", ["product_sphere", "euclidean"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [[4, 5, 3], [4, 5, 6, 3], [3, 4, 2, 5, 2], [4, 3]], ids=str)
def test_parts_are_orthogonal_and_complete(make_problem, sizes, bias, geometry):
    problem = make_problem(Architecture.mlp(sizes, bias=bias), geometry)
    graph, x = NeuralGraph(problem.chart), problem.points
    parts = decompose(graph, x)
    torch.testing.assert_close(compose(graph, parts), x)
    blocks = [parts.symmetric, *parts.deviations, *parts.interactions]
    squares = sum(block.square().flatten(1).sum(1) for block in blocks)
    torch.testing.assert_close(squares, x.square().sum(1))


def test_permutations_move_no_part_into_another(make_problem, generator):
    problem = make_problem(Architecture.mlp([4, 5, 6, 3]))
    graph, x = NeuralGraph(problem.chart), problem.points
    orders = [torch.randperm(n, generator=generator) for n in (5, 6)]
    parts, moved = decompose(graph, x), decompose(graph, graph.permute(x, orders))
    torch.testing.assert_close(moved.symmetric, parts.symmetric)
    for order, own, other in zip(orders, parts.deviations, moved.deviations, strict=True):
        torch.testing.assert_close(other, own[:, order])
    own = parts.interactions[0][:, orders[1]][:, :, orders[0]]
    torch.testing.assert_close(moved.interactions[0], own)


def calls(denoiser, t, z, condition=None):
    """What all methods make of points."""
    yield denoiser(t, z, condition).mean
    yield denoiser.transport(t, z, condition)
    yield denoiser.apply_covariance(t, z, condition)
    yield denoiser.advance(t / 2, torch.tensor(0.3), z, z.flip(1), condition)


def test_it_is_the_law_of_networks_with_neurons_in_every_order(graph, points, generator):
    """Up to degrees of freedom: n - 1 for every part, where the orders count as more networks."""
    law = ExchangeableDenoiser(graph, points, None, schedule)
    affine = AffineDenoiser(torch.cat(in_every_order(graph, points)), None, schedule)
    t = torch.linspace(0, 1, 20, dtype=torch.float64)
    z = torch.randn(20, graph.n_coordinates, generator=generator, dtype=torch.float64)
    off = 1 / (N_POINTS - 1)
    own, expected = law(t, z), affine(t, z)
    torch.testing.assert_close(own.variance, expected.variance, rtol=off, atol=1e-9)
    for own, expected in zip(calls(law, t, z), calls(affine, t, z), strict=True):
        assert (own - expected).norm(dim=1).max() < off * z.norm(dim=1).max()


def test_the_mean_depends_on_a_condition_as_that_of_networks_in_every_order(
    graph, points, generator
):
    """Up to degrees of freedom: n - 3 for the rest of the symmetric part, n - 1 for the others."""
    value = torch.randn(N_POINTS, 1, generator=generator, dtype=torch.float64)
    condition = torch.cat([torch.ones_like(value), value], dim=1)
    direction = torch.randn(graph.n_coordinates, generator=generator, dtype=torch.float64)
    x = points + value * direction
    law = ExchangeableDenoiser(graph, x, None, schedule, condition, None)
    orders = in_every_order(graph, x)
    affine = ConditionalDenoiser(
        torch.cat(orders), None, condition.repeat(len(orders), 1), None, schedule
    )
    t = torch.linspace(0, 1, 20, dtype=torch.float64)
    z = torch.randn(20, graph.n_coordinates, generator=generator, dtype=torch.float64)
    given = condition[:20]
    given[:3] = 0  # not known
    off = 2 / (N_POINTS - 1)
    for own, expected in zip(calls(law, t, z, given), calls(affine, t, z, given), strict=True):
        # A covariance is off in proportion to itself, which without the condition exceeds 1.
        size = expected.norm(dim=1).clamp_min(z.norm(dim=1).max())
        assert ((own - expected).norm(dim=1) < off * size).all()
    # The condition matters by more than that.
    assert (law(t, z, given).mean - law(t, z).mean)[3:].norm(dim=1).max() > 0.5


def test_variances_are_those_of_held_out_points(graph, points):
    """A Gaussian of held-out points twice as far from the mean has four times the variance."""
    t = torch.zeros(1, dtype=torch.float64)
    centre = torch.cat(in_every_order(graph, points)).mean(0)
    wide = centre + 2 * (points - centre)
    own, other = (
        ExchangeableDenoiser(graph, points, held_out, schedule)(t, points[:1]).variance
        for held_out in (None, wide)
    )
    # The logarithm of a variance from n points is corrected by about 1 / n.
    torch.testing.assert_close(other, 4 * own, rtol=2 / N_POINTS, atol=0)
