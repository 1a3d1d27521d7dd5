"""Means of Gaussians on spheres, against integrals over the sphere and Bessel functions."""

import numpy as np
import pytest
import torch
from scipy.special import ive

from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.velocity.sphere_mean import condition_on_spheres

CONCENTRATIONS = np.logspace(-3, 4, 50)


@pytest.mark.parametrize("variance", [0.03, 0.3, 3.0])
def test_it_is_the_mean_of_the_gaussian_over_the_circle(variance):
    mean = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    angle = torch.arange(10_000, dtype=torch.float64) * (2 * torch.pi / 10_000)
    circle = 2**0.5 * torch.stack([angle.cos(), angle.sin()], dim=1)
    log_density = -(circle - mean).square().sum(1) / (2 * variance)
    expected = log_density.softmax(0) @ circle
    width = torch.full((1, 1), variance, dtype=torch.float64)
    found = condition_on_spheres(ProductManifold([SphereBlock(1, 2)]), mean, width)[0]
    assert torch.allclose(found / found.norm(), expected / expected.norm(), rtol=1e-9)
    assert (1 - 0.1 / 2) * expected.norm() < found.norm() < expected.norm()


@pytest.mark.parametrize("dim", [2, 3, 5, 20, 65])
def test_its_length_is_below_the_ratio_of_bessel_functions_by_a_tenth_per_dimension(dim):
    expected = ive(dim / 2, CONCENTRATIONS) / ive(dim / 2 - 1, CONCENTRATIONS)
    mean = torch.zeros(len(CONCENTRATIONS), dim, dtype=torch.float64)
    mean[:, 0] = torch.as_tensor(CONCENTRATIONS) / dim**0.5
    width = torch.ones(len(CONCENTRATIONS), 1, dtype=torch.float64)
    manifold = ProductManifold([SphereBlock(1, dim)])
    found = condition_on_spheres(manifold, mean, width)[:, 0].numpy() / dim**0.5
    assert (found <= expected).all()
    assert (found >= (1 - 0.1 / dim) * expected).all()
    # Without evidence, and with much, it is exact.
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert 1 - found[-1] == pytest.approx(1 - expected[-1], rel=1e-3)


def test_euclidean_coordinates_stay_and_every_row_has_its_own_length():
    manifold = ProductManifold([EuclideanBlock(2), SphereBlock(2, 4), EuclideanBlock(1)])
    mean = torch.randn(3, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean[0, 2:6] = 0
    mean.requires_grad_()
    width = torch.full((3, 1), 1e-12, dtype=torch.float64)
    found = condition_on_spheres(manifold, mean, width)
    assert torch.equal(found[:, [0, 1, 10]], mean[:, [0, 1, 10]])
    lengths = found[:, 2:10].unflatten(1, (2, 4)).norm(dim=2)
    expected = torch.full((3, 2), 2.0, dtype=torch.float64)
    expected[0, 0] = 0  # without a direction there is none to go to
    assert torch.allclose(lengths, expected)
    found.sum().backward()
    assert mean.grad.isfinite().all()
