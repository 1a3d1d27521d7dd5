"""What predictions average over: draws of a flow, or the population itself, evenly spread."""

import numpy as np
import pytest
import torch
from fast_estimators import CHAINS, ENSEMBLE, FAST
from sklearn.datasets import load_iris

from bayesflow_nn import FlowBNNClassifier, FlowBNNRegressor
from bayesflow_nn.estimators import population

X, Y = load_iris(return_X_y=True)
T = X[:, 0] - X[:, 2] ** 2
NO_FLOW = {"posterior": None, "average": "population"}


@pytest.fixture(scope="module")
def chains():
    """The regressor as by default: 24 networks are three draws of ten chains."""
    return FlowBNNRegressor(**FAST | CHAINS | {"posterior": None}).fit(X, T)


def scaled_outputs(model, weights):
    inputs = torch.as_tensor(model.scaler_.transform(X), dtype=torch.float32)
    return model.population_.architecture.apply(torch.as_tensor(weights), inputs).double()


def evenly(n_all, n):
    """Rows of n networks of n_all, the first and the last among them."""
    return [round(k * (n_all - 1) / (n - 1)) for k in range(n)]


def test_probabilities_of_an_ensemble_are_a_plain_mean_over_its_networks():
    model = FlowBNNClassifier(**FAST | NO_FLOW).fit(X, Y)
    rows = evenly(24, 12)
    assert len(set(rows)) == 12
    np.testing.assert_array_equal(model.networks_, model.population_.weights[rows])
    proba = sum(scaled_outputs(model, network[None])[0].softmax(-1) for network in model.networks_)
    np.testing.assert_allclose(model.predict_proba(X), proba / 12, atol=1e-6)
    assert set(model.fit_times_) == {"train", "sample"}


def test_targets_of_chains_are_a_plain_mean_over_their_draws(chains):
    np.testing.assert_array_equal(chains.networks_, chains.population_.weights[evenly(30, 12)])
    assert len(set(chains.population_.chain[evenly(30, 12)].tolist())) == 10  # of every chain
    outputs = scaled_outputs(chains, chains.networks_)[..., 0].numpy()
    expected = T.mean() + T.std() * outputs.mean(0)
    np.testing.assert_allclose(chains.predict(X), expected, rtol=1e-5, atol=1e-5)
    assert set(chains.fit_times_) == {"train", "chains", "sample"}


def test_auto_is_the_population_for_chains_and_the_flow_for_an_ensemble(chains):
    for average, kind in (("population", CHAINS), ("flow", ENSEMBLE)):
        auto, named = (
            FlowBNNRegressor(average=choice, **FAST | kind).fit(X, T).networks_
            for choice in ("auto", average)
        )
        np.testing.assert_array_equal(auto, named)
    assert not hasattr(chains, "posterior_")


def test_a_flow_over_chains_draws_the_networks():
    model = FlowBNNRegressor(average="flow", **FAST | CHAINS | {"random_state": 3}).fit(X, T)
    drawn = model.posterior_.sample(12, random_state=3)
    np.testing.assert_array_equal(model.networks_, drawn)
    assert model.posterior_.random_state == 3
    assert set(model.fit_times_) == {"train", "chains", "flow", "sample"}


def test_a_flow_is_fitted_where_it_is_asked_for_and_a_stale_one_is_gone(chains):
    model = FlowBNNRegressor(**FAST | CHAINS).fit(X, T)
    assert model.posterior_.sample(3, random_state=0).shape == model.networks_[:3].shape
    assert "flow" in model.fit_times_
    np.testing.assert_array_equal(model.networks_, chains.networks_)  # whatever the flow is
    model.set_params(posterior=None).fit(X, T)
    assert not hasattr(model, "posterior_")
    assert "flow" not in model.fit_times_


@pytest.mark.parametrize("kind", [CHAINS, ENSEMBLE], ids=["chains", "ensemble"])
def test_a_population_of_fewer_networks_is_averaged_as_it_is(kind):
    options = FAST | kind | NO_FLOW | {"n_samples": 100}
    model = FlowBNNRegressor(**options).fit(X, T)
    np.testing.assert_array_equal(model.networks_, model.population_.weights)
    of_flow = model.set_params(posterior=FAST["posterior"], average="flow").fit(X, T)
    assert len(of_flow.networks_) == 100


@pytest.fixture
def starts(monkeypatch):
    """Initial weights that estimators pass to `train_population`."""
    starts, original = [], population.train_population

    def spy(*args, init, **options):
        starts.append(init)
        return original(*args, init=init, **options)

    monkeypatch.setattr(population, "train_population", spy)
    return starts


def test_more_networks_than_before_start_at_those_of_the_population(starts):
    model = FlowBNNRegressor(warm_start=True, **FAST | ENSEMBLE | NO_FLOW).fit(X, T)
    old = model.population_.weights
    model.set_params(max_iter=1, n_networks=60).fit(X, T)
    assert torch.equal(starts[1], torch.cat([old, old[evenly(24, 36)]]))
    assert len(model.population_.weights.unique(dim=0)) == 60  # minibatches part twins


def test_more_chains_than_before_start_at_draws_of_the_others(starts):
    model = FlowBNNRegressor(warm_start=True, **FAST | CHAINS | NO_FLOW).fit(X, T)
    old = model.population_.weights
    model.set_params(max_iter=1, n_networks=60, n_chains=15).fit(X, T)
    assert torch.equal(starts[1], torch.cat([old[2::3], old[evenly(30, 5)]]))
    assert len(model.population_.weights.unique(dim=0)) == 60


def test_an_update_without_a_flow_starts_at_the_old_networks(starts):
    model = FlowBNNClassifier(**FAST | NO_FLOW).partial_fit(X, Y)
    old = model.population_.weights
    model.partial_fit(X, Y)
    assert torch.equal(starts[1], old)
    model = FlowBNNRegressor(**FAST | CHAINS | NO_FLOW).partial_fit(X, T)
    old = model.population_.weights
    model.partial_fit(X, T)
    assert torch.equal(starts[3], old[evenly(30, 10)])


def test_a_warm_start_may_ask_for_the_first_flow():
    model = FlowBNNRegressor(warm_start=True, **FAST | CHAINS | NO_FLOW).fit(X, T)
    model.set_params(average="flow", posterior=FAST["posterior"], n_chains=12).fit(X, T)
    drawn = model.posterior_.sample(12, random_state=0)
    np.testing.assert_array_equal(model.networks_, drawn)


def test_a_bad_average_is_named():
    for Estimator, y in ((FlowBNNClassifier, Y), (FlowBNNRegressor, T)):
        with pytest.raises(ValueError, match=r"average must be one of \['auto', .*got 'mean'"):
            Estimator(**FAST | {"average": "mean"}).fit(X, y)
