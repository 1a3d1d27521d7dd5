"""GeodesicPath: end points, time derivative, and what a perfect prediction gives."""

import math

import pytest
import torch

from bayesflow_nn.flow import GeodesicPath
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock

SIGMA = 0.05
N = 40

# Float64 rounding through exp and log, which divide by the sine of angles: at least 0.1 here.
ROUNDING = 1e-12


@pytest.fixture
def path(manifold):
    return GeodesicPath(manifold, SIGMA)


@pytest.fixture
def ends(manifold, draw_points):
    """Source and target points."""
    return draw_points(manifold, N), draw_points(manifold, N)


@pytest.fixture
def draw(path, ends, generator):
    """Conditional paths at random times."""
    t = torch.rand(N, generator=generator, dtype=torch.float64)
    return path.sample(t, *ends)


def at(t):
    return torch.full((N,), t, dtype=torch.float64)


def angles(x, y, block, part):
    """Angle on each sphere of a block, ``(n, n_spheres)``."""
    x, y = (z[:, part].unflatten(1, (block.n_spheres, block.dim)) for z in (x, y))
    return (x * y).sum(-1).arccos()


def euclidean_weights(manifold, t):
    """Weights of target and source in Euclidean coordinates."""
    kappa = 1 - (1 - SIGMA) * t
    if any(isinstance(block, SphereBlock) for block in manifold.blocks):
        return math.cos(kappa * math.pi / 2), math.sin(kappa * math.pi / 2)
    return t, kappa


def perfect_prediction(path, draw, radial=0.0):
    """The target on Euclidean blocks; on spheres the vector that stands for log_{x_t} x_1.

    `velocity` multiplies predictions on spheres by phi / sin(phi), phi = kappa pi / 2.
    """
    on_sphere = path.manifold.sphere_mask
    phi = path.kappa(draw.t)[:, None] * math.pi / 2
    log = path.manifold.logmap(draw.x_t, draw.x_1)
    return torch.where(on_sphere, log * phi.sin() / phi + radial * draw.x_t, draw.x_1)


