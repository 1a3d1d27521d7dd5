"""Fits that go on: early stopping, warm starts, and posteriors that are updated with new data."""

import numpy as np
import pytest
import torch
from fast_estimators import CHAINS, ENSEMBLE, FAST
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from bayesflow_nn import (
    Architecture,
    FlowBNNClassifier,
    FlowBNNRegressor,
    sample_population,
    train_population,
)
from bayesflow_nn.estimators.seen_inputs import remember

IRIS = load_iris(return_X_y=True)


def training(X, y, alpha=1e-4, **options):
    """As the estimators train the ensemble of FAST."""
    Z = torch.as_tensor(StandardScaler().fit_transform(IRIS[0])[X], dtype=torch.float32)
    return train_population(
        Architecture.mlp([4, 8, 3]),
        Z,
        torch.as_tensor(y),
        learning_rate=2e-2,
        weight_decay=alpha / len(Z),
        random_state=0,
        **options,
    )


def test_early_stopping_judges_by_stratified_inputs():
    X, y = IRIS
    options = {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 3}
    model = FlowBNNClassifier(**FAST | options | {"max_iter": 80, "tol": 1e-3}).fit(X, y)
    train, held_out = train_test_split(np.arange(150), test_size=30, random_state=0, stratify=y)
    Z = torch.as_tensor(StandardScaler().fit_transform(X), dtype=torch.float32)
    expected = training(
        train,
        y[train],
        n_networks=24,
        n_epochs=80,
        validation_data=(Z[held_out], torch.as_tensor(y[held_out])),
        early_stopping=True,
        n_iter_no_change=3,
        tol=1e-3,
    )
    assert torch.equal(model.population_.weights, expected.weights)
    assert model.n_iter_ == expected.metrics["n_epochs"].max() < 80
    assert set(model.population_.metrics) == {"best_epoch", "n_epochs", "nll", "accuracy"}


def test_every_class_is_held_out():
    X, y = IRIS[0][::10], IRIS[1][::10]  # of 15 inputs a tenth would be two
    model = FlowBNNClassifier(early_stopping=True, **FAST).fit(X, y)
    assert model.seen_inputs_.total_weight == 12
    with pytest.raises(ValueError, match="validation_fraction must leave inputs to train on"):
        FlowBNNClassifier(early_stopping=True, **FAST).fit(IRIS[0][[0, 60]], [0, 1])


def test_a_regression_holds_out_one_set_for_noise_and_stopping():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 2))
    y = X[:, 0] + 0.3 * rng.normal(size=100)
    options = FAST | ENSEMBLE | {"early_stopping": True, "max_iter": 60}
    model = FlowBNNRegressor(**options).fit(X, y)
    assert set(model.population_.metrics) == {"best_epoch", "n_epochs", "mse"}
    assert 0.1 < model.likelihood_.scale < 1
    assert model.seen_inputs_.total_weight == 90
    predicted = FlowBNNRegressor(**options | {"noise": "predicted"}).fit(X, y)
    assert "nll" in predicted.population_.metrics


def test_a_warm_start_trains_the_old_networks():
    X, y = IRIS
    model = FlowBNNClassifier(warm_start=True, **FAST).fit(X, y)
    first = model.population_
    model.set_params(max_iter=5).fit(X, y)
    expected = training(slice(None), y, init=first, n_epochs=5)
    assert torch.equal(model.population_.weights, expected.weights)
    assert model.n_iter_ == 5
    cold = FlowBNNClassifier(**FAST).fit(X, y).fit(X, y)
    assert torch.equal(cold.population_.weights, first.weights)


def test_a_warm_start_draws_the_networks_that_are_missing():
    X, y = IRIS
    model = FlowBNNClassifier(warm_start=True, **FAST).fit(X, y)
    old = torch.cat(
        [model.population_.weights, torch.as_tensor(model.posterior_.sample(6, random_state=0))]
    )
    model.set_params(n_networks=30, max_iter=5).fit(X, y)
    expected = training(slice(None), y, init=old, n_epochs=5)
    assert torch.equal(model.population_.weights, expected.weights)
    model.set_params(n_networks=10).fit(X, y)
    assert len(model.population_) == 10


