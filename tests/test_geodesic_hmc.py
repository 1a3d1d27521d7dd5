"""Hamiltonian Monte Carlo on spheres and flat blocks: its integrator, and laws in closed form."""

import numpy as np
import pytest
import torch

from bayesflow_nn.geodesic_hmc import GeodesicHMC
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.weights.hmc import HMC

MANIFOLD = ProductManifold([SphereBlock(2, 3), EuclideanBlock(2)])
DIRECTIONS = torch.tensor([[3.0, 0, 0, 0, -1.5, 0]], dtype=torch.float64)
SCALES = torch.tensor([0.5, 4.0], dtype=torch.float64)


class FisherAndNormal:
    """Von Mises-Fisher laws of concentrations 3 and 1.5 on two spheres, beside normal numbers."""

    def value_and_gradient(self, x):
        sphere, flat = x[:, :6], x[:, 6:]
        value = (sphere * DIRECTIONS).sum(1) - (flat / SCALES).square().sum(1) / 2
        return value, torch.cat([DIRECTIONS.expand_as(sphere), -flat / SCALES.square()], 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def start(n):
    noise = torch.randn(n, 8, generator=seeded(1), dtype=torch.float64)
    return MANIFOLD.projx(noise)


def chains_at(x, **options):
    return GeodesicHMC(FisherAndNormal(), x, seeded(), MANIFOLD, **options)


def trajectory(chains, momentum, step, n_steps):
    step_size = torch.full_like(chains.position.value, step)
    return chains._integrate(chains.position, momentum, step_size, n_steps)


def test_points_stay_on_the_manifold_and_momenta_tangent():
    chains = chains_at(start(10))
    end, momentum = trajectory(chains, chains._draw_momentum(), 0.1, 30)
    MANIFOLD.check_points(end.weights)
    torch.testing.assert_close(MANIFOLD.projx(end.weights), end.weights)
    torch.testing.assert_close(MANIFOLD.proju(end.weights, momentum), momentum)


def test_trajectories_come_back_when_the_momentum_is_turned():
    chains = chains_at(start(10))
    end, momentum = trajectory(chains, chains._draw_momentum(), 0.1, 30)
    assert (end.weights - start(10)).abs().amax() > 0.5
    back, _ = trajectory(chains_at(end.weights), -momentum, 0.1, 30)
    torch.testing.assert_close(back.weights, start(10), rtol=0, atol=1e-12)


def test_the_energy_error_is_of_second_order():
    chains = chains_at(start(50))
    momentum = chains._draw_momentum()
    before = chains._energy(chains.position, momentum)
    errors = [
        (chains._energy(*trajectory(chains, momentum, 0.4 / n, n)) - before).abs().mean()
        for n in (8, 16, 32, 64)
    ]
    order = np.polyfit(np.log([8, 16, 32, 64]), np.log(np.array(errors)), 1)[0]
    assert order == pytest.approx(-2, abs=0.1)


def test_on_flat_space_it_is_the_sampler_of_flat_space():
    class Normal:
        def value_and_gradient(self, x):
            return -x.square().sum(1) / 2, -x

    x = torch.randn(20, 3, generator=seeded(2), dtype=torch.float64)
    flat = HMC(Normal(), x, seeded())
    same = GeodesicHMC(Normal(), x, seeded(), ProductManifold([EuclideanBlock(3)]))
    for _ in range(5):
        flat.step()
        same.step()
        torch.testing.assert_close(same.position.weights, flat.position.weights)


def test_masses_are_one_number_per_sphere():
    chains = chains_at(start(5))
    chains.tune(60)
    mass = chains.inverse_mass
    spheres = mass[:, :6].unflatten(1, (2, 3))
    torch.testing.assert_close(spheres, spheres[:, :, :1].expand_as(spheres))
    # The flat coordinates have standard deviations of .5 and 4.
    assert (mass[:, 7] > mass[:, 6]).all()


def test_chains_learn_from_each_other():
    """Positions of one chain say little after a few steps, those of a thousand chains enough."""
    points = start(1000)
    points[:, 6:] *= SCALES
    chains = chains_at(points)
    chains.tune(24)
    for shared in (chains.step_size, *chains.inverse_mass.T):
        assert (shared == shared[0]).all()
    ratio = chains.inverse_mass[0, 7] / chains.inverse_mass[0, 6]
    # A thousand independent numbers know a variance to 4.5 %, and the ratio of two to 6.3 %.
    assert ratio.item() == pytest.approx((4 / 0.5) ** 2, rel=0.25)


def test_trajectories_that_leave_the_region_are_rejected():
    def is_positive(x):
        return x[:, 6] > 0

    x = start(400)
    x[:, 6] = x[:, 6].abs()
    chains = GeodesicHMC(FisherAndNormal(), x, seeded(), MANIFOLD, is_positive, n_leapfrog=8)
    chains.tune(40)
    for _ in range(10):
        chains.step()
        assert is_positive(chains.position.weights).all()
    # What remains of a normal law is the half-normal one, of mean .5 sqrt(2 / pi).
    values = chains.position.weights[:, 6]
    error = values.std().item() / np.sqrt(400)
    assert values.mean().item() == pytest.approx(0.5 * np.sqrt(2 / np.pi), abs=4 * error)


def test_moments_are_those_of_the_laws():
    chains = chains_at(start(2000), n_leapfrog=8)
    chains.tune(60)
    for _ in range(10):
        chains.step()
    x = chains.position.weights
    # The mean resultant of a Fisher law of concentration k is coth k - 1 / k.
    for column, k in ((0, 3.0), (4, -1.5)):
        expected = 1 / np.tanh(k) - 1 / k
        error = x[:, column].std().item() / np.sqrt(2000)
        assert x[:, column].mean().item() == pytest.approx(expected, abs=4 * error)
    # The relative error of a variance of 2,000 independent normal numbers is .032.
    variance = x[:, 6:].var(0) / SCALES.square()
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=0.13)
