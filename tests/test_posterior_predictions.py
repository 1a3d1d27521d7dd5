"""Predictions of a posterior: those of the very networks that it samples."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import norm

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation
from bayesflow_nn.predictive import predict_uncertainty, predictive_log_density
from bayesflow_nn.predictive_distribution import predictive_quantiles
from bayesflow_nn.weights import HeteroscedasticNormal, Normal, StudentT

SAMPLING = {"n_samples": 40, "random_state": 3}
LINE = Architecture.mlp([1, 1])
X = np.linspace(-1, 1, 7, dtype=np.float32)[:, None]


def fit(architecture, task, likelihood=None, seed=0):
    """A flow over normal weights."""
    weights = torch.randn(
        200, architecture.n_weights, generator=torch.Generator().manual_seed(seed)
    )
    population = WeightPopulation(weights, architecture=architecture, task=task)
    return FlowPosterior(
        geometry="euclidean", likelihood=likelihood, max_iter=10, n_steps=4, random_state=0
    ).fit(population)


@pytest.fixture(scope="module")
def classifier():
    return fit(Architecture.mlp([1, 3]), "classification")


@pytest.fixture(scope="module")
def regressor():
    return fit(LINE, "regression", likelihood=0.5)


def outputs(posterior):
    networks = torch.from_numpy(posterior.sample(40, random_state=3))
    return posterior.architecture_.apply(networks, torch.from_numpy(X)).double().numpy()


def test_uncertainty_is_that_of_the_sampled_networks(classifier):
    networks = classifier.sample(40, random_state=3)
    expected = predict_uncertainty(classifier.architecture_, networks, X)
    for got, part in zip(classifier.uncertainty(X, **SAMPLING), expected, strict=True):
        assert np.array_equal(got, part)
    proba = classifier.predict_proba(X, **SAMPLING)
    assert np.array_equal(classifier.predict_log_proba(X, **SAMPLING), np.log(proba))
    y = np.arange(7) % 3
    log_p = classifier.log_predictive_density(X, y, **SAMPLING)
    np.testing.assert_allclose(log_p, np.log(proba[np.arange(7), y]), atol=1e-5)  # float32


def test_an_array_weighs_the_sampled_networks(classifier):
    weights = np.arange(40.0)
    got = classifier.predict_proba(X, weights=weights, **SAMPLING)
    z = outputs(classifier)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    np.testing.assert_allclose(got, np.average(p, axis=0, weights=weights), atol=1e-6)


def test_means_and_deviations_include_the_noise(regressor):
    f = outputs(regressor)[..., 0]
    mean, std = regressor.predict(X, return_std=True, **SAMPLING)
    np.testing.assert_allclose(mean, f.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(f.var(0) + 0.25), atol=1e-6)
    moments = regressor.predict_moments(X, **SAMPLING)
    np.testing.assert_allclose(moments.epistemic_std[:, 0], f.std(0), atol=1e-6)
    np.testing.assert_allclose(moments.aleatoric_std, 0.5, atol=1e-6)


def test_quantiles_and_densities_are_those_of_the_mixture(regressor):
    networks = regressor.sample(40, random_state=3)
    quantiles = predictive_quantiles(LINE, networks, X, 0.5, [0.1, 0.9])
    assert np.array_equal(regressor.predict_quantiles(X, [0.1, 0.9], **SAMPLING), quantiles)
    y = X[:, 0] + 1
    density = predictive_log_density(LINE, networks, X, y, 0.5)
    assert np.array_equal(regressor.log_predictive_density(X, y, **SAMPLING), density)


def test_drawn_targets_have_the_moments_of_the_prediction(regressor):
    draws = regressor.sample_y(X, 20_000, n_samples=40, random_state=3)
    assert draws.shape == (20_000, 7)
    mean, std = regressor.predict(X, return_std=True, **SAMPLING)
    # Seven means and deviations, 5 standard errors: the kurtosis of these mixtures is below 4.
    assert (np.abs(draws.mean(0) - mean) < 5 * std / np.sqrt(20_000)).all()
    assert (np.abs(draws.std(0) / std - 1) < 5 * np.sqrt(3 / 4 / 20_000)).all()


@pytest.mark.parametrize("w", [None, np.linspace(0, 2, 500)], ids=["unweighted", "weighted"])
def test_noise_is_fitted_to_held_out_data(w):
    made = fit(LINE, "regression")
    assert made.likelihood_ is None
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (500, 1))
    y = 0.5 * x[:, 0] + 3.0 * rng.normal(size=500)
    made.fit_noise(x, y, sample_weight=w, **SAMPLING)
    networks = torch.from_numpy(made.sample(40, random_state=3))
    f = LINE.apply(networks, torch.as_tensor(x, dtype=torch.float32))[..., 0].double().numpy()

    def loss(scale):
        return -np.average(logsumexp(norm(f, scale).logpdf(y), axis=0), weights=w)

    best = minimize_scalar(loss, bounds=(0.5, 6), method="bounded", options={"xatol": 1e-6})
    assert made.likelihood_.scale == pytest.approx(best.x, abs=1e-4)


def test_a_network_may_predict_its_noise():
    made = fit(Architecture.mlp([1, 2]), "regression", HeteroscedasticNormal())
    f = outputs(made)
    mean, std = made.predict(X, return_std=True, **SAMPLING)
    assert mean.shape == (7,)
    np.testing.assert_allclose(mean, f[..., 0].mean(0), atol=1e-6)
    variance = f[..., 0].var(0) + np.square(1e-3 + np.exp(f[..., 1])).mean(0)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-5)


def test_a_likelihood_says_what_the_task_is():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    made = FlowPosterior(
        architecture=LINE, likelihood=StudentT(4, 1.0), geometry="euclidean", max_iter=2
    ).fit(rows)
    assert made.task_ == "regression" and made.likelihood_ == StudentT(4, 1.0)
    population = WeightPopulation(torch.as_tensor(rows), architecture=LINE, likelihood=Normal(2.0))
    assert population.task == "regression"
    made = FlowPosterior(geometry="euclidean", max_iter=2).fit(population)
    assert made.likelihood_ == Normal(2.0)


def test_the_curve_ends_at_the_average_of_all(classifier):
    y = np.arange(7) % 3
    curve = classifier.predictive_curve(X, y, n_samples=40, random_state=3)
    log_p = classifier.log_predictive_density(X, y, **SAMPLING)
    assert curve.sizes[-1] == 40
    assert curve.nll[-1] == pytest.approx(-log_p.mean(), abs=1e-6)


def test_wrong_requests_are_named(classifier, regressor):
    with pytest.raises(ValueError, match="return_std must be False for classification"):
        classifier.predict(X, return_std=True)
    with pytest.raises(ValueError, match=r"network_weights must be \(40,\)"):
        classifier.predict_proba(X, weights=np.ones(3), **SAMPLING)
    with pytest.raises(ValueError, match="quantiles"):
        regressor.predict_quantiles(X, [0.0, 1.0])
    with pytest.raises(ValueError, match="likelihood must be one of classification"):
        FlowPosterior(task="classification", likelihood=Normal(1.0)).fit(np.eye(3))
    with pytest.raises(
        TypeError, match="likelihood must be a number, a likelihood .* got 'normal'"
    ):
        FlowPosterior(task="regression", likelihood="normal").fit(np.eye(3))
