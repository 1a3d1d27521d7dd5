"""Importance weights against posteriors that are known in closed form or by quadrature."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from bayesflow_nn import Architecture, FlowPosterior
from bayesflow_nn.importance import log_likelihood, weigh
from bayesflow_nn.velocity import MLPVelocity

NOISE = 0.5
FAST = {
    "velocity": functools.partial(MLPVelocity, hidden_size=32, n_blocks=1),
    "max_iter": 100,
    "n_steps": 8,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def line():
    """Bayesian linear regression y = a x + b, whose posterior and evidence are closed forms."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 1))
    y = 0.8 * x - 0.3 + NOISE * rng.normal(size=(30, 1))
    design = np.hstack([x, np.ones_like(x)])
    precision = design.T @ design / NOISE**2 + np.eye(2)
    covariance = np.linalg.inv(precision)
    mean = covariance @ design.T @ y[:, 0] / NOISE**2
    evidence = multivariate_normal(np.zeros(30), design @ design.T + NOISE**2 * np.eye(30))
    return x, y, mean, covariance, evidence.logpdf(y[:, 0])


@pytest.fixture(scope="module")
def posterior(line):
    """A flow over networks near the posterior: shifted by half a deviation, and wider."""
    _, _, mean, covariance, _ = line
    rng = np.random.default_rng(1)
    deviation = np.sqrt(covariance.diagonal())
    networks = rng.multivariate_normal(mean + 0.5 * deviation, 1.7 * covariance, size=2000)
    return FlowPosterior(
        architecture=Architecture.mlp([1, 1]),
        task="regression",
        geometry="euclidean",
        **FAST,
    ).fit(networks)


@pytest.fixture(scope="module")
def corrected(line, posterior):
    return posterior.importance_weights(*line[:2], likelihood=NOISE, n_samples=1000, random_state=0)


def test_the_posterior_of_a_regression_is_found(line, posterior, corrected):
    _, _, mean, covariance, log_evidence = line
    assert corrected.pareto_k < 0.7
    got, error = corrected.average(corrected.networks)
    # Four standard errors, which are those of some thousand draws.
    assert (np.abs(got - mean) < 4 * error).all()
    assert (error < 0.1 * np.sqrt(covariance.diagonal())).all()
    assert abs(corrected.log_evidence - log_evidence) < 4 * corrected.log_evidence_std
    assert corrected.log_evidence_std < 0.05
    squares = corrected.networks - mean
    spread = corrected.average(squares[:, :, None] * squares[:, None])[0]
    deviation = np.sqrt(covariance.diagonal())
    assert np.abs((spread - covariance) / np.outer(deviation, deviation)).max() < 0.2
    # And there was something to correct.
    plain = posterior.sample(2000, random_state=0).mean(0)
    assert (np.abs(plain - mean) > 0.3 * deviation).all()


def test_predictions_are_averaged_with_the_weights(line, posterior, corrected):
    x, mean = line[0], line[2]
    predicted = posterior.predict(x, weights="importance")
    assert np.array_equal(predicted, posterior.predict(x, weights=corrected))
    expected = (x * mean[0] + mean[1])[:, 0]
    # Posterior deviations of a prediction are about .1, and so many draws know a tenth of them.
    assert np.abs(predicted - expected).max() < 0.02
    assert np.abs(posterior.predict(x, n_samples=2000) - expected).max() > 0.03


def test_the_same_seed_gives_the_same_weights(line, posterior, corrected):
    again = posterior.importance_weights(
        *line[:2], likelihood=NOISE, n_samples=1000, random_state=0
    )
    assert np.array_equal(again.log_ratios, corrected.log_ratios)


def test_a_prior_and_a_likelihood_of_ones_own_are_the_same(line, posterior, corrected):
    def prior(weights):
        return torch.distributions.Normal(0.0, 1.0).log_prob(weights).sum(1)

    def likelihood(outputs, y):
        return torch.distributions.Normal(outputs, NOISE).log_prob(y).sum((1, 2))

    own = posterior.importance_weights(
        *line[:2], prior=prior, likelihood=likelihood, n_samples=1000, random_state=0
    )
    np.testing.assert_allclose(own.log_ratios, corrected.log_ratios, atol=1e-5)


