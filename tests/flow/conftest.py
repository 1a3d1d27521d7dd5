"""Manifolds, prescribed velocity fields and the Gaussian flow that the flow tests share."""

import pytest
import torch
from torch import nn

from bayesflow_nn.flow import FlowField, GeodesicPath, Setting
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.velocity import AffineDenoiser

MANIFOLDS = {
    "euclidean": ProductManifold([EuclideanBlock(4)]),
    "sphere": ProductManifold([SphereBlock(1, 5)]),
    "product": ProductManifold(
        [SphereBlock(3, 4), EuclideanBlock(2), SphereBlock(1, 6), EuclideanBlock(1)]
    ),
}


class PrescribedField(FlowField):
    """A field whose velocity is a given function u(t, x) instead of a model's prediction."""

    def __init__(self, manifold, velocity):
        super().__init__(GeodesicPath(manifold, sigma=0.1), nn.Identity())
        self.velocity = velocity

    def __call__(self, t, x):
        return self.velocity(t, x)

    def target(self, t, x):
        return self.path.shift(t, self.velocity(t[0], x) - self.path.velocity(t, x, 0 * x))


@pytest.fixture
def prescribed_field():
    return PrescribedField


@pytest.fixture(params=MANIFOLDS)
def manifold(request):
    return MANIFOLDS[request.param]


@pytest.fixture
def product():
    return MANIFOLDS["product"]


@pytest.fixture
def sphere():
    """The sphere S^2."""
    return ProductManifold([SphereBlock(1, 3)])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def draw_points(generator):
    """Draw float64 points of a manifold from its source."""

    def draw(manifold, n):
        return manifold.random_source(n, generator=generator, dtype=torch.float64)

    return draw


@pytest.fixture
def skew_matrix(generator):
    """Make A = -A^T: x -> A x is a divergence-free field of rotations, tangent to every sphere."""

    def make(dim):
        matrix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        return matrix - matrix.T

    return make


class ExactFlow:
    """The exact flow from N(0, I) to a Gaussian in R^3, with fixed mean and covariance."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        points = 2 + torch.randn(400, 3, generator=generator, dtype=torch.float64) @ torch.diag(
            torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        )
        self.manifold = ProductManifold([EuclideanBlock(3)])
        path = GeodesicPath(self.manifold, sigma=1e-3)
        self.gaussian = AffineDenoiser(points, None, path.schedule)
        self.mean, self.covariance = points.mean(0), points.T.cov()
        self.field = FlowField(path, lambda t, x: self.gaussian(t, x).mean)

    def setting(self, seed=0):
        return Setting(
            to_weights=lambda x: x,
            project=lambda x: x,
            move=torch.add,
            gaussian=self.gaussian,
            scale=torch.ones(3, dtype=torch.float64),
            generator=torch.Generator().manual_seed(seed),
        )

    def source(self, n):
        generator = torch.Generator().manual_seed(2)
        return torch.randn(n, 3, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="session")
def gaussian_flow():
    return ExactFlow()
