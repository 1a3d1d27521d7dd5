"""Refined posteriors: their target, what they draw, and what they say about it."""

import functools

import numpy as np
import pytest
import torch
from scipy.stats import norm

from bayesflow_nn import Architecture, FlowPosterior, sample_population, train_population
from bayesflow_nn.arviz_record import population_record
from bayesflow_nn.symmetry import log_prior
from bayesflow_nn.velocity import MLPVelocity

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2)).astype(np.float32)
LABELS = (X[:, 0] + RNG.normal(size=40) > 0.3).astype(int)
GRID = torch.linspace(-2, 2, 5)[:, None].repeat(1, 2)
SMALL = functools.partial(MLPVelocity, hidden_size=16, n_blocks=1)
QUICK = {"velocity": SMALL, "max_iter": 60, "n_steps": 4, "random_state": 0}


SLOPE_DATA = X[:, :1], LABELS


def slope_posterior():
    """Flow over slopes of a logistic regression: too wide, and to the side."""
    slopes = 1.5 + 0.8 * RNG.normal(size=(400, 1))
    architecture = Architecture.mlp([1, 2], bias=False)
    return FlowPosterior(
        architecture=architecture, task="classification", geometry="euclidean", **QUICK
    ).fit(np.hstack([-slopes, slopes]) + 0.5 * RNG.normal(size=(400, 2)))


@pytest.fixture(scope="module")
def linear():
    return slope_posterior()


@pytest.fixture(scope="module", params=["euclidean", "product_sphere"])
def perceptron(request):
    return perceptron_flow(request.param)


def perceptron_flow(geometry):
    """Flow over perceptrons that Adam trained."""
    mlp = Architecture.mlp([2, 3, 2], activation="relu")
    networks = train_population(mlp, X, LABELS, n_networks=150, n_epochs=30, random_state=0)
    return FlowPosterior(geometry=geometry, **QUICK).fit(networks)


def slope_by_quadrature():
    """Mean and standard deviation of half the difference of both weights, normal a priori."""
    slope = np.linspace(-6, 6, 4001)
    # Logits are (a x, b x): the labels know b - a = 2 s, whose half has the variance 1/2.
    sign = 2 * LABELS - 1
    log_p = norm.logpdf(slope, scale=np.sqrt(0.5))
    log_p -= np.logaddexp(0, -2 * slope[:, None] * X[:, 0] * sign).sum(1)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = (p * slope).sum()
    return mean, np.sqrt((p * (slope - mean) ** 2).sum())


def test_the_target_is_prior_times_likelihood(perceptron):
    target = perceptron._chart_posterior(X, LABELS, 1.5, None)
    points = perceptron.to_points(perceptron.sample(6, random_state=1)).double()
    weights = perceptron.chart_.to_weights(points)
    logits = perceptron.architecture_.apply(weights, torch.from_numpy(X).double())
    likelihood = logits.log_softmax(-1)[:, torch.arange(40), torch.from_numpy(LABELS)].sum(1)
    expected = likelihood + log_prior(perceptron.chart_, weights, 1.5)
    value, gradient = target.value_and_gradient(points)
    torch.testing.assert_close(value - perceptron.chart_.log_abs_det(), expected)
    # Central differences along one tangent direction.
    normal = torch.from_numpy(np.random.default_rng(2).normal(size=points.shape))
    direction = perceptron.chart_.manifold.proju(points, normal)
    step = 1e-5 * direction
    ahead, behind = (
        target.value_and_gradient(perceptron.chart_.manifold.expmap(points, sign * step))[0]
        for sign in (1, -1)
    )
    slope = (gradient * direction).sum(1)
    torch.testing.assert_close((ahead - behind) / 2e-5, slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"n_leapfrog": 1}, {"n_proposals": 0}, {"n_proposals": 5}])
def test_a_logistic_regression_is_that_of_quadrature(linear, options):
    population = linear.refine(
        *SLOPE_DATA, n_chains=200, n_draws=15, n_tune=30, random_state=0, **options
    )
    slopes = (population.weights[:, 1] - population.weights[:, 0]).reshape(200, 15) / 2
    mean, std = slope_by_quadrature()
    # Chains are independent: the error of the mean is that of their means.
    error = slopes.mean(1).std().item() / np.sqrt(200)
    assert slopes.mean().item() == pytest.approx(mean, abs=4 * error)
    # The flow is almost twice as wide; 3,000 draws know the width to 3 % or so.
    assert slopes.std().item() == pytest.approx(std, rel=0.1)


def test_predictions_are_those_of_long_chains():
    perceptron = perceptron_flow("euclidean")
    refined = perceptron.refine(
        X, LABELS, n_chains=100, n_draws=15, n_tune=60, n_leapfrog=12, random_state=0
    )
    chains = sample_population(
        refined.architecture,
        torch.from_numpy(X).double(),
        LABELS,
        sampler="hmc",
        n_chains=100,
        n_draws=15,
        n_tune=100,
        sampler_options={"n_leapfrog": 12},
        random_state=1,
    )
    p, q = (
        population.architecture.apply(population.weights.double(), GRID.double())
        .softmax(-1)[..., 1]
        .reshape(100, 15, 5)
        .mean(1)
        for population in (refined, chains)
    )
    error = ((p.var(0) + q.var(0)) / 100).sqrt()
    assert ((p.mean(0) - q.mean(0)).abs() < 4 * error).all()
    # It is a comparison that could fail: the networks of the flow predict something else.
    flow = torch.from_numpy(perceptron.predict_proba(GRID.numpy(), n_samples=400))[:, 1]
    assert ((p.mean(0) - flow).abs() > 10 * error).any()


