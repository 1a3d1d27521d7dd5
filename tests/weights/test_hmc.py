"""Hamiltonian Monte Carlo: its integrator, its adaptation, and posteriors in closed form."""

import numpy as np
import pytest
import torch

from bayesflow_nn.weights import Architecture, Normal
from bayesflow_nn.weights.adaptation import DualAveraging, RunningMoments
from bayesflow_nn.weights.chains import Position
from bayesflow_nn.weights.hmc import HMC, leapfrog
from bayesflow_nn.weights.log_posterior import LogPosterior


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


class Gaussian:
    """Independent normal coordinates with the given standard deviations."""

    def __init__(self, scales):
        self.variances = torch.tensor(scales, dtype=torch.float64).square()

    def value_and_gradient(self, x):
        return -(x.square() / self.variances).sum(1) / 2, -x / self.variances


def network_posterior():
    X = draw(20, 3, seed=5)
    return LogPosterior(Architecture.mlp([3, 4, 2], "tanh"), X, (X[:, 0] > 0).long(), prior=1.0)


def energy(trajectory, inverse_mass):
    position, momentum = trajectory
    return (momentum.square() * inverse_mass).sum(1) / 2 - position.value


def integrate(target, start, momentum, step, n_steps):
    inverse_mass = 0.5 + draw(*momentum.shape, seed=9).square()
    end = leapfrog(
        target,
        start,
        momentum,
        step_size=torch.full_like(start.value, step),
        inverse_mass=inverse_mass,
        n_steps=n_steps,
    )
    return end, energy(end, inverse_mass) - energy((start, momentum), inverse_mass)


def test_the_leapfrog_comes_back_when_the_momentum_is_turned():
    target = network_posterior()
    start, momentum = Position.at(target, draw(6, 26)), draw(6, 26, seed=1)
    there, _ = integrate(target, start, momentum, 0.05, 20)
    back, _ = integrate(target, there.position, -there.momentum, 0.05, 20)
    assert (there.position.weights - start.weights).abs().max() > 0.1
    torch.testing.assert_close(back.position.weights, start.weights, rtol=0, atol=1e-11)
    torch.testing.assert_close(-back.momentum, momentum, rtol=0, atol=1e-11)


def test_the_energy_error_is_of_second_order():
    target = network_posterior()
    start, momentum = Position.at(target, draw(50, 26)), draw(50, 26, seed=1)
    errors = [
        integrate(target, start, momentum, 0.4 / n, n)[1].square().mean().sqrt().item()
        for n in (8, 16, 32)
    ]
    order = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(order, 2, atol=0.1)


def test_step_sizes_and_masses_are_learnt_by_every_chain():
    scales = torch.logspace(-0.7, 0.7, 50).tolist()
    chains = HMC(
        Gaussian(scales), draw(100, 50) * 0.1, seeded(), target_acceptance=0.7, n_leapfrog=8
    )
    chains.tune(400)
    acceptance = torch.stack([chains.step().acceptance for _ in range(50)]).mean(0)
    # The averaged step size is known to be a little careful; a chain's own scatters by 0.05.
    assert acceptance.mean().item() == pytest.approx(0.7, abs=0.1)
    assert acceptance.min() > 0.5
    ratio = chains.inverse_mass.median(0).values.sqrt() / torch.tensor(scales)
    # From 200 correlated positions; without adaptation the ratios would reach from 1/5 to 5.
    assert (ratio - 1).abs().max() < 0.2


def test_dual_averaging_solves_for_the_step_size():
    averaging = DualAveraging(torch.full((50,), 3.0, dtype=torch.float64), 0.8)
    generator = seeded()
    for _ in range(3000):
        noise = torch.rand(50, generator=generator, dtype=torch.float64) - 0.5
        averaging.update((-averaging.step_size).exp() + 0.2 * noise)
    # e^-step = 0.8
    expected = torch.full((50,), -np.log(0.8), dtype=torch.float64)
    torch.testing.assert_close(averaging.averaged_step_size, expected, rtol=0.15, atol=0)


def test_running_moments_are_those_of_the_whole_series():
    series = draw(50, 3, 4)
    moments = RunningMoments(series[0])
    for positions in series:
        moments.update(positions)
    torch.testing.assert_close(moments.variance(), series.var(0))
    # Pooled, all positions of all chains are one series, whatever chain they are of.
    torch.testing.assert_close(moments.pool().variance()[0], series.flatten(0, 1).var(0))


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


def test_linear_regression_has_its_closed_form():
    target, mean, covariance = regression()
    chains = HMC(target, draw(500, 4) * 2, seeded(1), n_leapfrog=8)
    chains.tune(150)
    draws = []
    for _ in range(60):
        assert not chains.step().diverging.any()
        draws.append(chains.position.weights)
    draws = torch.stack(draws, 1)
    # Chains are independent: the scatter of their means is the Monte Carlo error.
    error = draws.mean(1).std(0) / len(draws) ** 0.5
    assert ((draws.mean((0, 1)) - mean).abs() / error).max() < 3
    # 500 chains x 60 draws: even one effective draw in 6 gives variances to 2 %.
    variance = (draws - mean).square().mean((0, 1))
    torch.testing.assert_close(variance, covariance.diagonal(), rtol=0.05, atol=0)


def test_a_wall_diverges_and_is_not_crossed():
    class Wall:
        def value_and_gradient(self, x):
            outside = (x.abs() > 1).any(1)
            value = torch.where(outside, -torch.inf, torch.zeros_like(x[:, 0]))
            return value, torch.zeros_like(x)

    chains = HMC(Wall(), torch.zeros(300, 2).double(), seeded(), n_leapfrog=4, step_size=0.3)
    n_diverging = 0
    for _ in range(30):
        transition = chains.step()
        n_diverging += int(transition.diverging.sum())
        assert torch.equal(transition.diverging, transition.acceptance == 0)
        assert chains.position.weights.abs().max() <= 1
    assert n_diverging > 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_leapfrog": 0}, "n_leapfrog must be an integer of at least 1"),
        ({"target_acceptance": 1.0}, "target_acceptance must lie between 0 and 1, got 1.0"),
        ({"step_size": 0.0}, "step_size must be finite and > 0"),
    ],
)
def test_bad_parameters_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        HMC(Gaussian([1.0]), torch.zeros(2, 1).double(), seeded(), **options)
