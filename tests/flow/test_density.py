"""Log densities against closed forms, quadrature and brute-force derivatives."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t
from torch import nn

from bayesflow_nn.flow import (
    DensityMethod,
    FlowField,
    GeodesicPath,
    NonFiniteError,
    SolverError,
    StandardSource,
    integrate,
)
from bayesflow_nn.flow.trace import divergence
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock

SIGMA = 0.05


def density(field, x, **method):
    method = DensityMethod(**({"n_steps": 64, "n_probes": 1} | method))
    return method.log_density(field, StandardSource(field.path.manifold), x)


class GaussianPosteriorMean(nn.Module):
    """E[x_1 | x_t] for x_1 ~ N(mean, covariance) and x_t = t x_1 + kappa x_0."""

    def __init__(self, mean, covariance, kappa):
        super().__init__()
        self.mean, self.covariance, self.kappa = mean, covariance, kappa

    def forward(self, t, x):
        t, kappa = t[:, None, None], self.kappa(t)[:, None, None]
        noisy = t**2 * self.covariance + kappa**2 * torch.eye(len(self.mean), dtype=x.dtype)
        whitened = torch.linalg.solve(noisy, (x - t[:, 0] * self.mean)[..., None])
        return self.mean + (t * self.covariance @ whitened)[..., 0]


@pytest.fixture
def mixing_field(prescribed_field, generator):
    """A smooth time-dependent field without symmetry on a product of spheres and a plane."""
    manifold = ProductManifold([SphereBlock(2, 3), EuclideanBlock(2)])
    inner, outer = 0.5 * torch.randn(2, 8, 8, generator=generator, dtype=torch.float64)
    return prescribed_field(
        manifold, lambda t, x: manifold.proju(x, torch.sin(x @ inner + 2 * t) @ outer)
    )


@pytest.mark.parametrize("sigma", [1e-3, SIGMA, 0.5])
def test_gaussian_to_gaussian_is_the_closed_form(sigma, generator):
    """The exact field of a Gaussian target carries N(0, I) to N(mean, covariance + sigma^2 I)."""
    path = GeodesicPath(ProductManifold([EuclideanBlock(3)]), sigma)
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    covariance = root @ root.T / 3 + 0.1 * torch.eye(3, dtype=torch.float64)
    field = FlowField(path, GaussianPosteriorMean(mean, covariance, path.kappa))
    blurred = covariance + sigma**2 * torch.eye(3, dtype=torch.float64)
    target = torch.distributions.MultivariateNormal(mean, blurred)
    # Points up to five standard deviations away, not only typical ones.
    noise = (
        torch.randn(20, 3, generator=generator, dtype=torch.float64)
        * torch.linspace(0, 2, 20)[:, None]
    )
    x = mean + noise @ target.scale_tril.T
    value, error = density(field, x)
    # The requirement. rk4 with 64 steps: 64^-4 = 6e-8 times rates up to 1 / 0.1 to the power 2.
    torch.testing.assert_close(value, target.log_prob(x), atol=1e-4, rtol=0)
    assert (error == 0).all()


def test_a_rotation_keeps_the_uniform_density(sphere, draw_points, skew_matrix, prescribed_field):
    rotation = skew_matrix(3)
    field = prescribed_field(sphere, lambda t, x: (1 + t) * x @ rotation.T)
    value = density(field, draw_points(sphere, 20)).value
    uniform = torch.full((20,), -math.log(4 * math.pi), dtype=torch.float64)
    # The divergence is zero at every point, so no error but rounding is left.
    torch.testing.assert_close(value, uniform, atol=1e-10, rtol=0)


def test_a_flow_towards_a_pole_of_the_sphere_is_the_closed_form(
    sphere, draw_points, prescribed_field
):
    """u = s P_x e_3 moves heights by dz/dt = s (1 - z^2): z_1 = tanh(artanh z_0 + s).

    Azimuths stay, and area is dz dphi, so the uniform density is multiplied by dz_0 / dz_1.
    """
    speed = 1.5
    pole = torch.tensor([0.0, 0.0, speed], dtype=torch.float64)
    field = prescribed_field(sphere, lambda t, x: sphere.proju(x, pole.expand_as(x)))
    x = draw_points(sphere, 20)
    z_1 = x[:, 2]
    z_0 = (z_1.atanh() - speed).tanh()
    expected = ((1 - z_0**2) / (1 - z_1**2)).log() - math.log(4 * math.pi)
    # rk4 with 64 steps: (speed / 64)^4 = 3e-7 times a constant of order one.
    torch.testing.assert_close(density(field, x).value, expected, atol=1e-6, rtol=0)


def test_the_density_on_the_sphere_integrates_to_one(sphere, prescribed_field):
    shift, inner, outer = (
        torch.tensor([0.5, -0.2, 0.3], dtype=torch.float64),
        torch.tensor([[0.6, 0.2, -0.4], [0.1, -0.9, 0.3], [0.0, 0.5, 0.7]], dtype=torch.float64),
        torch.tensor([[0.4, -0.7, 0.2], [0.8, 0.1, 0.5], [-0.3, 0.6, 0.9]], dtype=torch.float64),
    )
    field = prescribed_field(
        sphere, lambda t, x: sphere.proju(x, shift + torch.sin(1.5 * x @ inner + t) @ outer / 2)
    )
    heights, weights = np.polynomial.legendre.leggauss(24)
    azimuths = 2 * np.pi * np.arange(48) / 48
    z, phi = (grid.ravel() for grid in np.meshgrid(heights, azimuths, indexing="ij"))
    radius = np.sqrt(1 - z**2)
    x = torch.as_tensor(np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=1))
    area = torch.as_tensor(np.repeat(weights, 48)) * (2 * np.pi / 48)
    p = density(field, x, n_steps=32, chunk_size=len(x)).value.exp()
    assert p.max() > 50 * p.min()  # far from uniform
    # Exact for polynomials of degree 47; refining quadrature and steps changes the sum by 4e-9.
    assert (area @ p).item() == pytest.approx(1, abs=1e-6)


def test_the_exact_divergence_is_the_trace_of_the_jacobian(mixing_field, draw_points):
    x, t = draw_points(mixing_field.path.manifold, 5), torch.tensor(0.3, dtype=torch.float64)
    velocity, forms = divergence(mixing_field, t, x, torch.eye(8, dtype=torch.float64))
    jacobians = [
        torch.autograd.functional.jacobian(lambda y: mixing_field.extended(t, y[None])[0], row)
        for row in x
    ]
    torch.testing.assert_close(velocity, mixing_field(t, x))
    # Equal but for the order of float64 operations.
    eye = torch.eye(8, dtype=torch.float64)
    tangent = [mixing_field.path.manifold.proju(row, eye) for row in x]
    expected = [(p @ j @ p).diagonal() for p, j in zip(tangent, jacobians, strict=True)]
    torch.testing.assert_close(forms, torch.stack(expected, dim=1), atol=1e-13, rtol=1e-12)
    traces = torch.stack([jacobian.trace() for jacobian in jacobians])
    torch.testing.assert_close(forms.sum(0), traces, atol=1e-13, rtol=1e-12)


def test_the_divergence_is_intrinsic_to_the_manifold(mixing_field, draw_points):
    """Sum over an orthonormal frame of <e, d/ds u(exp(s e))>, never leaving the manifold."""
    manifold, h = mixing_field.path.manifold, 1e-5
    x, t = draw_points(manifold, 5), torch.tensor(0.3, dtype=torch.float64)
    _, forms = divergence(mixing_field, t, x, torch.eye(8, dtype=torch.float64))
    for row, divergence_at_row in zip(x, forms.sum(0), strict=True):
        projector = manifold.proju(row, torch.eye(8, dtype=torch.float64))
        values, vectors = torch.linalg.eigh(projector)
        frame = vectors.T[values > 0.5]
        assert len(frame) == manifold.dimension
        ahead, behind = (mixing_field(t, manifold.expmap(row, s * frame)) for s in (h, -h))
        expected = ((ahead - behind) / (2 * h) * frame).sum()
        # Central differences: h^2 = 1e-10 and rounding eps / h = 1e-11, times a few.
        torch.testing.assert_close(divergence_at_row, expected, atol=1e-8, rtol=0)


def test_hutchinson_agrees_with_the_exact_trace_within_its_standard_error(
    mixing_field, draw_points
):
    x = draw_points(mixing_field.path.manifold, 5)
    exact = density(mixing_field, x, n_steps=16).value
    estimate = density(mixing_field, x, n_steps=16, trace="hutchinson", n_probes=400)
    # 400 probes make the mean normal; four standard errors are passed by chance in 1 row of 16,000.
    assert ((estimate.value - exact).abs() < 4 * estimate.standard_error).all()
    # And the error is not vacuously large: one probe scatters by about a nat.
    assert estimate.standard_error.max() < 0.2


def test_the_standard_error_is_the_spread_over_seeds(mixing_field, draw_points):
    x = draw_points(mixing_field.path.manifold, 4)
    runs = [
        density(mixing_field, x, n_steps=4, trace="hutchinson", n_probes=16, seed=seed)
        for seed in range(100)
    ]
    spread = torch.stack([run.value for run in runs]).std(0)
    claimed = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()
    # A standard deviation from 100 runs has a relative error of 1 / sqrt(200) = 7 %, more for
    # heavy tails; four of them.
    torch.testing.assert_close(claimed, spread, atol=0, rtol=0.3)


def test_a_single_probe_has_no_standard_error(mixing_field, draw_points):
    x = draw_points(mixing_field.path.manifold, 2)
    estimate = density(mixing_field, x, n_steps=4, trace="hutchinson")
    assert estimate.value.isfinite().all()
    assert estimate.standard_error.isnan().all()


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_no_row_depends_on_the_others(mixing_field, draw_points, trace):
    x = draw_points(mixing_field.path.manifold, 40)
    full = density(mixing_field, x, n_steps=8, trace=trace, n_probes=3)
    some = density(mixing_field, x[5:9], n_steps=8, trace=trace, n_probes=3, chunk_size=3)
    # The same arithmetic; only the blocking of matrix products may differ with the batch.
    torch.testing.assert_close(some.value, full.value[5:9], atol=1e-12, rtol=0)
    torch.testing.assert_close(some.standard_error, full.standard_error[5:9], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_the_log_density_converges_with_the_order_of_the_solver(
    mixing_field, draw_points, solver, order
):
    x = draw_points(mixing_field.path.manifold, 4)
    fine = density(mixing_field, x, n_steps=256).value
    errors = [
        (density(mixing_field, x, n_steps=n, solver=solver).value - fine).abs().max().log2()
        for n in (16, 32, 64)
    ]
    # Slope over two doublings; the next term of the expansion bends it by about 1 / 16.
    assert (errors[0] - errors[2]).item() / 2 == pytest.approx(order, abs=0.3)


def test_an_exploding_density_is_an_error(prescribed_field):
    """Backwards in time dx/dt = -x^3 explodes."""
    field = prescribed_field(ProductManifold([EuclideanBlock(1)]), lambda t, x: -(x**3))
    with pytest.raises(NonFiniteError, match="near the data"):
        density(field, torch.tensor([[5.0]], dtype=torch.float64))


class LowRank(nn.Module):
    """Predicts targets whose Jacobian is strong in a few directions."""

    def __init__(self, generator, n_coordinates, rank):
        super().__init__()
        draw = torch.randn(n_coordinates, n_coordinates, generator=generator, dtype=torch.float64)
        axes = torch.linalg.qr(draw).Q
        values = torch.full((n_coordinates,), 0.05, dtype=torch.float64)
        values[:rank] = torch.linspace(0.9, 0.5, rank, dtype=torch.float64)
        self.matrix = axes @ torch.diag(values) @ axes.T

    def forward(self, t, x):
        return torch.tanh(x @ self.matrix) + 0.1


@pytest.fixture
def low_rank_field(generator):
    path = GeodesicPath(ProductManifold([EuclideanBlock(60)]), 0.05)
    return FlowField(path, LowRank(generator, 60, 6))


ESTIMATES = [("hutchinson", "rademacher"), ("hutchinson", "gaussian"), ("hutch++", "rademacher")]


@pytest.mark.parametrize(("trace", "distribution"), ESTIMATES)
@pytest.mark.parametrize("on", ["flat", "product"])
def test_estimates_are_unbiased_and_their_intervals_hold(
    trace, distribution, on, low_rank_field, mixing_field, draw_points
):
    """200 repeats; the t interval of 95 % covers the exact density in 92 to 98 % of all rows."""
    field = low_rank_field if on == "flat" else mixing_field
    x = draw_points(field.path.manifold, 10)
    solver = {"solver": "midpoint", "n_steps": 2}
    exact = density(field, x, **solver).value
    n_probes = 8 if trace == "hutch++" and on == "product" else 16
    method = solver | {"trace": trace, "n_probes": n_probes, "probe_distribution": distribution}
    runs = [density(field, x, seed=seed, **method) for seed in range(200)]
    values, errors = (torch.stack(part) for part in zip(*runs, strict=True))
    bias, scatter = values.mean(0) - exact, values.std(0) / 200**0.5
    # Ten rows with common probes: three standard errors are passed by chance in 3 of 100 tests.
    assert (bias.abs() < 3 * scatter).all()
    n_averaged = n_probes - (n_probes // 4 if trace == "hutch++" else 0)
    quantile = student_t.ppf(0.975, n_averaged - 1)
    covered = ((values - exact).abs() < quantile * errors).double().mean().item()
    assert 0.92 < covered < 0.98


def test_hutch_plus_plus_scatters_less_where_few_directions_matter(low_rank_field, draw_points):
    x = draw_points(low_rank_field.path.manifold, 10)
    scatter = {
        trace: torch.stack(
            [
                density(low_rank_field, x, n_steps=4, trace=trace, n_probes=32, seed=seed).value
                for seed in range(50)
            ]
        ).std(0)
        for trace in ("hutchinson", "hutch++")
    }
    # Six directions hold 3.1 of the 3.2 squared entries; eight products cover them.
    assert (scatter["hutch++"] < 0.5 * scatter["hutchinson"]).all()


def test_hutch_plus_plus_with_all_directions_is_exact(mixing_field, draw_points):
    x = draw_points(mixing_field.path.manifold, 5)
    exact = density(mixing_field, x, n_steps=8).value
    estimate = density(mixing_field, x, n_steps=8, trace="hutch++", n_probes=32)
    torch.testing.assert_close(estimate.value, exact, atol=1e-9, rtol=0)
    assert estimate.standard_error.max() < 1e-9


def test_the_adaptive_solver_agrees_and_takes_rows_one_by_one(mixing_field, draw_points):
    x = draw_points(mixing_field.path.manifold, 4)
    fine = density(mixing_field, x, n_steps=256).value
    adaptive = density(mixing_field, x, solver="dopri5", tolerance=1e-8).value
    torch.testing.assert_close(adaptive, fine, atol=1e-6, rtol=0)
    assert torch.equal(
        density(mixing_field, x[2:], solver="dopri5").value,
        density(mixing_field, x, solver="dopri5").value[2:],
    )
    loose = density(mixing_field, x, solver="dopri5", tolerance=1e-2).value
    assert (loose - fine).abs().max() > 10 * (adaptive - fine).abs().max()


def test_an_adaptive_density_that_explodes_is_an_error(prescribed_field):
    field = prescribed_field(ProductManifold([EuclideanBlock(1)]), lambda t, x: -(x**3))
    with pytest.raises(SolverError, match="dopri5.* raise the tolerance or use fixed steps"):
        density(field, torch.tensor([[5.0]], dtype=torch.float64), solver="dopri5")


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_drawn_points_come_with_their_density(mixing_field, draw_points, trace):
    """Forwards and backwards in time, with the same probes."""
    manifold = mixing_field.path.manifold
    x_0, method = draw_points(manifold, 5), DensityMethod(n_steps=32, trace=trace, n_probes=4)
    points, drawn = method.sample(mixing_field, StandardSource(manifold), x_0)
    again = method.log_density(mixing_field, StandardSource(manifold), points)
    # rk4 with 32 steps: 32^-4 = 1e-6 times a constant of order one. The directions of "hutch++"
    # come from the other end and differ by as much.
    torch.testing.assert_close(drawn.value, again.value, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        points, integrate(mixing_field, x_0, solver="rk4", n_steps=200), atol=1e-5, rtol=0
    )


def test_the_round_trip_shows_the_error_of_the_solver(mixing_field, draw_points):
    x = draw_points(mixing_field.path.manifold, 5)
    coarse, fine = (
        (DensityMethod(n_steps=n, solver="midpoint").round_trip(mixing_field, x) - x).norm(dim=1)
        for n in (8, 32)
    )
    # Forward and backward errors of a symmetric grid partly cancel: at least second order.
    assert (fine < coarse / 8).all()
    assert (coarse > 1e-5).all()
