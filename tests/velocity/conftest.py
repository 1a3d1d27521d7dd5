"""Populations of random networks, and the velocity problems that they pose."""

import pytest
import torch

from bayesflow_nn.flow import GeodesicPath
from bayesflow_nn.geometry import SphereBlock
from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity import VelocityProblem
from bayesflow_nn.weights import Architecture

SIGMA = 1e-3
N_NETWORKS = 60


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def make_problem(generator):
    """Pose the problem of 60 random networks, 20 of them held out, in float64."""

    def make(architecture, geometry="product_sphere", *, pooled=False, inputs=None, seed=0):
        shape = (N_NETWORKS, architecture.n_weights)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        shift = architecture.is_mlp
        chart = WeightChart(architecture, geometry, logit_shift=shift, pooled=pooled).fit(weights)
        points, manifold = chart.to_point(weights), chart.manifold
        path = GeodesicPath(manifold, SIGMA)
        radii = [
            torch.full((block.n_coordinates,), block.dim if isinstance(block, SphereBlock) else 1)
            for block in manifold.blocks
        ]
        return VelocityProblem(
            points=points[20:],
            held_out=points[:20],
            chart=chart,
            inputs=inputs,
            scale=torch.cat(radii).double().sqrt(),
            schedule=path.schedule,
            generator=torch.Generator().manual_seed(seed),
        )

    return make


@pytest.fixture
def problem(make_problem):
    """One hidden layer on the product of spheres."""
    return make_problem(Architecture.mlp([4, 5, 3]))


@pytest.fixture
def draw_noisy(generator):
    """Draw times and noisy points, in the coordinates of about unit variance of a problem."""

    def draw(problem, n=6):
        t = torch.rand(n, generator=generator, dtype=torch.float64)
        x_0, x_1 = (
            problem.chart.manifold.random_source(n, generator, torch.float64) for _ in range(2)
        )
        path = GeodesicPath(problem.chart.manifold, SIGMA)
        return t, path.sample(t, x_0, x_1).x_t * problem.scale

    return draw
