"""Stochastic sampling of a Gaussian flow: what is preserved and what is widened."""

import pytest
import torch
from scipy.integrate import quad

from bayesflow_nn.flow import Integrator, Refresh, StepNoise

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
    plain, fresh = sample(gaussian_flow, None), sample(gaussian_flow, Refresh(3.0))
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


@pytest.mark.parametrize("kind", [StepNoise, Refresh])
def test_noise_stays_on_the_manifold(kind, product, draw_points, prescribed_field, generator):
    field = prescribed_field(product, lambda t, x: torch.zeros_like(x))
    field.predict = lambda t, x: x
    x = draw_points(product, 10)
    t, h = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 0.1))
    moved = kind(1.0).perturb(field, t, h, x, generator)
    torch.testing.assert_close(product.projx(moved), moved, atol=1e-15, rtol=1e-15)
    assert (product.dist(x, moved) > 0.01).all()
    after = torch.tensor(0.9, dtype=torch.float64)
    assert kind(1.0, end=0.5).perturb(field, after, h, x, generator) is x


@pytest.mark.parametrize("kind", [StepNoise, Refresh])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "much"])
def test_wrong_noise_is_refused(kind, value):
    with pytest.raises(ValueError, match=f"{kind.__name__}: .* must be a positive number, got"):
        kind(value)
    with pytest.raises(ValueError, match="0 <= start < end <= 1, got 0.6 and 0.5"):
        kind(1.0, start=0.6, end=0.5)
