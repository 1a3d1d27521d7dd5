"""Estimators over Markov chains: the posterior in closed form, and predictions written out."""

import numpy as np
import pytest
import torch
from fast_estimators import CHAINS, ENSEMBLE, FAST
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from bayesflow_nn import (
    Architecture,
    FlowBNNClassifier,
    FlowBNNRegressor,
    sample_population,
    train_population,
)
from bayesflow_nn.estimators import settings
from bayesflow_nn.weights import ConstantNoise, HeteroscedasticNormal


@pytest.fixture(scope="module")
def line():
    """Noise of deviation 5 about a plane in large units."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    return X, 1000 + X @ [20, -10] + 5 * rng.normal(size=60)


@pytest.fixture(scope="module", params=["population", "flow"])
def bayesian_line(line, request):
    options = {"hidden_layer_sizes": (), "n_networks": 1000, "n_samples": 400, "n_tune": 500}
    options |= {"thinning": 2, "noise": "constant", "average": request.param}
    return FlowBNNRegressor(**FAST | CHAINS | options).fit(*line)


def outputs(model, X):
    """Means and deviations of every network's noise, in the units of the targets."""
    scaled = torch.as_tensor(model.scaler_.transform(X), dtype=torch.float32)
    f = model.population_.architecture.apply(torch.as_tensor(model.networks_), scaled)
    mean, log_scale = f.double().numpy().transpose(2, 0, 1)
    scale = model.target_scaler_.scale_
    return model.target_scaler_.mean_ + scale * mean, scale * (1e-3 + np.exp(log_scale))


def test_the_posterior_of_a_line_is_that_of_the_formula(bayesian_line, line):
    X, y = line
    Z = np.column_stack([StandardScaler().fit_transform(X), np.ones(60)])
    t = (y - y.mean()) / y.std()
    noise = bayesian_line.predict_moments(X).aleatoric_std.mean() / y.std()
    # Normal weights of precision alpha = 1, given the noise, of which the data leave little open.
    precision = np.eye(3) + Z.T @ Z / noise**2
    mean = Z @ np.linalg.solve(precision, Z.T @ t) / noise**2
    std = np.sqrt(np.einsum("ni,ij,nj->n", Z, np.linalg.inv(precision), Z))
    moments = bayesian_line.predict_moments(X)
    # A tenth of a deviation is 2 standard errors of 100 independent draws.
    assert np.abs((moments.mean[:, 0] - y.mean()) / y.std() - mean).max() < 0.2 * std.max()
    ratio = moments.epistemic_std[:, 0] / y.std() / std
    # Long steps without a Metropolis test widen these few weights by an eighth, and a flow, of
    # 1,000 networks that are not independent, is off by a tenth.
    assert 0.9 < ratio.min() < ratio.max() < 1.3
    assert 4 < noise * y.std() < 6  # 5, by 60 targets


def test_predictions_hold_the_noise_of_every_network(bayesian_line, line):
    X, y = line
    mean, noise = outputs(bayesian_line, X)
    assert noise.std(0).min() > 0.1  # networks differ in it
    np.testing.assert_allclose(noise, np.repeat(noise[:, :1], 60, 1), rtol=1e-5)
    predicted, std = bayesian_line.predict(X, return_std=True)
    np.testing.assert_allclose(predicted, mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(mean.var(0) + (noise**2).mean(0)), rtol=1e-3)
    log_p = logsumexp(norm(mean, noise).logpdf(y), axis=0) - np.log(len(mean))
    np.testing.assert_allclose(bayesian_line.log_predictive_density(X, y), log_p, atol=1e-4)
    low, high = bayesian_line.predict_quantiles(X, [0.05, 0.95]).T
    np.testing.assert_allclose(norm(mean, noise).cdf(low).mean(0), 0.05, atol=1e-4)
    np.testing.assert_allclose(norm(mean, noise).cdf(high).mean(0), 0.95, atol=1e-4)
    draws = bayesian_line.sample_y(X, 500, random_state=1)
    # 60 means of 500 draws: 6 standard errors are exceeded with a probability of 1e-7.
    assert (np.abs(draws.mean(0) - predicted) < 6 * std / np.sqrt(500)).all()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_population_is_that_of_its_parts(early_stopping):
    X, y = load_iris(return_X_y=True)
    options = {"n_networks": 35, "early_stopping": early_stopping, "alpha": 0.25}
    model = FlowBNNClassifier(**FAST | CHAINS | options).fit(X, y)
    Z = torch.as_tensor(StandardScaler().fit_transform(X), dtype=torch.float32)
    y = torch.as_tensor(y)
    train, held_out, rows = (Z, y), None, np.arange(150)
    if early_stopping:
        parts = train_test_split(rows, test_size=15, random_state=0, stratify=y)
        train, held_out = ((Z[part], y[part]) for part in parts)
        rows = np.concatenate(parts)  # the chains see all inputs
    starts = train_population(
        Architecture.mlp([4, 8, 3]),
        *train,
        n_networks=10,
        learning_rate=2e-2,
        weight_decay=0.25 / len(train[0]),
        n_epochs=30,
        init="kaiming",
        validation_data=held_out,
        early_stopping=early_stopping,
        random_state=0,
    )
    expected = sample_population(
        starts.architecture,
        Z[rows],
        y[rows],
        init=starts,
        n_draws=4,
        n_tune=50,
        prior=2.0,
        sampler_options={"energy_variance": 0.1},
        random_state=0,
    )
    assert torch.equal(model.population_.weights, expected.weights)
    assert (model.population_.n_chains, len(model.population_)) == (10, 40)
    assert set(model.fit_times_) == {"train", "chains", "flow", "sample"}