def test_a_flow_on_one_principal_component_is_corrected_too(line, posterior):
    """Its networks are weighed with the residual that belongs to its density."""
    _, _, mean, covariance, log_evidence = line
    networks = posterior.sample(2000, random_state=3)
    reduced = FlowPosterior(**posterior.get_params()).set_params(reducer=1).fit(networks)
    weighed = reduced.importance_weights(
        *line[:2], likelihood=NOISE, n_samples=1000, random_state=0
    )
    assert weighed.pareto_k < 0.7
    got, error = weighed.average(weighed.networks)
    assert (np.abs(got - mean) < 4 * error).all()
    assert (error < 0.1 * np.sqrt(covariance.diagonal())).all()
    assert abs(weighed.log_evidence - log_evidence) < 4 * weighed.log_evidence_std
    np.testing.assert_allclose(np.linalg.matrix_rank(np.cov(weighed.networks.T)), 2)


def test_on_the_sphere_the_evidence_is_the_same(line):
    """Polar coordinates of a normal prior are a normal prior."""
    x, y, mean, covariance, _ = line
    two = np.hstack([x, np.cos(2 * x)])
    rng = np.random.default_rng(2)
    precision = two.T @ two / NOISE**2 + np.eye(2)
    covariance = np.linalg.inv(precision)
    mean = covariance @ two.T @ y[:, 0] / NOISE**2
    networks = rng.multivariate_normal(mean, 1.5 * covariance, size=2000)
    posterior = FlowPosterior(
        architecture=Architecture.mlp([2, 1], bias=False),
        task="regression",
        **FAST,
    ).fit(networks)
    result = posterior.importance_weights(two, y, likelihood=NOISE, n_samples=1000, random_state=0)
    evidence = multivariate_normal(np.zeros(30), two @ two.T + NOISE**2 * np.eye(30))
    assert result.pareto_k < 0.7
    difference = result.log_evidence - evidence.logpdf(y[:, 0])
    assert abs(difference) < 4 * result.log_evidence_std < 0.4
    got, error = result.average(result.networks)
    assert (np.abs(got - mean) < 4 * error).all()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_permuted_networks_count_in_the_evidence(activation):
    """Two hidden neurons far apart: the flow covers one arrangement, and counts for all.

    Of sigmoid neurons there are two orders, of tanh neurons, which may change sign, eight.
    """
    mlp = Architecture.mlp([1, 2, 1], activation)
    centres = [(6.0, -3.0), (-3.0, 6.0)]
    if activation == "tanh":
        signs = itertools.product([1, -1], repeat=2)
        centres = [(s * a, t * b) for (s, t) in signs for a, b in centres]
    rng = np.random.default_rng(0)
    networks = 0.5 * rng.normal(size=(1000, mlp.n_weights))
    networks[:, :2] += centres[0]
    posterior = FlowPosterior(
        architecture=mlp, task="regression", geometry="euclidean", **FAST
    ).fit(networks)
    nothing = np.zeros((1, 1))

    def flat(outputs, y):
        return outputs.new_zeros(len(outputs))

    def prior(weights):
        parts = []
        for centre in centres:
            mean = torch.zeros(mlp.n_weights, dtype=weights.dtype)
            mean[:2] = torch.tensor(centre)
            parts.append(torch.distributions.Normal(mean, 0.45).log_prob(weights).sum(1))
        return torch.stack(parts).logsumexp(0) - math.log(len(centres))

    result = posterior.importance_weights(
        nothing, nothing, prior=prior, likelihood=flat, n_samples=1000, random_state=0
    )
    # Without data the evidence is the integral of the prior, one, over all arrangements.
    assert result.pareto_k < 0.7
    assert abs(result.log_evidence) < 4 * result.log_evidence_std < 0.4


def test_a_flow_that_misses_the_posterior_is_reported(line, posterior):
    x, y = line[:2]
    with pytest.warns(UserWarning, match=r"k-hat is .*, above 0.7: .* not to be trusted"):
        far = posterior.importance_weights(
            x, y + 3, likelihood=NOISE / 3, n_samples=500, random_state=0
        )
    assert "not to be trusted" in str(far)
    assert far.effective_sample_size < 50


