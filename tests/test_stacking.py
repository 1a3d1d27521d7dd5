"""Stacked posteriors against the weights that maximise the leave-one-out score."""

import arviz as az
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation
from bayesflow_nn.stacking import stack_posteriors

ARCHITECTURE = Architecture.mlp([1, 2], bias=False)


def fit(slope, seed):
    slopes = slope + 0.2 * np.random.default_rng(seed).normal(size=(200, 1))
    population = WeightPopulation.from_array(
        np.hstack([-slopes, slopes]), architecture=ARCHITECTURE, task="classification"
    )
    return FlowPosterior(geometry="euclidean", max_iter=10, n_steps=4, random_state=0).fit(
        population
    )


@pytest.fixture(scope="module")
def data():
    """Slope 2 for positive inputs, and labels by chance for negative ones."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1))
    p = 1 / (1 + np.exp(-np.where(X[:, 0] > 0, 4 * X[:, 0], 0.0)))
    return X, (rng.random(200) < p).astype(int)


@pytest.fixture(scope="module")
def posteriors():
    return {"steep": fit(2.0, 1), "flat": fit(0.0, 2)}


@pytest.fixture(scope="module")
def stacked(posteriors, data):
    return stack_posteriors(posteriors, *data, n_samples=100, random_state=3)


def test_weights_maximise_the_leave_one_out_score(stacked, posteriors, data):
    log_p = []
    for posterior in posteriors.values():
        record = posterior.to_arviz(*data, n_samples=100, random_state=3)
        log_p.append(az.loo(record, pointwise=True).loo_i.values)
    steep, flat = np.exp(log_p)

    def loss(w):
        return -np.log(w * steep + (1 - w) * flat).mean()

    best = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-8})
    # ArviZ stops its own search at 1e-6 of the score, which is flat at the optimum.
    assert 0.1 < best.x < 0.9
    assert stacked.weights["steep"] == pytest.approx(best.x, abs=0.01)
    assert sum(stacked.weights.values()) == pytest.approx(1)


def test_predictions_are_weighted_averages(stacked, posteriors, data):
    X = data[0][:5]
    expected = sum(
        stacked.weights[name] * posterior.predict_proba(X) for name, posterior in posteriors.items()
    )
    np.testing.assert_allclose(stacked.predict_proba(X), expected, rtol=1e-6)
    assert np.array_equal(stacked.predict(X), expected.argmax(1))


def test_one_posterior_is_no_comparison(posteriors, data):
    with pytest.raises(ValueError, match=r"at least two, got \['steep'\]"):
        stack_posteriors({"steep": posteriors["steep"]}, *data)