def test_a_shift_of_the_prediction_changes_the_velocity_by_what_was_asked(path, ends, generator):
    t, x = torch.linspace(0, 1, len(ends[0]), dtype=torch.float64), ends[0]
    prediction, change = (
        torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    change = path.manifold.proju(x, change)
    before = path.velocity(t, x, prediction)
    after = path.velocity(t, x, prediction + path.shift(t, change))
    torch.testing.assert_close(after - before, change, rtol=0, atol=1e-11)  # rates up to 1 / sigma


def test_the_width_falls_from_one_to_sigma(path):
    t = torch.tensor([0.0, 0.5, 1.0])
    expected = torch.tensor([1.0, (1 + SIGMA) / 2, SIGMA])
    torch.testing.assert_close(path.kappa(t), expected)


def test_the_path_starts_at_the_source(path, ends):
    x_t = path.sample(at(0.0), *ends).x_t
    torch.testing.assert_close(x_t, ends[0], atol=ROUNDING, rtol=0)


def test_the_path_ends_within_sigma_of_the_target(path, ends):
    x_0, x_1 = ends
    x_t = path.sample(at(1.0), x_0, x_1).x_t
    for block, part in zip(path.manifold.blocks, path.manifold.slices, strict=True):
        if isinstance(block, EuclideanBlock):
            signal, noise = euclidean_weights(path.manifold, 1.0)
            torch.testing.assert_close(x_t[:, part], (signal * x_1 + noise * x_0)[:, part])
            continue
        # On a great circle between the ends, the fraction sigma of it from x_1. The arc cosine of
        # an angle of at least 0.01 loses a factor 100 of the rounding.
        theta = angles(x_0, x_1, block, part)
        for end, fraction in ((x_1, SIGMA), (x_0, 1 - SIGMA)):
            reached = angles(x_t, end, block, part)
            torch.testing.assert_close(reached, fraction * theta, atol=1e-12, rtol=0)


def test_u_t_is_the_time_derivative_of_x_t(path, draw):
    # Central differences: error h^2 / 6 times the third derivative, about pi^3, and eps / h.
    h = 1e-5
    later, earlier = (path.sample(draw.t + s, draw.x_0, draw.x_1).x_t for s in (h, -h))
    torch.testing.assert_close((later - earlier) / (2 * h), draw.u_t, atol=1e-8, rtol=0)


def test_u_t_is_tangent(path, draw):
    projected = path.manifold.proju(draw.x_t, draw.u_t)
    torch.testing.assert_close(projected, draw.u_t, atol=ROUNDING, rtol=ROUNDING)


def test_x_t_lies_on_the_manifold(path, draw):
    torch.testing.assert_close(path.manifold.projx(draw.x_t), draw.x_t, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("radial", [0.0, 3.0])
def test_a_perfect_prediction_gives_u_t_and_its_radial_part_is_ignored(path, draw, radial):
    velocity = path.velocity(draw.t, draw.x_t, perfect_prediction(path, draw, radial))
    # The division by kappa >= 0.05 amplifies the rounding of the prediction twenty times.
    torch.testing.assert_close(velocity, draw.u_t, atol=1e-11, rtol=0)


def test_any_prediction_gives_a_tangent_velocity(path, draw, generator):
    prediction = torch.randn(draw.x_t.shape, generator=generator, dtype=torch.float64)
    velocity = path.velocity(draw.t, draw.x_t, prediction)
    projected = path.manifold.proju(draw.x_t, velocity)
    torch.testing.assert_close(projected, velocity, atol=1e-11, rtol=0)


def test_denoise_reaches_the_target_of_a_perfect_prediction(path, draw):
    reached = path.denoise(draw.t, draw.x_t, perfect_prediction(path, draw))
    torch.testing.assert_close(reached, draw.x_1, atol=1e-11, rtol=0)


@pytest.fixture
def orthogonal(generator):
    """A sphere in R^5 with x_0 orthogonal to x_1, as nearly all pairs are in high dimension."""
    path = GeodesicPath(ProductManifold([SphereBlock(1, 5)]), SIGMA)
    frames = torch.randn(N, 5, 2, generator=generator, dtype=torch.float64)
    x_0, x_1 = torch.linalg.qr(frames).Q.unbind(-1)
    return path, path.sample(torch.rand(N, generator=generator, dtype=torch.float64), x_0, x_1)


def test_predicting_the_target_point_is_perfect_where_source_and_target_are_orthogonal(orthogonal):
    path, draw = orthogonal
    velocity = path.velocity(draw.t, draw.x_t, draw.x_1)
    torch.testing.assert_close(velocity, draw.u_t, atol=1e-11, rtol=0)


def test_the_schedule_holds_the_weights_of_target_and_source(path, draw):
    signal, noise = path.schedule(draw.t)
    euclidean = path.manifold.euclidean_mask
    mixed = signal * draw.x_1 + noise * draw.x_0
    torch.testing.assert_close(mixed[:, euclidean], draw.x_t[:, euclidean])
    for row in range(N):
        expected = euclidean_weights(path.manifold, draw.t[row].item())
        weights = signal[row].item(), noise[row].item()
        assert weights == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_euclidean_blocks_are_as_noisy_as_the_spheres_beside_them(generator, t):
    """Correlation of x_t with x_1, over both kinds of coordinates of standard normal draws.

    A sphere of radius sqrt(d) in R^d, d large, is a standard normal in all its coordinates.
    """
    manifold = ProductManifold([SphereBlock(1, 2000), EuclideanBlock(2000)])
    path = GeodesicPath(manifold, SIGMA)
    x_0, x_1 = (manifold.random_source(20, generator, torch.float64) for _ in range(2))
    x_t = path.sample(torch.full((20,), t, dtype=torch.float64), x_0, x_1).x_t
    correlations = [
        torch.nn.functional.cosine_similarity(x_t[:, part], x_1[:, part]).mean().item()
        for part in manifold.slices
    ]
    # The mean over 20 rows of 2,000 coordinates: standard error at most 1 / sqrt(40,000) = .005.
    assert correlations[0] == pytest.approx(correlations[1], abs=0.02)


def test_the_schedule_is_exact_on_spheres_where_source_and_target_are_orthogonal(orthogonal):
    path, draw = orthogonal
    signal, noise = path.schedule(draw.t)
    mixed = signal * draw.x_1 + noise * draw.x_0
    torch.testing.assert_close(mixed, draw.x_t, atol=ROUNDING, rtol=0)