def test_smoothing_keeps_light_tails_and_judges_heavy_ones():
    rng = np.random.default_rng(0)
    networks = np.zeros((4000, 1))
    light = weigh(networks, rng.normal(size=4000) * 0.1, 0.0)
    assert light.pareto_k < 0.3
    # The mean of exp(.1 z) is exp(.005); its standard error .1 / sqrt(4,000).
    assert abs(light.log_evidence - 0.005) < 4 * 0.1 / 4000**0.5
    assert light.log_evidence_std == pytest.approx(0.1 / 4000**0.5, rel=0.1)
    # Pareto ratios with tail index 1 / k have shape k.
    with pytest.warns(UserWarning, match="k-hat"):
        heavy = weigh(networks, -0.9 * np.log(rng.uniform(size=4000)), 0.0)
    # A shape fitted to 3 sqrt(4,000) = 190 tail values: standard error (1 + k) / sqrt(190) = .14.
    assert heavy.pareto_k == pytest.approx(0.9, abs=0.45)


def test_averages_are_weighted_means():
    ratios, values = 0.3 * np.random.default_rng(0).normal(size=200), np.arange(200.0)
    result = weigh(values[:, None], ratios, 1.0)
    w = np.exp(result.log_ratios) / np.exp(result.log_ratios).sum()
    mean, error = result.average(result.networks)
    assert mean == pytest.approx(w @ values)
    assert error == pytest.approx(np.sqrt(np.sum(w**2 * (values - mean) ** 2)))
    assert result.effective_sample_size == pytest.approx(1 / np.sum(w**2))
    assert result.log_evidence == pytest.approx(logsumexp(result.log_ratios) - np.log(200) + 1)


def test_ratios_without_meaning_are_refused():
    networks = np.zeros((30, 1))
    with pytest.raises(ValueError, match="prior and likelihood must give finite log densities"):
        weigh(networks, np.full(30, np.nan), 0.0)
    with pytest.raises(ValueError, match="30 minus infinity"):
        weigh(networks, np.full(30, -np.inf), 0.0)


def test_likelihoods_are_sums_over_inputs():
    mlp = Architecture.mlp([2, 3])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, mlp.n_weights, generator=generator)
    X, y = torch.randn(6, 2, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    got = log_likelihood(mlp, weights, X, y, task="classification", likelihood=None)
    for row in range(4):
        logits = mlp.apply(weights[row : row + 1], X)[0]
        expected = sum(logits[i].softmax(0)[y[i]].log() for i in range(6))
        torch.testing.assert_close(got[row], expected)
    with pytest.raises(ValueError, match="likelihood must be None or Categorical"):
        log_likelihood(mlp, weights, X, y, task="classification", likelihood=1.0)
    with pytest.raises(ValueError, match="likelihood must be the standard deviation"):
        log_likelihood(mlp, weights, X, X[:, [0, 0, 1]], task="regression", likelihood=None)
    with pytest.raises(ValueError, match=r"likelihood must return one value.* got \(4, 6\)"):
        log_likelihood(mlp, weights, X, y, task="classification", likelihood=lambda f, y: f[..., 0])


def test_wrong_ways_to_weigh_are_refused(line, posterior):
    x, y = line[:2]
    with pytest.raises(ValueError, match="n_samples must be"):
        posterior.importance_weights(x, y, likelihood=NOISE, n_samples=5)
    with pytest.raises(ValueError, match="prior must return one log density per network"):
        posterior.importance_weights(x, y, likelihood=NOISE, prior=lambda w: w)
    with pytest.raises(ValueError, match="weights must be None with parameters of `sample`"):
        posterior.predict(x, weights="importance", temperature=0.5)
    rows = np.random.default_rng(0).normal(size=(30, 2))
    plain = FlowPosterior(geometry="euclidean", **FAST).fit(rows)
    with pytest.raises(ValueError, match="need an architecture and a task"):
        plain.importance_weights(x, y)
    fresh = FlowPosterior(
        architecture=Architecture.mlp([1, 1]), task="regression", geometry="euclidean", **FAST
    )
    with pytest.raises(ValueError, match="weights='importance' needs the ratios"):
        fresh.fit(rows).predict(x, weights="importance")