def test_chains_go_on_from_their_last_networks():
    X, y = IRIS
    model = FlowBNNClassifier(warm_start=True, **FAST | CHAINS | {"n_networks": 30}).fit(X, y)
    last = model.population_.weights.view(10, 3, -1)[:, -1]
    model.set_params(max_iter=5).fit(X, y)
    starts = training(slice(None), y, init=last, n_epochs=5, alpha=1.0)
    Z = torch.as_tensor(model.scaler_.transform(X), dtype=torch.float32)
    expected = sample_population(
        starts.architecture,
        Z,
        torch.as_tensor(y),
        init=starts,
        n_draws=3,
        n_tune=50,
        sampler_options={"energy_variance": 0.1},
        random_state=0,
    )
    assert torch.equal(model.population_.weights, expected.weights)


def test_units_stay_those_of_the_first_fit():
    X, y = IRIS
    model = FlowBNNClassifier(warm_start=True, **FAST).fit(X, y)
    mean = model.scaler_.mean_
    np.testing.assert_array_equal(model.fit(X + 1, y).scaler_.mean_, mean)
    np.testing.assert_array_equal(model.partial_fit(X + 1, y).scaler_.mean_, mean)


def test_the_first_partial_fit_is_a_fit():
    X, y = IRIS
    first = FlowBNNClassifier(**FAST).partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(first.networks_, FlowBNNClassifier(**FAST).fit(X, y).networks_)
    target = X[:, 0]
    for kind in (CHAINS, ENSEMBLE):
        first, fit = (FlowBNNRegressor(**FAST | kind) for _ in range(2))
        first.partial_fit(X, target)
        np.testing.assert_array_equal(first.networks_, fit.fit(X, target).networks_)


def distance(a, b):
    return np.sqrt(np.mean(np.square(a - b)))


