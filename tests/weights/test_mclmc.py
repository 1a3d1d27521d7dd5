"""Microcanonical Langevin Monte Carlo: its integrators, its tuning, posteriors in closed form."""

import numpy as np
import pytest
import torch

from bayesflow_nn.weights import Architecture, Normal
from bayesflow_nn.weights.adaptation import StepSizes, correlation_time
from bayesflow_nn.weights.chains import Position
from bayesflow_nn.weights.log_posterior import LogPosterior
from bayesflow_nn.weights.mclmc import INTEGRATORS, MCLMC, fly


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def unit(u):
    return u / u.norm(dim=1, keepdim=True)


class Gaussian:
    """Standard normal weights."""

    def value_and_gradient(self, x):
        return -x.square().sum(1) / 2, -x


def network_posterior():
    X = draw(20, 3, seed=5)
    return LogPosterior(Architecture.mlp([3, 4, 2], "tanh"), X, (X[:, 0] > 0).long(), prior=1.0)


def fly_for(target, start, velocity, step, n_steps, integrator):
    total = 0
    for _ in range(n_steps):
        start, velocity, error = fly(
            target,
            start,
            velocity,
            step_size=torch.full_like(start.value, step),
            integrator=integrator,
        )
        total = total + error
    return start, velocity, total


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_flight_comes_back_when_the_velocity_is_turned(integrator):
    target = network_posterior()
    start, velocity = Position.at(target, draw(6, 26)), unit(draw(6, 26, seed=1))
    there, u, error = fly_for(target, start, velocity, 0.1, 20, integrator)
    back, u_back, error_back = fly_for(target, there, -u, 0.1, 20, integrator)
    assert (there.weights - start.weights).norm(dim=1).min() > 0.5
    torch.testing.assert_close(back.weights, start.weights, rtol=0, atol=1e-10)
    torch.testing.assert_close(-u_back, velocity, rtol=0, atol=1e-10)
    torch.testing.assert_close(error_back, -error, rtol=0, atol=1e-9)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_energy_error_is_of_second_order(integrator):
    target = network_posterior()
    start, velocity = Position.at(target, draw(50, 26)), unit(draw(50, 26, seed=1))
    errors = [
        fly_for(target, start, velocity, 2.0 / n, n, integrator)[2].square().mean().sqrt().item()
        for n in (16, 32, 64)
    ]
    order = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(order, 2, atol=0.1)


def test_a_flight_solves_the_differential_equation():
    target = network_posterior()
    start, velocity = Position.at(target, draw(4, 26)), unit(draw(4, 26, seed=1))
    end, u, _ = fly_for(target, start, velocity, 1e-3, 500, "minimal_norm")
    x, v, h = start.weights, velocity, 0.5 / 50

    def field(x, v):
        gradient = target.value_and_gradient(x)[1]
        return v, (gradient - v * (v * gradient).sum(1, keepdim=True)) / 25

    for _ in range(50):  # the classical Runge-Kutta method, of fourth order
        k_1 = field(x, v)
        k_2 = field(x + h / 2 * k_1[0], v + h / 2 * k_1[1])
        k_3 = field(x + h / 2 * k_2[0], v + h / 2 * k_2[1])
        k_4 = field(x + h * k_3[0], v + h * k_3[1])
        x = x + h / 6 * (k_1[0] + 2 * k_2[0] + 2 * k_3[0] + k_4[0])
        v = v + h / 6 * (k_1[1] + 2 * k_2[1] + 2 * k_3[1] + k_4[1])
    torch.testing.assert_close(end.weights, x, rtol=0, atol=1e-6)
    torch.testing.assert_close(u, v, rtol=0, atol=1e-6)


