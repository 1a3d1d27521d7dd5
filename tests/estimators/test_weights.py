"""Weights of inputs in the fits of estimators: repeated rows, parts written out, scikit-learn."""

import numpy as np
import pytest
import torch
from fast_estimators import CHAINS, ENSEMBLE, FAST
from sklearn.datasets import load_iris
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from bayesflow_nn import (
    Architecture,
    FlowBNNClassifier,
    FlowBNNRegressor,
    sample_population,
    train_population,
)
from bayesflow_nn.estimators.input_weights import apply_class_weight
from bayesflow_nn.estimators.inputs import fit_scaler


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def line():
    """Noise of deviation 5 about a line in large units, over one input."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 1))
    return X, 1000 + 20 * X[:, 0] + 5 * rng.normal(size=400)


def test_balanced_classes_are_the_weights_of_scikit_learn(iris):
    rows = [*range(80), *range(100, 110)]  # 50, 30 and 10 of the classes
    X, y = iris[0][rows], iris[1][rows]
    w = np.arange(len(y)) % 3 + 1.0
    repeated = y.repeat(w.astype(int))
    # What scikit-learn makes of repeated rows: classes are counted with their weights.
    of_class = dict(zip(repeated, compute_sample_weight("balanced", repeated), strict=True))
    for weight, counted, of_rows in (
        (None, y, compute_sample_weight("balanced", y)),
        (w, repeated, w * [of_class[label] for label in y]),
    ):
        assert of_rows.sum() == pytest.approx(len(counted))
        balanced = FlowBNNClassifier(class_weight="balanced", **FAST).fit(X, y, weight)
        by_rows = FlowBNNClassifier(**FAST).fit(X, y, of_rows)
        np.testing.assert_array_equal(balanced.networks_, by_rows.networks_)


def test_classes_have_weights_by_their_names(iris):
    X, y = iris
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    by_class = FlowBNNClassifier(class_weight={"virginica": 0.0, "setosa": 3}, **FAST)
    by_class.fit(X, names, np.full(150, 2.0))
    by_rows = FlowBNNClassifier(**FAST).fit(X, names, np.array([6.0, 2.0, 1e-300])[y])
    assert list(by_class.classes_) == ["setosa", "versicolor", "virginica"]  # the last has no data
    np.testing.assert_allclose(by_class.scaler_.mean_, by_rows.scaler_.mean_)
    assert "virginica" not in by_class.predict(X)


def test_weights_reach_the_scalers_the_loss_and_the_score(line):
    X, y = line
    w = np.random.default_rng(0).uniform(0.5, 2, len(y))
    model = FlowBNNRegressor(**FAST | ENSEMBLE).fit(X, y, w)
    np.testing.assert_allclose(model.scaler_.mean_, np.average(X, axis=0, weights=w))
    mean = np.average(y, weights=w)
    np.testing.assert_allclose(model.target_scaler_.mean_, mean)
    np.testing.assert_allclose(model.target_scaler_.var_, np.average((y - mean) ** 2, weights=w))
    assert model.score(X, y, w) == r2_score(y, model.predict(X), sample_weight=w)
    assert model.log_predictive_density(X, y).shape == (400,)
    labels = y > 1000
    classifier = FlowBNNClassifier(**FAST).fit(X, labels, w)
    expected = accuracy_score(labels, classifier.predict(X), sample_weight=w)
    assert classifier.score(X, labels, w) == expected
    np.testing.assert_allclose(classifier.scaler_.var_, model.scaler_.var_)


@pytest.mark.parametrize("kind", ["classes", "constant", "predicted"])
def test_rows_of_weight_zero_are_left_out(line, kind):
    X, y = line
    w = np.random.default_rng(0).integers(0, 3, len(y))
    if kind == "classes":
        model, y = FlowBNNClassifier(**FAST), np.where(w == 0, 7, y > 1000)  # 7 has no weight
    else:
        model = FlowBNNRegressor(**FAST | ENSEMBLE | {"noise": kind})
    networks = model.fit(X, y, w).networks_
    likelihood = getattr(model, "likelihood_", None)
    model.fit(X[w > 0], y[w > 0], w[w > 0])
    np.testing.assert_array_equal(networks, model.networks_)
    assert likelihood == getattr(model, "likelihood_", None)


@pytest.mark.parametrize("noise", [None, "predicted"])
def test_a_weight_of_two_is_an_input_given_twice_beside_alpha(line, noise):
    X, y = line
    w = np.arange(400) % 2 + 1
    options = FAST | {"alpha": 50.0, "batch_size": 1000, "activation": "tanh", "max_iter": 10}
    options["population"] = "ensemble"
    if noise is None:
        model, y = FlowBNNClassifier(**options), y > 1000
    else:
        model = FlowBNNRegressor(noise=noise, **options)
    weighted = model.fit(X, y, w).population_.weights
    repeated = model.fit(X.repeat(w, 0), y.repeat(w)).population_.weights
    # Single precision, with sums in another order; without weights they differ by more than 0.01.
    torch.testing.assert_close(weighted, repeated, rtol=0, atol=1e-4)
    assert (model.fit(X, y).population_.weights - repeated).abs().max() > 1e-2


def test_the_constant_noise_is_that_of_weighted_held_out_rows(line):
    X, _ = line
    rng = np.random.default_rng(0)
    noisy = rng.random(400) < 0.5
    y = 20 * X[:, 0] + np.where(noisy, 20.0, 2.0) * rng.normal(size=400)
    options = FAST | ENSEMBLE | {"validation_fraction": 0.5, "standardize": False}
    noises = [
        FlowBNNRegressor(**options).fit(X, y, w).likelihood_.scale
        for w in (None, np.where(noisy, 1e-6, 1.0))
    ]
    # Root mean squares of some 200 residuals: sqrt((400 + 4) / 2) = 14 and 2, by networks that
    # differ from the line by a few units.
    assert noises[0] > 10
    assert noises[1] < 5


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", ["ensemble", "mcmc"])
def test_weights_go_where_the_parts_take_them(iris, kind, early_stopping):
    X, y = iris
    w = np.random.default_rng(0).uniform(0.5, 2, 150)
    options = FAST | CHAINS | {"population": kind, "n_networks": 20, "alpha": 0.25}
    model = FlowBNNClassifier(early_stopping=early_stopping, **options).fit(X, y, w)
    scaler = StandardScaler().fit(X, sample_weight=w)
    Z = torch.as_tensor(scaler.transform(X), dtype=torch.float32)
    data, held_out, rows = (Z, torch.as_tensor(y), torch.as_tensor(w)), None, np.arange(150)
    train = rows
    if early_stopping:
        train, test = train_test_split(rows, test_size=15, random_state=0, stratify=y)
        held_out, rows = [values[test] for values in data], np.concatenate([train, test])
    expected = train_population(
        Architecture.mlp([4, 8, 3]),
        Z[train],
        data[1][train],
        sample_weight=w[train],
        n_networks=20 if kind == "ensemble" else 10,
        learning_rate=2e-2,
        weight_decay=0.25 / w[train].sum(),
        n_epochs=30,
        init="normal" if kind == "ensemble" else "kaiming",
        validation_data=held_out,
        early_stopping=early_stopping,
        random_state=0,
    )
    if kind == "mcmc":
        expected = sample_population(
            expected.architecture,
            Z[rows],
            data[1][rows],
            sample_weight=w[rows],
            init=expected,
            n_draws=2,
            n_tune=50,
            prior=2.0,
            sampler_options={"energy_variance": 0.1},
            random_state=0,
        )
    assert torch.equal(model.population_.weights, expected.weights)
    seen = rows if kind == "mcmc" else train  # chains see what stopping held out
    assert model.seen_inputs_.total_weight == pytest.approx(w[seen].sum())


def test_pixels_have_the_weight_of_their_image():
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(40, 2, 6, 5)), np.arange(40) % 3
    of_weights, of_rows = fit_scaler(X, w), fit_scaler(X.repeat(w, 0))
    np.testing.assert_allclose(of_weights.mean_, of_rows.mean_)
    np.testing.assert_allclose(of_weights.scale_, of_rows.scale_)


@pytest.mark.parametrize("kind", ["ensemble", "mcmc"])
def test_a_module_is_fitted_to_weighted_images(kind):
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(60, 2, 4, 4)), np.arange(60) % 3
    y = X[:, 0].mean((1, 2))
    module = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    options = FAST | CHAINS | {"population": kind, "noise": "constant"}
    model = FlowBNNRegressor(module=module, **options).fit(X, y, w)
    mean = np.average(X.mean((2, 3)), axis=0, weights=w)
    np.testing.assert_allclose(model.scaler_.mean_, mean)
    networks = model.networks_
    kept = model.fit(X[w > 0], y[w > 0], w[w > 0]).networks_
    np.testing.assert_array_equal(networks, kept)
    assert not np.array_equal(networks, model.fit(X[w > 0], y[w > 0]).networks_)


def test_a_warm_start_takes_other_weights(iris):
    X, y = iris
    w = np.random.default_rng(0).uniform(0.5, 2, 150)
    model = FlowBNNClassifier(warm_start=True, **FAST).fit(X, y)
    first = model.population_
    model.set_params(max_iter=5).fit(X, y, w)
    expected = train_population(
        first.architecture,
        torch.as_tensor(StandardScaler().fit_transform(X), dtype=torch.float32),
        torch.as_tensor(y),
        sample_weight=w,
        init=first,
        learning_rate=2e-2,
        weight_decay=1e-4 / w.sum(),
        n_epochs=5,
        random_state=0,
    )
    assert torch.equal(model.population_.weights, expected.weights)


def test_a_class_without_weight_stays_a_class_and_is_not_held_out(iris):
    X, y = iris
    options = FAST | {"early_stopping": True, "class_weight": {1: 0.0}}
    model = FlowBNNClassifier(**options).fit(X, y)
    assert list(model.classes_) == [0, 1, 2]
    assert model.seen_inputs_.total_weight == 90  # of 100, without a tenth
    assert 1 not in model.predict(X)


def test_balanced_classes_are_those_of_the_labels():
    weights = apply_class_weight("balanced", np.array(["a", "b", "c"]), np.array([0, 0, 2]), None)
    np.testing.assert_allclose(weights, [0.75, 0.75, 1.5])


@pytest.mark.parametrize(
    ("options", "weight", "message"),
    [
        ({}, np.full(150, -1.0), "sample_weight must be finite and non-negative"),
        ({}, np.zeros(150), "sample_weight must hold a positive weight, got only zeros"),
        ({}, np.ones(3), r"sample_weight must have shape \(150,\), .* got \(3,\)"),
        ({"class_weight": "even"}, None, "'class_weight' parameter.*Got 'even'"),
        ({"class_weight": {0: -1.0}}, None, "class_weight must hold finite, non-negative.*-1.0"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, None, "not all zero"),
        ({"class_weight": {0: 1, 9: 1}}, None, "are not in class_weight"),
    ],
)
def test_bad_weights_are_named(iris, options, weight, message):
    with pytest.raises(ValueError, match=message):
        FlowBNNClassifier(**FAST | options).fit(*iris, weight)
