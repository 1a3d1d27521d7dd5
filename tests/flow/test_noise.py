"""Stochastic sampling: what is preserved and what is widened, on Gaussian flows and on spheres."""

import math

import pytest
import torch
from scipy.integrate import quad

from bayesflow_nn.flow import FlowField, GeodesicPath, Integrator, Refresh, Setting, StepNoise
from bayesflow_nn.geometry import ProductManifold, SphereBlock
from bayesflow_nn.velocity import AffineDenoiser

N = 20_000


def sample(flow, noise, n_steps=64):
    integrator = Integrator(
        field=flow.field,
        setting=flow.setting(),
        grid=torch.linspace(0, 1, n_steps + 1),
        solver="midpoint",
        noise=noise,
    )
    with torch.no_grad():
        return integrator(flow.source(N))


def test_refreshed_noise_keeps_the_distribution_and_forgets_the_source(gaussian_flow):
    plain, fresh = sample(gaussian_flow, None), sample(gaussian_flow, Refresh(3.0, start=0.0))
    error = (gaussian_flow.covariance.diagonal() / N).sqrt()
    # 5 standard errors, and 1 % of the deviation for 64 steps of splitting.
    bound = 5 * error + 0.01 * gaussian_flow.covariance.diagonal().sqrt()
    assert ((fresh.mean(0) - gaussian_flow.mean).abs() < bound).all()
    torch.testing.assert_close(fresh.var(0), plain.var(0), rtol=0.04, atol=0)
    for axis in range(3):
        both = torch.stack([plain[:, axis], fresh[:, axis]])
        assert both.corrcoef()[0, 1] < 0.5


def test_white_noise_adds_the_variance_that_the_flow_carries_on(gaussian_flow):
    """A linear flow scales a deviation at t by s(1) / s(t), with s^2 = t^2 v + (1 - t)^2 along an
    axis of variance v: noise until t = 1/2 adds v times the integral of 1 / s^2.
    """
    noisy = sample(gaussian_flow, StepNoise(1.0, end=0.5))
    variances, axes = torch.linalg.eigh(gaussian_flow.covariance)
    expected = [
        v * (1 + quad(lambda t, v=v: 1 / (t**2 * v + (1 - t) ** 2), 0, 0.5)[0])
        for v in variances.tolist()
    ]
    # 5 standard errors of a variance from N draws, and one step of 1/64 for the quadrature.
    bound = 5 * (2 / N) ** 0.5 + 1 / 64
    actual = (noisy @ axes).var(0)
    torch.testing.assert_close(actual, actual.new_tensor(expected), rtol=bound, atol=0)


@pytest.mark.parametrize("step", [0.05, 0.5])
def test_refreshing_keeps_the_law_of_a_gaussian_at_any_step(gaussian_flow, step):
    flow = gaussian_flow
    t, h = (torch.tensor(value, dtype=torch.float64) for value in (0.4, step))
    signal, width = (part.item() for part in flow.field.path.schedule(t[None]))
    law = signal**2 * flow.covariance + width**2 * torch.eye(3, dtype=torch.float64)
    x = signal * flow.mean + flow.source(N) @ torch.linalg.cholesky(law).T
    fresh = Refresh(2.0, start=0.0).perturb(flow.field, t, h, x, flow.setting())
    # 5 standard errors of a mean and of a covariance from N draws.
    variance = law.diagonal()
    assert ((fresh.mean(0) - signal * flow.mean).abs() < 5 * (variance / N).sqrt()).all()
    error = (2 * torch.outer(variance, variance) / N).sqrt()
    assert ((fresh.T.cov() - law).abs() < 5 * error).all()
    assert (fresh - x).var(0).min() > 0.1 * step


