"""The contract of a manifold, for every manifold the library has."""

import pytest
import torch

from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, Sphere, SphereBlock

MANIFOLDS = {
    "circle": (Sphere(), 2),
    "sphere": (Sphere(), 9),
    "spheres": (ProductManifold([SphereBlock(4, 3)]), 12),
    "euclidean": (ProductManifold([EuclideanBlock(6)]), 6),
    "product": (
        ProductManifold(
            [SphereBlock(3, 5), EuclideanBlock(3), SphereBlock(1, 7), EuclideanBlock(1)]
        ),
        26,
    ),
}
N = 50


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=MANIFOLDS)
def manifold(request):
    return MANIFOLDS[request.param][0]


@pytest.fixture
def points(request, manifold, dtype):
    """Points x, y and a tangent vector u at x, shorter than the injectivity radius pi."""
    generator = torch.Generator().manual_seed(3)
    dim = next(d for m, d in MANIFOLDS.values() if m is manifold)
    x, y, u = torch.randn(3, N, dim, generator=generator, dtype=torch.float64).to(dtype)
    x, y = manifold.projx(x), manifold.projx(y)
    u = manifold.proju(x, u)
    return x, y, 2 * u / manifold.norm(x, u)[:, None]


def tolerance(dtype):
    """About ten operations, and 1 / sin(angle) < 30 for the random points used here."""
    return 300 * torch.finfo(dtype).eps


def test_projections_are_idempotent(manifold, points, dtype):
    x, _, u = points
    torch.testing.assert_close(manifold.projx(x), x, atol=tolerance(dtype), rtol=0)
    torch.testing.assert_close(manifold.proju(x, u), u, atol=tolerance(dtype), rtol=0)


def test_exp_of_log_is_the_point(manifold, points, dtype):
    x, y, _ = points
    result = manifold.expmap(x, manifold.logmap(x, y))
    torch.testing.assert_close(result, y, atol=tolerance(dtype), rtol=0)


def test_log_of_exp_is_the_vector(manifold, points, dtype):
    x, _, u = points
    result = manifold.logmap(x, manifold.expmap(x, u))
    torch.testing.assert_close(result, u, atol=tolerance(dtype), rtol=0)


def test_log_is_tangent_and_as_long_as_the_distance(manifold, points, dtype):
    x, y, _ = points
    log = manifold.logmap(x, y)
    torch.testing.assert_close(manifold.proju(x, log), log, atol=tolerance(dtype), rtol=0)
    distance = manifold.dist(x, y)
    torch.testing.assert_close(manifold.norm(x, log), distance, atol=tolerance(dtype), rtol=0)


def test_dist_is_symmetric_zero_at_equal_points_and_obeys_the_triangle_inequality(
    manifold, points, dtype
):
    x, y, u = points
    z = manifold.expmap(x, u)
    assert torch.equal(manifold.dist(x, y), manifold.dist(y, x))
    assert (manifold.dist(x, x) == 0).all()
    slack = manifold.dist(x, z) + manifold.dist(z, y) - manifold.dist(x, y)
    assert slack.min() > -tolerance(dtype)


def test_inner_is_the_euclidean_product_of_tangent_vectors(manifold, points):
    x, y, u = points
    v = manifold.logmap(x, y)
    expected = torch.einsum("ni,ni->n", u.double(), v.double())
    torch.testing.assert_close(manifold.inner(x, u, v).double(), expected, atol=1e-5, rtol=1e-5)


def test_derivatives_are_finite_at_zero_vectors_and_equal_points(manifold, points):
    x, _, u = points
    for verb, other in [
        (manifold.expmap, torch.zeros_like(u)),
        (manifold.logmap, x),
        (manifold.dist, x),
    ]:
        other = other.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(verb(x, other).sum(), other, create_graph=True)
        assert gradient.isfinite().all()
        if gradient.requires_grad:  # Euclidean exp and log are linear
            (second,) = torch.autograd.grad((gradient**2).sum(), other)
            assert second.isfinite().all()


def test_vmap_agrees_with_the_batch(manifold, points):
    x, y, u = points
    for verb, other in [
        (manifold.expmap, u),
        (manifold.logmap, y),
        (manifold.dist, y),
        (manifold.proju, y),
    ]:
        torch.testing.assert_close(torch.func.vmap(verb)(x, other), verb(x, other))


def test_jvp_agrees_with_backward(manifold, points):
    """<w, J t> computed forwards and backwards."""
    x, y, u = points
    for verb, other in [(manifold.expmap, u), (manifold.logmap, y)]:
        value, pushed = torch.func.jvp(lambda z, verb=verb: verb(x, z), (other,), (y,))
        other = other.clone().requires_grad_()
        (pulled,) = torch.autograd.grad(verb(x, other), other, x)
        torch.testing.assert_close((x * pushed).sum(-1), (pulled * y).sum(-1), atol=1e-3, rtol=1e-3)
        assert value.shape == other.shape


def test_leading_dimensions_broadcast(manifold, points):
    x, y, _ = points
    logs = manifold.logmap(x[:3, None], y[:4])
    assert logs.shape == (3, 4, x.shape[-1])
    torch.testing.assert_close(logs[2, 1], manifold.logmap(x[2], y[1]))
    distances = manifold.dist(x[:3, None], y[:4])
    assert distances.shape == (3, 4)
    torch.testing.assert_close(distances[2, 1], manifold.dist(x[2], y[1]))
