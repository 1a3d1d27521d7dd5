"""Couplings of source and target points."""

import itertools

import pytest
import torch

from bayesflow_nn.flow.coupling import independent, optimal_transport, squared_distances


def transport_cost(manifold, x_0, x_1):
    return manifold.dist(x_0, x_1).square().sum()


def test_squared_distances_are_the_squares_of_all_distances(manifold, draw_points):
    x, y = draw_points(manifold, 7), draw_points(manifold, 5)
    expected = manifold.dist(x[:, None], y).square()
    # The squared arc cosine keeps float64 precision, times 1 / sin near antipodes.
    computed = squared_distances(manifold, x, y)
    torch.testing.assert_close(computed, expected, atol=1e-12, rtol=1e-12)


def test_independent_coupling_keeps_the_order(product, draw_points):
    x_0, x_1 = draw_points(product, 5), draw_points(product, 5)
    assert torch.equal(independent(product, x_0, x_1), x_0)


def test_optimal_transport_uses_every_source_point_once(manifold, draw_points):
    x_0, x_1 = draw_points(manifold, 50), draw_points(manifold, 50)
    coupled = optimal_transport(manifold, x_0, x_1)
    assert sorted(coupled.tolist()) == sorted(x_0.tolist())
    assert not torch.equal(coupled, x_0)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_optimal_transport_is_the_cheapest_permutation(product, draw_points, n):
    x_0, x_1 = draw_points(product, n), draw_points(product, n)
    cheapest = min(
        transport_cost(product, x_0[list(order)], x_1) for order in itertools.permutations(range(n))
    )
    cost = transport_cost(product, optimal_transport(product, x_0, x_1), x_1)
    torch.testing.assert_close(cost, cheapest, atol=0, rtol=1e-12)


def test_optimal_transport_finds_the_partners_of_slightly_moved_points(product, draw_points):
    """Points move by less than half of their least distance, so each is nearest to itself."""
    x_1 = draw_points(product, 20)
    moved = product.projx(x_1 + 0.01 * draw_points(product, 20))
    assert torch.equal(optimal_transport(product, moved.flip(0), x_1), moved)
