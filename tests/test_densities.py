"""Densities of trained flows: they integrate to one, and come close to the law of the data."""

import functools

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm, qmc, vonmises_fisher

from bayesflow_nn import Architecture, FlowPosterior
from bayesflow_nn.velocity import MLPVelocity

SMALL = functools.partial(MLPVelocity, hidden_size=64, n_blocks=2)
FAST = {"velocity": SMALL, "task": "regression", "alignment": None, "random_state": 0}
KAPPA = 4.0


@pytest.fixture(scope="module")
def directions():
    """Directions of a von Mises-Fisher law on S^2, and the law."""
    law = vonmises_fisher(mu=[0.6, 0.0, 0.8], kappa=KAPPA)
    return law, law.rvs(20_000, random_state=np.random.default_rng(0))


@pytest.fixture(scope="module")
def on_sphere(directions):
    """Networks without bias or scale: their direction is all there is of them."""
    linear = Architecture.mlp([3, 1], bias=False)
    posterior = FlowPosterior(
        architecture=linear, output_layer="sphere", max_iter=1500, learning_rate=2e-3, **FAST
    )
    return posterior.fit(directions[1])


@pytest.fixture(scope="module")
def sphere_grid():
    """Points of S^2 and their areas: Gauss-Legendre in height, equal angles around."""
    heights, weights = np.polynomial.legendre.leggauss(20)
    azimuths = 2 * np.pi * np.arange(40) / 40
    z, phi = (grid.ravel() for grid in np.meshgrid(heights, azimuths, indexing="ij"))
    radius = np.sqrt(1 - z**2)
    points = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=1)
    return points, np.repeat(weights, 40) * (2 * np.pi / 40)


def test_on_the_sphere_it_is_the_law_of_the_data(directions, on_sphere, sphere_grid):
    law = directions[0]
    points, area = sphere_grid
    assert area @ np.exp(on_sphere.log_prob(points)) == pytest.approx(1, abs=0.01)
    new = law.rvs(1000, random_state=np.random.default_rng(1))
    assert abs((on_sphere.log_prob(new) - law.logpdf(new)).mean()) < 0.02


def test_beside_a_plane_it_integrates_to_one(directions):
    """A direction, a log norm and a bias: S^2 x R^2."""
    rng = np.random.default_rng(2)
    rows = directions[1][:4000]
    norms, biases = np.exp(0.4 * rng.normal(size=(4000, 1))), 0.5 * rng.normal(size=(4000, 1))
    weights = np.hstack([rows * norms, biases + 0.3 * rows[:, :1]])
    posterior = FlowPosterior(
        architecture=Architecture.mlp([3, 1]), max_iter=300, n_steps=16, **FAST
    ).fit(weights)
    # Quadrature on 4,096 Sobol points, uniform on the sphere and normal beside it.
    u = qmc.Sobol(4, seed=0).random(4096)
    z, phi = 2 * u[:, 0] - 1, 2 * np.pi * u[:, 1]
    radius = np.sqrt(1 - z**2)
    points = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=1)
    width = 0.7
    log_norm, bias = width * norm.ppf(u[:, 2:]).T
    log_measure = norm(scale=width).logpdf([log_norm, bias]).sum(0) - np.log(4 * np.pi)
    networks = np.column_stack([points * np.exp(log_norm)[:, None], bias + 0.3 * points[:, 0]])
    ratios = np.exp(posterior.log_prob(networks) - log_measure)
    # Another seed moves the mean by less than .005.
    assert ratios.mean() == pytest.approx(1, abs=0.01)


def test_round_trips_say_how_exact_the_solver_is(on_sphere, directions):
    rows = directions[1][:20]
    errors = {}
    for n_steps in (4, 64):
        posterior = FlowPosterior(**on_sphere.get_params()).set_params(n_steps=n_steps)
        posterior.__dict__ |= {k: v for k, v in vars(on_sphere).items() if k.endswith("_")}
        errors[n_steps] = posterior.round_trip_error(rows)
    assert errors[4].shape == (20,)
    assert np.median(errors[64]) < np.median(errors[4]) / 100
    assert errors[64].max() < 1e-3


def test_the_gap_between_seen_and_unseen_networks_is_reported(on_sphere):
    report = on_sphere.novelty(n_samples=50, n_densities=30, random_state=0)
    rows = [
        torch.linspace(0, len(points) - 1, 30).round().long()
        for points in (on_sphere.training_points_, on_sphere.held_out_points_)
    ]
    seen, unseen = (
        on_sphere.log_prob(on_sphere.chart_.to_weights(points[row])).mean()
        for points, row in zip(
            (on_sphere.training_points_, on_sphere.held_out_points_), rows, strict=True
        )
    )
    assert report.log_density_gap == pytest.approx(seen - unseen, abs=1e-3)
    assert "log p gap" in str(report)
    assert on_sphere.novelty(n_samples=50, random_state=0).log_density_gap is None


def test_on_principal_components_it_integrates_to_one():
    """A flow along one direction of the plane, a Gaussian beside it."""
    rng = np.random.default_rng(3)
    along, beside = (
        rng.choice([-2, 2], size=2000) + 0.5 * rng.normal(size=2000),
        rng.normal(size=2000),
    )
    x = np.column_stack([along + 0.3 * beside, along - 0.3 * beside])
    posterior = FlowPosterior(
        geometry="euclidean", reducer=1, max_iter=300, n_steps=16, velocity=SMALL, random_state=0
    ).fit(x)
    sums, differences = np.linspace(-5, 5, 81), np.linspace(-1.5, 1.5, 31)
    grid = np.stack(np.meshgrid(sums, differences, indexing="ij"), -1).reshape(-1, 2)
    cell = 2 * (sums[1] - sums[0]) * (differences[1] - differences[0])  # two per unit square
    density = np.exp(posterior.log_prob(grid @ [[1, 1], [1, -1]]))
    # Equal weights are exact to many digits on densities this smooth; the flow's 16 steps are not.
    assert density.sum() * cell == pytest.approx(1, abs=0.01)
    samples = posterior.sample(100, random_state=0)
    assert np.linalg.matrix_rank(samples - samples.mean(0), tol=1e-3) == 1
    # By bimodality alone the law beats the best Gaussian of the plane.
    gaussian = multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(x).mean()
    truth = (norm.pdf(along, -2, 0.5) + norm.pdf(along, 2, 0.5)) / 2 * norm.pdf(beside) / 0.6
    score = posterior.score(x)
    assert gaussian + 0.4 < score < np.log(truth).mean() + 0.01