class Atoms:
    """Exact prediction for targets that are a few points of a sphere, each as likely."""

    def __init__(self, path, points):
        self.path, self.points = path, points

    def __call__(self, t, x):
        kappa = self.path.kappa(t)[:, None]
        cos = x @ self.points.T
        psi = cos.clamp(-1, 1).acos()
        # Angle between target and source, of density sin^(d - 2), and hardly any beyond pi.
        theta = (psi / kappa).clamp(max=math.pi - 1e-3)
        weight = ((x.shape[1] - 2) * (theta.sin().log() - psi.sin().log())).softmax(1)
        # The tangent part of this, times rate of the path, is the mean of the logarithms.
        phi = kappa * (math.pi / 2)
        return phi.sin() / phi * (weight * psi / psi.sin()) @ self.points


def test_refreshing_keeps_the_law_on_spheres_of_few_dimensions(draw_points, generator):
    manifold = ProductManifold([SphereBlock(1, 4)])
    path = GeodesicPath(manifold, sigma=1e-3)
    pole = torch.eye(4, dtype=torch.float64)[0]
    points = manifold.projx(pole + 0.7 * draw_points(manifold, 50))
    field = FlowField(path, Atoms(path, points))

    class Certain:
        """Of a target that the prediction leaves no doubt about; steps are small."""

        def apply_covariance(self, t, v, condition=None, *, power=1.0):
            return torch.zeros_like(v)

    setting = Setting(
        lambda x: x, lambda x: x, torch.add, Certain(), manifold.unit_scale, generator
    )
    t, h = (torch.tensor(value, dtype=torch.float64) for value in (0.5, 0.02))
    n = 5000
    chosen = points[torch.randint(len(points), (n,), generator=generator)]
    x = path.sample(t.expand(n), draw_points(manifold, n), chosen).x_t
    before = (x @ pole).mean().item()
    for _ in range(10):
        x = Refresh(1.0, start=0.0).perturb(field, t, h, x, setting)
    # Exact up to the second order in 1 / d: the formula of flat space is off by .048.
    assert (x @ pole).mean().item() == pytest.approx(before, abs=0.02)


@pytest.mark.parametrize("kind", [StepNoise, Refresh])
def test_noise_stays_on_the_manifold(kind, product, draw_points, prescribed_field, generator):
    field = prescribed_field(product, lambda t, x: torch.zeros_like(x))
    field.predict = lambda t, x: x
    x = draw_points(product, 10)
    gaussian = AffineDenoiser(draw_points(product, 50), None, field.path.schedule)
    scale = product.unit_scale
    setting = Setting(lambda x: x, lambda x: x, torch.add, gaussian, scale, generator)
    t, h = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 0.1))
    moved = kind(1.0, start=0.0).perturb(field, t, h, x, setting)
    torch.testing.assert_close(product.projx(moved), moved, atol=1e-15, rtol=1e-15)
    assert (product.dist(x, moved) > 0.01).all()
    after = torch.tensor(0.9, dtype=torch.float64)
    assert kind(1.0, start=0.0, end=0.5).perturb(field, after, h, x, setting) is x


def test_at_temperature_zero_nothing_is_drawn(gaussian_flow):
    flow = gaussian_flow
    t, h = (torch.tensor(value, dtype=torch.float64) for value in (0.4, 0.1))
    noise = Refresh(1.0, start=0.0, temperature=0.0)
    first, second = (
        noise.perturb(flow.field, t, h, flow.source(5), flow.setting(seed)) for seed in (0, 1)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", [StepNoise, Refresh])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "much"])
def test_wrong_noise_is_refused(kind, value):
    with pytest.raises(ValueError, match=f"{kind.__name__}: .* must be a positive number, got"):
        kind(value)
    with pytest.raises(ValueError, match="0 <= start < end <= 1, got 0.6 and 0.5"):
        kind(1.0, start=0.6, end=0.5)


def test_a_wrong_temperature_is_refused():
    with pytest.raises(ValueError, match=r"temperature must be a number in \[0, 1\], got 1.5"):
        Refresh(1.0, temperature=1.5)
