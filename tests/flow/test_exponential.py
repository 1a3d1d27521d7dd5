"""Exponential Euler steps are exact where the flow is Gaussian."""

import pytest
import torch

from bayesflow_nn.flow import FlowField, GaussianFlow, GeodesicPath, integrate
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold
from bayesflow_nn.velocity import ConditionalDenoiser

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
def source(generator):
    return torch.randn(4, 3, generator=generator, dtype=torch.float64) / SCALE


LABELS = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("condition", "strength"), [(None, 1.0), (LABELS, 1.0), (LABELS, 0.0)], ids=str
)
def test_one_step_is_the_whole_way(law, make_field, source, condition, strength):
    field = make_field(condition, strength)
    way = integrate(field, source, solver="rk4", n_steps=400)
    step = integrate(
        field, source, solver="exponential_euler", n_steps=1, gaussian=GaussianFlow(law, SCALE)
    )
    # rk4 with steps of 1 / 400, where rates are up to 1 / sigma = 1,000 at the very end: there the
    # last few steps err by about the width that is left, 1e-3, of which this is a small part.
    torch.testing.assert_close(step, way, atol=1e-4, rtol=0)


def test_a_stronger_condition_is_followed_too(law, make_field, source):
    """What is exaggerated is no Gaussian flow: steps converge to it."""
    field, gaussian = make_field(LABELS, 2.0), GaussianFlow(law, SCALE)
    way = integrate(field, source, solver="rk4", n_steps=400)
    errors = [
        (
            integrate(field, source, solver="exponential_euler", n_steps=n, gaussian=gaussian) - way
        ).norm()
        for n in (50, 100)
    ]
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)  # of the first order


def test_the_gaussian_must_be_given(make_field, source):
    with pytest.raises(ValueError, match="gaussian must be a GaussianFlow .* got None"):
        integrate(make_field(), source, solver="exponential_euler")