def test_networks_stay_in_the_order_of_the_flow(perceptron):
    population = perceptron.refine(X, LABELS, n_chains=20, n_draws=4, n_tune=10, random_state=0)
    points = perceptron.chart_.to_point(population.weights.double())
    torch.testing.assert_close(
        perceptron.to_points(population.weights.double()), points, rtol=0, atol=1e-4
    )


def test_the_record_says_what_was_accepted(linear):
    population = linear.refine(*SLOPE_DATA, n_chains=30, n_draws=8, n_tune=20, random_state=0)
    assert (population.n_chains, len(population)) == (30, 240)
    metrics = population.metrics
    accepted, probability = metrics["proposal_accepted"], metrics["proposal_acceptance"]
    assert accepted.float().mean().item() == pytest.approx(probability.mean().item(), abs=0.1)
    assert 0.1 < probability.mean() < 0.95
    stats = population_record(population).sample_stats
    assert stats["proposal_accepted"].shape == (30, 8)
    lp = linear._chart_posterior(*SLOPE_DATA, 1.0, None).value_and_gradient(
        linear.to_points(population.weights.double())
    )[0]
    torch.testing.assert_close(metrics["lp"], lp, rtol=1e-4, atol=1e-3)


def test_gradients_are_counted(linear):
    """Proposals need none; where one was accepted the next trajectory needs that of its start."""
    options = {"n_chains": 40, "n_draws": 6, "n_tune": 10, "n_leapfrog": 1, "random_state": 0}
    population = linear.refine(*SLOPE_DATA, n_proposals=3, n_local=2, **options)
    assert population.metrics["proposal_accepted"].float().mean() > 0.3
    expected = 2 + population.metrics["proposal_accepted"].long()
    assert torch.equal(population.metrics["n_gradients"], expected)
    local = linear.refine(*SLOPE_DATA, n_proposals=0, **options)
    assert (local.metrics["n_gradients"] == 1).all()
    assert "proposal_accepted" not in local.metrics


def test_more_proposals_lead_to_less_correlated_draws(linear):
    """Chains that hardly move by themselves: what one draw says of the next is up to proposals."""

    def correlation(n_proposals: int) -> float:
        population = linear.refine(
            *SLOPE_DATA,
            n_chains=300,
            n_draws=4,
            n_tune=0,
            n_leapfrog=1,
            n_proposals=n_proposals,
            random_state=0,
        )
        slopes = (population.weights[:, 1] - population.weights[:, 0]).reshape(300, 4).numpy()
        return np.corrcoef(slopes[:, 2], slopes[:, 3])[0, 1]

    # The standard error of a correlation of 300 pairs is at most .06.
    assert correlation(8) < correlation(1) - 0.2


def test_a_posterior_can_be_fitted_to_the_result(linear):
    population = linear.refine(*SLOPE_DATA, n_chains=100, n_draws=4, n_tune=20, random_state=0)
    again = FlowPosterior(geometry="euclidean", **QUICK).fit(population)
    better = again.refine(*SLOPE_DATA, n_chains=100, n_draws=4, n_tune=20, random_state=0)
    rates = [p.metrics["proposal_acceptance"].mean() for p in (population, better)]
    assert rates[1] > rates[0] + 0.1


def test_what_has_no_density_is_refused(linear):
    points = np.random.default_rng(0).normal(size=(60, 2))
    flow = FlowPosterior(
        architecture=linear.architecture_,
        task="classification",
        geometry="euclidean",
        reducer=1,
        max_iter=3,
        random_state=0,
    ).fit(points)
    with pytest.raises(ValueError, match="reducer=None, got 'euclidean' and reducer=1"):
        flow.refine(*SLOPE_DATA)


def test_estimated_densities_warn(linear):
    linear = slope_posterior().set_params(trace="hutchinson")
    with pytest.warns(UserWarning, match="sample is not exact"):
        linear.refine(*SLOPE_DATA, n_chains=4, n_draws=1, n_tune=0, random_state=0)


@pytest.mark.parametrize("name", ["n_chains", "n_draws", "n_local", "n_proposals"])
def test_sizes_are_checked(linear, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        linear.refine(*SLOPE_DATA, **{name: -1})


def test_a_posterior_without_density_is_refused(linear):
    with pytest.raises(ValueError, match="got none for the 8 networks"):
        linear.refine(*SLOPE_DATA, prior=lambda w: w.sum(1) * 0 - torch.inf, n_chains=8)


def test_chains_leave_where_the_posterior_vanishes(linear):
    """Half of the networks of the flow have no density; proposals lead away from there."""

    def positive_slope(w):
        slope = w[:, 1] - w[:, 0]
        middle = 1.5  # about the mean of the flow
        return -w.square().sum(1) / 2 + torch.where(slope / 2 > middle, 0.0, -torch.inf)

    population = linear.refine(
        *SLOPE_DATA, prior=positive_slope, n_chains=60, n_draws=12, n_tune=0, random_state=0
    )
    slopes = ((population.weights[:, 1] - population.weights[:, 0]) / 2).reshape(60, 12)
    assert (slopes[:, 0] < 1.5).float().mean() > 0.1
    assert (slopes[:, -1] < 1.5).float().mean() < 0.05
