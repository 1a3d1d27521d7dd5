"""Exponential Euler steps are exact where the flow is Gaussian."""

import pytest
import torch

from bayesflow_nn.flow import FlowField, GaussianFlow, GeodesicPath, integrate
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.velocity import AffineDenoiser, ConditionalDenoiser

SCALE = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)


@pytest.fixture
def path():
    return GeodesicPath(ProductManifold([EuclideanBlock(3)]), sigma=1e-3)


@pytest.fixture
def law(generator, path):
    """Two labels around 0 and 4, in coordinates of about unit variance."""
    label = torch.arange(300) % 2
    x = torch.randn(300, 3, generator=generator, dtype=torch.float64) + 4 * label[:, None]
    features = torch.stack([torch.ones(300), label == 0, label == 1], dim=1).double()
    return ConditionalDenoiser(x, None, features, None, path.schedule)


@pytest.fixture
def make_field(path, law):
    """The flow of the law, whose prediction is that of the Gaussian and nothing else."""

    def make(condition=None, strength=1.0):
        def predict(t, x, condition=None):
            return law(t, x * SCALE, condition).mean / SCALE

        return FlowField(path, predict, condition, strength)

    return make


@pytest.fixture
def step(law):
    """Take equal steps."""

    def take(field, x, n_steps):
        gaussian = GaussianFlow(law, SCALE)
        return integrate(field, x, solver="exponential_euler", n_steps=n_steps, gaussian=gaussian)

    return take


@pytest.fixture
def source(generator):
    return torch.randn(4, 3, generator=generator, dtype=torch.float64) / SCALE


LABELS = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("condition", "strength"), [(None, 1.0), (LABELS, 1.0), (LABELS, 0.0)], ids=str
)
def test_one_step_is_the_whole_way(law, step, make_field, source, condition, strength):
    field = make_field(condition, strength)
    way = integrate(field, source, solver="rk4", n_steps=400)
    end = step(field, source, 1)
    torch.testing.assert_close(end, way, atol=1e-8, rtol=0)  # of rk4: 1 / 400 to the fourth power
    start, known = torch.zeros(4, dtype=torch.float64), condition if strength else None
    expected = law.transport(start, source * SCALE, known)
    torch.testing.assert_close(law.transport(start + 1, end * SCALE, known), expected)


@pytest.mark.parametrize("strength", [0.1, 0.9, 2.0])
def test_the_nearest_gaussian_helps_at_any_strength(step, make_field, source, strength):
    """Neither law is that of the flow then, and the nearer one leaves the smaller rest."""
    field = make_field(LABELS, strength)
    way = integrate(field, source, solver="rk4", n_steps=400)
    plain = integrate(field, source, solver="euler", n_steps=8)
    assert (step(field, source, 8) - way).norm() < 0.5 * (plain - way).norm()
    errors = [(step(field, source, n) - way).norm() for n in (100, 200)]
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)  # of the first order


def test_blocks_beside_spheres_have_a_circular_schedule(generator):
    """The Euclidean part of a Gaussian whose two parts know nothing of each other."""
    manifold = ProductManifold([SphereBlock(1, 5), EuclideanBlock(3)])
    path = GeodesicPath(manifold, sigma=1e-2)
    points = torch.randn(9, 8, generator=generator, dtype=torch.float64)
    points = torch.cat([points, points * torch.tensor([-1.0] * 5 + [1.0] * 3)])  # uncorrelated
    law = AffineDenoiser(points, None, path.schedule)
    scale = manifold.unit_scale
    field = FlowField(path, lambda t, x: law(t, x * scale).mean / scale)
    source = manifold.random_source(4, generator=generator, dtype=torch.float64)
    way = integrate(field, source, solver="rk4", n_steps=400)
    end = GaussianFlow(law, scale).step(field, *torch.tensor([0.0, 1.0]).double(), source)
    torch.testing.assert_close(end[:, 5:], way[:, 5:], atol=1e-6, rtol=0)
    torch.testing.assert_close(manifold.projx(end), end)


def test_the_gaussian_must_be_given(make_field, source):
    with pytest.raises(ValueError, match="gaussian must be a GaussianFlow .* got None"):
        integrate(make_field(), source, solver="exponential_euler")
