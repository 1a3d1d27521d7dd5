"""The divergence of output clouds against sums over kernels, and against an integral."""

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm

from bayesflow_nn.diversity import output_density_jsd

BANDWIDTH = 0.2


def draw(n_networks, seed, n_inputs=15, n_classes=3):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(n_classes), (n_networks, n_inputs))


def density(cloud, x):
    d = cloud.shape[1]
    kernels = np.exp(-np.square(x - cloud).sum(1) / (2 * BANDWIDTH**2))
    return kernels.mean() / (2 * np.pi * BANDWIDTH**2) ** (d / 2)


def divergence(a, b):
    total = 0.0
    for own, other in ((a, b), (b, a)):
        for x in own:
            p, q = density(own, x), density(other, x)
            total += np.log(2 * p / (p + q)) / len(own) / 2
    return max(total, 0.0)


@pytest.mark.parametrize("with_reference", [False, True])
def test_every_pair_is_that_of_a_loop(with_reference):
    p, q = draw(4, 0), draw(3, 1)
    found = output_density_jsd(p, q if with_reference else None, bandwidth=BANDWIDTH)
    other = q if with_reference else p
    expected = [[divergence(a, b) for b in other] for a in p]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_chunks_and_kernels_that_underflow_change_nothing():
    """At a bandwidth of 0.01 most kernels are below the smallest float, and those add nothing.

    Clouds that do not overlap are log 2 apart.
    """
    p = np.array([[[1.0, 0.0], [0.9, 0.1]], [[0.0, 1.0], [0.1, 0.9]]])
    found = output_density_jsd(p, bandwidth=0.01, chunk_size=1)
    np.testing.assert_allclose(found, np.log(2) * (1 - np.eye(2)), atol=1e-12)
    q = draw(3, 2)
    chunked = output_density_jsd(draw(4, 0), q, chunk_size=7)
    np.testing.assert_allclose(chunked, output_density_jsd(draw(4, 0), q), atol=1e-12)


def test_it_estimates_the_divergence_of_the_densities():
    """For two classes a cloud lies on a line, along which its density can be integrated."""
    rng = np.random.default_rng(0)
    a, b = rng.beta(2, 5, 4000), rng.beta(5, 2, 4000)
    clouds = [np.stack([x, 1 - x], 1)[None] for x in (a, b)]
    found = output_density_jsd(*clouds, bandwidth=BANDWIDTH).item()
    # Smoothed by the kernel, whose width along the line is that of one of the two coordinates
    # over the root of two: in units of x.
    width = BANDWIDTH / np.sqrt(2)
    grid = np.linspace(-1.5, 2.5, 801)
    p, q = (norm.pdf(grid[:, None], x[None, ::10], width).mean(1) for x in (a, b))
    m = (p + q) / 2

    def integral(p):
        return trapezoid(np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / m), 0.0), grid)

    smoothed = (integral(p) + integral(q)) / 2
    # The expectation is over the points themselves, not over their kernels: these are less spread
    # out, and the clouds a little further apart.
    assert smoothed < found < smoothed + 0.1


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="bandwidth must be finite and > 0"):
        output_density_jsd(draw(2, 0), bandwidth=0.0)
    with pytest.raises(ValueError, match="chunk_size must be an integer"):
        output_density_jsd(draw(2, 0), chunk_size=0)
    with pytest.raises(ValueError, match="about the same inputs"):
        output_density_jsd(draw(2, 0), draw(2, 0, n_inputs=4))