def test_two_halves_of_a_line_give_the_line_of_both():
    """Without hidden layers and prior the update is exact: least squares on all targets."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    y = np.column_stack([X.sum(1), X[:, 0]]) + rng.normal(size=(120, 2))
    low = X[:, 0] < 0
    options = {"hidden_layer_sizes": (), "alpha": 0.0, "max_iter": 150, "batch_size": 120}
    model = FlowBNNRegressor(validation_fraction=0.01, **FAST | ENSEMBLE | options)
    model.partial_fit(X[low], y[low]).partial_fit(X[~low], y[~low])
    both, *halves = (
        LinearRegression().fit(X[rows], y[rows]).predict(X) for rows in (low | True, low, ~low)
    )
    assert min(distance(half, both) for half in halves) > 0.15
    # One target of each half is held out for the noise.
    assert distance(model.predict(X), both) < 0.05


BLOBS = np.random.default_rng(0).normal(size=(240, 2))
LABELS = np.where(BLOBS[:, 0] * BLOBS[:, 1] > 0, "same", "other")


@pytest.mark.parametrize("population", ["ensemble", "mcmc"])
def test_two_halves_of_labels_are_closer_to_both_than_to_either(population):
    options = FAST | CHAINS | {"population": population, "n_networks": 100, "n_samples": 50}
    options |= {"max_iter": 60, "hidden_layer_sizes": (16,), "n_tune": 200}
    left = BLOBS[:, 0] < 0
    both, *halves = (
        FlowBNNClassifier(**options).fit(BLOBS[rows], LABELS[rows]).predict_proba(BLOBS)
        for rows in (left | True, left, ~left)
    )
    model = FlowBNNClassifier(**options).partial_fit(BLOBS[left], LABELS[left])
    model.partial_fit(BLOBS[~left], LABELS[~left])
    found = distance(model.predict_proba(BLOBS), both)
    assert found < min(distance(half, both) for half in halves) / 2
    assert model.population_.task == "classification"
    assert model.seen_inputs_.total_weight == 240


@pytest.mark.parametrize("population", ["ensemble", "mcmc"])
@pytest.mark.parametrize("noise", ["constant", "predicted"])
def test_two_halves_of_targets_are_closer_to_both_than_to_either(population, noise):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (240, 1))
    y = 50 + 10 * np.abs(X[:, 0]) + rng.normal(size=240)
    options = FAST | CHAINS | {"population": population, "noise": noise, "n_tune": 200}
    options |= {"n_networks": 100, "n_samples": 50, "max_iter": 60}
    low = X[:, 0] < 0
    both, *halves = (
        FlowBNNRegressor(**options).fit(X[rows], y[rows]).predict(X)
        for rows in (low | True, low, ~low)
    )
    model = FlowBNNRegressor(**options).partial_fit(X[low], y[low]).partial_fit(X[~low], y[~low])
    found = distance(model.predict(X), both)
    assert found < min(distance(half, both) for half in halves) / 2
    assert model.likelihood_.task == model.population_.task == "regression"


def test_the_sample_of_seen_inputs_follows_their_weights():
    seen, numbers, weights = None, [300, 700, 3000, 4000], [1.0, 0.5, 2.0, 0.25]
    for k, (n, w) in enumerate(zip(numbers, weights, strict=True)):
        seen = remember(seen, np.full((n, 1), float(k)), np.full(n, w))
        assert len(seen.inputs) == len(seen.weights) <= 1024
    totals = np.multiply(numbers, weights)
    assert seen.total_weight == pytest.approx(totals.sum())
    shares = np.bincount(seen.inputs[:, 0].astype(int), seen.weights)
    # Every fit of a later one may move an end of a share by a place in 1,024.
    np.testing.assert_allclose(shares / totals.sum(), totals / totals.sum(), atol=4e-3)
    few = remember(None, np.zeros((5, 1)), np.arange(1.0, 6.0))
    np.testing.assert_array_equal(few.weights, [1, 2, 3, 4, 5])


def test_a_heavy_input_is_remembered_once_with_its_weight():
    weights = np.ones(3000)
    weights[1234] = 9000.0  # three quarters of all
    seen = remember(None, np.arange(3000.0)[:, None], weights)
    (heavy,) = seen.weights[seen.inputs[:, 0] == 1234]
    # To within the weight of a place.
    assert abs(heavy - 9000) < 12000 / 1024
    assert seen.total_weight == pytest.approx(11999)


def test_what_cannot_go_on_is_named():
    X, y = IRIS
    model = FlowBNNClassifier(warm_start=True, **FAST).fit(X[:100], y[:100])
    with pytest.raises(ValueError, match=r"labels among \[0 1\], got \[2\]"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="X has 2 features.* expecting 4"):
        model.partial_fit(X[:, :2], y)
    with pytest.raises(ValueError, match=r"classes must be those of the first call, \[0 1\]"):
        model.partial_fit(X[:100], y[:100], classes=[0, 1, 2])
    with pytest.raises(ValueError, match="go on with the networks of the last fit.*fit a clone"):
        model.set_params(hidden_layer_sizes=(9,)).fit(X[:100], y[:100])
    with pytest.raises(ValueError, match="early_stopping must be one of .*got 'yes'"):
        FlowBNNClassifier(early_stopping="yes", **FAST).fit(X, y)
    with pytest.raises(ValueError, match="warm_start must be one of .*got 2"):
        FlowBNNClassifier(warm_start=2, **FAST).fit(X, y)
    regressor = FlowBNNRegressor(**FAST | ENSEMBLE).fit(X, X[:, :2])
    with pytest.raises(ValueError, match=r"y must have 2 target.s. per input, as in the last fit"):
        regressor.partial_fit(X, y)