def test_velocities_stay_unit_vectors_under_huge_gradients():
    class Cliff:
        def value_and_gradient(self, x):
            return -1e6 * x.square().sum(1), -2e6 * x

    target = Cliff()
    start = Position.at(target, draw(5, 4) * 100)
    end = fly(
        target,
        start,
        unit(draw(5, 4, seed=1)),
        step_size=torch.full((5,), 10.0, dtype=torch.float64),
        integrator="leapfrog",
    )
    torch.testing.assert_close(end.velocity.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert end.energy_error.isfinite().all()


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_tuning_reaches_the_energy_variance(integrator):
    chains = MCLMC(Gaussian(), draw(100, 50), seeded(), energy_variance=1e-3, integrator=integrator)
    chains.tune(900)
    errors = torch.stack([chains.step().energy_error for _ in range(300)])
    variance = errors.square().mean(0) / 50
    # The step size is its sixth root: even a factor of 2 is 12 % of the size.
    assert 0.5e-3 < variance.median() < 2e-3
    # Normal weights that forget after n steps: L = 0.4 n step sizes, below the radius root(50).
    assert 0.1 < (chains.length / 50**0.5).median() < 1.5


def test_step_sizes_follow_a_power_law():
    sizes = StepSizes(torch.full((20,), 0.01, dtype=torch.float64), variance=0.04)
    generator = seeded()
    for _ in range(1000):
        z = torch.randn(20, generator=generator, dtype=torch.float64)
        sizes.update(5 * sizes.step_size**3 * z, torch.zeros(20, dtype=torch.bool))
    # 5 size^3 = 0.2; the sixth root of a variance from hundreds of errors scatters by 2 %.
    expected = torch.full((20,), 0.04 ** (1 / 3), dtype=torch.float64)
    torch.testing.assert_close(sizes.step_size, expected, rtol=0.12, atol=0)


def test_correlation_times_are_those_of_an_autoregression():
    phi, noise = torch.tensor([0.0, 0.5, 0.9]).double(), draw(20, 4000, 3)
    series = [noise[:, 0] / (1 - phi**2).sqrt()]
    for i in range(1, 4000):
        series.append(phi * series[-1] + noise[:, i])
    time = correlation_time(torch.stack(series, 1)).mean(0)
    torch.testing.assert_close(time, (1 + phi) / (1 - phi), rtol=0.1, atol=0)
    assert torch.equal(correlation_time(torch.ones(1, 10, 1)), torch.ones(1, 1))


def regression():
    """Data of a Bayesian linear regression, with the closed form of its posterior."""
    X = draw(40, 3, seed=3) * torch.tensor([1.0, 2.0, 0.3])
    y = X @ torch.tensor([1.0, -0.5, 2.0]).double() + 0.7 + 0.5 * draw(40, seed=4)
    design = torch.cat([X, torch.ones(40, 1)], 1).double()
    precision = design.T @ design / 0.5**2 + torch.eye(4) / 2.0**2
    covariance = precision.inverse()
    mean = covariance @ (design.T @ y) / 0.5**2
    target = LogPosterior(Architecture.mlp([3, 1]), X, y, prior=2.0, likelihood=Normal(0.5))
    return target, mean, covariance


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_linear_regression_has_its_closed_form(integrator):
    target, mean, covariance = regression()
    start = mean + draw(1000, 4)
    options = {"energy_variance": 1e-4, "integrator": integrator}
    chains = MCLMC(target, start, seeded(1), **options)
    chains.tune(400)
    draws = []
    for _ in range(400):
        assert not chains.step().diverging.any()
        draws.append(chains.position.weights)
    draws = torch.stack(draws, 1)
    # Chains are independent: the scatter of their means is the Monte Carlo error.
    error = draws.mean(1).std(0) / len(draws) ** 0.5
    assert ((draws.mean((0, 1)) - mean).abs() / error).max() < 3
    # 1000 chains with 10 or more effective draws: variances to 1.5 %, and the bias of the steps.
    variance = (draws - mean).square().mean((0, 1))
    torch.testing.assert_close(variance, covariance.diagonal(), rtol=0.05, atol=0)


def test_a_failed_step_is_taken_back():
    class Wall(Gaussian):
        def value_and_gradient(self, x):
            value, gradient = super().value_and_gradient(x)
            return torch.where((x.abs() > 0.5).any(1), torch.nan, value), gradient

    chains = MCLMC(Wall(), torch.zeros(50, 3).double(), seeded(), step_size=0.2)
    n_failed = 0
    for _ in range(30):
        before = chains.position.weights
        transition = chains.step()
        failed = transition.diverging
        n_failed += int(failed.sum())
        assert torch.equal(chains.position.weights[failed], before[failed])
        assert torch.equal(transition.acceptance, (~failed).double())
        assert chains.position.value.isfinite().all()
    assert n_failed > 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"energy_variance": 0.0}, "energy_variance must be finite and > 0"),
        ({"integrator": "euler"}, "integrator must be one of"),
        ({"step_size": -1.0}, "step_size must be finite and > 0"),
        ({"length": 0.0}, "length must be finite and > 0"),
        ({"weights": torch.zeros(3, 1)}, "weights must be at least two per network, got 1"),
    ],
)
def test_bad_parameters_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        MCLMC(Gaussian(), **{"weights": torch.zeros(3, 2), "generator": seeded(), **options})
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 0"):
        MCLMC(Gaussian(), torch.zeros(3, 2), seeded()).tune(-1)
