"""FlowField: the velocity of a predictor, and its extension off the manifold."""

import pytest
import torch
from torch import nn

from bayesflow_nn.flow import FlowField, GeodesicPath


class Mixer(nn.Module):
    """Some smooth prediction that is neither tangent nor homogeneous."""

    def __init__(self, n_coordinates, generator):
        super().__init__()
        shape = (n_coordinates, n_coordinates)
        self.matrix = torch.randn(shape, generator=generator, dtype=torch.float64)

    def forward(self, t, x):
        return torch.sin(x @ self.matrix + t[:, None])


@pytest.fixture
def field(product, generator):
    return FlowField(GeodesicPath(product, sigma=0.1), Mixer(product.n_coordinates, generator))


@pytest.fixture
def x(product, draw_points):
    return draw_points(product, 10)


def test_the_velocity_is_tangent_and_depends_on_the_time(field, x):
    early, late = (field(torch.tensor(t, dtype=torch.float64), x) for t in (0.2, 0.6))
    # Rounding of a projection.
    torch.testing.assert_close(field.path.manifold.proju(x, early), early, atol=1e-14, rtol=1e-14)
    assert (early - late).norm(dim=1).min() > 0.1


def test_the_extension_is_constant_along_the_radii_of_spheres_only(field, x):
    t, on_sphere = torch.tensor(0.4, dtype=torch.float64), field.path.manifold.sphere_mask
    stretched = torch.where(on_sphere, 1.7 * x, x)
    torch.testing.assert_close(field.extended(t, stretched), field(t, x), atol=1e-14, rtol=1e-14)
    moved = torch.where(on_sphere, x, x + 1)
    assert (field.extended(t, moved) - field(t, x)).norm(dim=1).min() > 0.1


def test_denoise_is_that_of_the_path_at_the_end(field, x):
    t = torch.ones(10, dtype=torch.float64)
    expected = field.path.denoise(t, x, field.predictor(t, x))
    assert torch.equal(field.denoise(x), expected)
    assert not torch.equal(expected, x)