def test_the_noise_that_networks_predict_is_sampled_with_them(line):
    X, y = line
    model = FlowBNNRegressor(**FAST | CHAINS | {"noise": "predicted"}).fit(X, np.stack([y, -y], 1))
    assert model.likelihood_ == model.population_.likelihood == HeteroscedasticNormal()
    assert model.population_.architecture.sizes == (2, 8, 4)
    assert model.predict_quantiles(X).shape == (60, 3, 2)


def test_constant_noise_is_one_weight_per_target(line):
    X, y = line
    model = FlowBNNRegressor(noise="constant", **FAST | CHAINS).fit(X, np.stack([y, -y], 1))
    module = model.population_.architecture.module
    assert isinstance(module, ConstantNoise) and module.log_scale.shape == (2,)
    moments = model.predict_moments(X)
    assert moments.mean.shape == (60, 2)
    np.testing.assert_allclose(
        moments.aleatoric_std, np.repeat(moments.aleatoric_std[:1], 60, 0), rtol=1e-4
    )


def test_the_prior_follows_the_population(line):
    assert FlowBNNRegressor(**FAST | CHAINS).fit(*line).alpha_ == 1.0
    assert FlowBNNRegressor(**FAST | ENSEMBLE).fit(*line).alpha_ == 1e-4


@pytest.mark.parametrize(("most", "steps"), [(60, (40, 4)), (59, (20, 2))])
def test_chains_on_many_inputs_take_half_the_steps(line, monkeypatch, most, steps):
    monkeypatch.setattr(settings, "MANY_INPUTS", most)
    monkeypatch.setattr(settings, "STEPS", {"n_tune": 40, "thinning": 4})
    given, meant = (
        FlowBNNRegressor(**FAST | CHAINS | {"n_tune": n_tune, "thinning": thinning}).fit(*line)
        for n_tune, thinning in (steps, ("auto", "auto"))
    )
    assert torch.equal(given.population_.weights, meant.population_.weights)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"population": "chains"}, ValueError, "population must be one of .*got 'chains'"),
        ({"alpha": 0.0}, ValueError, "alpha must be finite and > 0"),
        ({"alpha": "high"}, ValueError, r"alpha must be one of \['auto'\], got 'high'"),
        ({"alpha": None}, TypeError, "alpha must be a number, got NoneType"),
        ({"n_chains": 0}, ValueError, "n_chains must be an integer of at least 1"),
        ({"n_tune": -1}, ValueError, "n_tune must be an integer of at least 0"),
        ({"thinning": 0}, ValueError, "thinning must be an integer of at least 1"),
        ({"thinning": "long"}, ValueError, r"thinning must be one of \['auto'\], got 'long'"),
    ],
)
def test_bad_parameters_are_named(line, options, error, message):
    with pytest.raises(error, match=message):
        FlowBNNRegressor(**FAST | CHAINS | options).fit(*line)
