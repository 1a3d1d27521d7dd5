"""Weights of inputs in updates with new data: least squares, repeated rows, sums written out."""

import numpy as np
import pytest
import torch
from fast_estimators import CHAINS, ENSEMBLE, FAST
from scipy.special import log_softmax
from scipy.stats import norm
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

from bayesflow_nn import FlowBNNClassifier, FlowBNNRegressor
from bayesflow_nn.estimators import population, regressor
from bayesflow_nn.weights import LogPosterior, Normal

X, Y = load_iris(return_X_y=True)
OLD, NEW = np.arange(0, 150, 2), np.arange(1, 150, 2)
RNG = np.random.default_rng(0)
W = RNG.uniform(0.2, 3, 150)
COUNTS = RNG.integers(0, 4, 150)


def test_two_weighted_halves_of_a_line_give_the_line_of_both():
    """Without hidden layers and prior the update is exact: weighted least squares."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(120, 2))
    y = np.column_stack([np.abs(Z).sum(1), Z[:, 0] ** 2])  # no line
    w = np.where(rng.random(120) < 0.5, 0.05, 2.0) * np.where(Z[:, 1] > 0, 1, 3)
    halves = np.flatnonzero(Z[:, 0] < 0), np.flatnonzero(Z[:, 0] >= 0)
    options = {"hidden_layer_sizes": (), "alpha": 0.0, "max_iter": 600, "batch_size": 120}
    model = FlowBNNRegressor(validation_fraction=0.01, **FAST | ENSEMBLE | options)
    for rows in halves:
        model.partial_fit(Z[rows], y[rows], w[rows])
    # One target of each half is held out for the noise.
    rows = np.concatenate([train_test_split(r, test_size=1, random_state=0)[0] for r in halves])
    weighted, plain = (
        LinearRegression().fit(Z[rows], y[rows], weight).predict(Z)
        for weight in (w[rows], np.ones(118))
    )
    assert np.sqrt(np.mean(np.square(plain - weighted))) > 0.15
    # Trained networks; the flow of FAST adds an error of its own.
    scaled = torch.as_tensor(model.scaler_.transform(Z), dtype=torch.float32)
    f = model.target_scaler_.inverse_transform(model.population_.apply(scaled).mean(0))
    assert np.abs(f - weighted).max() < 1e-5


@pytest.fixture
def chain_arguments(monkeypatch):
    """What estimators pass to `sample_population`."""
    calls, original = [], population.sample_population

    def spy(*args, **options):
        calls.append((args, options))
        return original(*args, **options)

    monkeypatch.setattr(population, "sample_population", spy)
    return calls


def log_likelihood_and_outputs(chain_arguments, inputs):
    """Of some networks: log likelihoods that chains were asked to sample, and outputs."""
    (architecture, *data), options = chain_arguments[-1]
    weights = torch.randn(5, architecture.n_weights, generator=torch.Generator().manual_seed(0))
    names = "sample_weight", "likelihood"
    target = LogPosterior(architecture, *data, **{name: options[name] for name in names})
    outputs = architecture.apply(weights, torch.as_tensor(inputs, dtype=torch.float32))
    return target.log_likelihood(weights).numpy(), outputs.double().numpy()


def test_chains_see_old_and_new_labels_with_their_weights(chain_arguments):
    model = FlowBNNClassifier(**FAST | CHAINS).partial_fit(X[OLD], Y[OLD], None, W[OLD])
    Z = model.scaler_.transform(X)
    old = model.population_.apply(torch.as_tensor(Z[OLD], dtype=torch.float32))
    q = old.softmax(-1).mean(0).numpy()
    model.partial_fit(X[NEW], Y[NEW], None, W[NEW])
    found, f = log_likelihood_and_outputs(chain_arguments, Z)
    log_p = log_softmax(f, -1)
    expected = sum(W[i] * (q[j] * log_p[:, i]).sum(1) for j, i in enumerate(OLD))
    expected += sum(W[i] * log_p[:, i, Y[i]] for i in NEW)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_chains_see_old_and_new_targets_with_their_weights(chain_arguments):
    t = X[:, :2] @ [[1.0, 2.0], [0.5, -1.0]]
    model = FlowBNNRegressor(**FAST | CHAINS).partial_fit(X[OLD], t[OLD], W[OLD])
    Z, t = model.scaler_.transform(X), model.target_scaler_.transform(t)
    old = model.population_.apply(torch.as_tensor(Z[OLD], dtype=torch.float32)).double()
    mean, scale = old.numpy()[..., :2], 1e-3 + np.exp(old.numpy()[..., 2:])
    m, v = mean.mean(0), mean.var(0) + np.square(scale).mean(0)
    model.partial_fit(X[NEW], model.target_scaler_.inverse_transform(t[NEW]), W[NEW])
    found, f = log_likelihood_and_outputs(chain_arguments, Z)
    law = norm(f[..., :2], 1e-3 + np.exp(f[..., 2:]))
    expected = sum(W[i] * law.logpdf(t)[:, i].sum(1) for i in NEW)
    for j, i in enumerate(OLD):  # of a normal target: at the mean, and half of v / variance less
        at_mean = norm(f[:, i, :2], 1e-3 + np.exp(f[:, i, 2:])).logpdf(m[j])
        expected += W[i] * (at_mean - v[j] / law.var()[:, i] / 2).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("noise", [None, "predicted"])
def test_a_new_weight_of_two_is_an_input_given_twice(noise):
    options = FAST | {"batch_size": 1000, "activation": "tanh", "max_iter": 10, "alpha": 5.0}
    options["population"] = "ensemble"
    if noise is None:
        models, y = [FlowBNNClassifier(**options) for _ in range(3)], Y
    else:
        models, y = [FlowBNNRegressor(noise=noise, **options) for _ in range(3)], X[:, 0]
    w = COUNTS[NEW]
    for model in models:
        model.fit(X[OLD], y[OLD])
    weighted, repeated, plain = models
    weighted.partial_fit(X[NEW], y[NEW], sample_weight=w)
    repeated.partial_fit(X[NEW].repeat(w, 0), y[NEW].repeat(w))
    plain.partial_fit(X[NEW], y[NEW])
    a, b, c = (model.population_.weights for model in models)
    # Single precision, with sums in another order.
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert (c - b).abs().max() > 1e-2
    assert weighted.seen_inputs_.total_weight == repeated.seen_inputs_.total_weight == 75 + w.sum()


def test_the_constant_noise_is_pooled_by_weight(monkeypatch):
    y, seen = X[:, 0], []

    def fit_noise(*args, sample_weight):
        seen.append(sample_weight)
        return Normal(float(len(seen)))  # 1, then 2

    monkeypatch.setattr(regressor, "fit_noise", fit_noise)
    model = FlowBNNRegressor(**FAST | ENSEMBLE)
    totals = []
    for rows in (OLD, NEW):
        model.partial_fit(X[rows], y[rows], W[rows])
        train, held_out = train_test_split(W[rows], test_size=8, random_state=0)
        np.testing.assert_array_equal(seen[-1], held_out)
        totals.append(train.sum())
    expected = np.sqrt((totals[0] * 1 + totals[1] * 4) / sum(totals))
    assert model.likelihood_.scale == pytest.approx(expected)


def test_new_rows_of_weight_zero_are_left_out():
    w = COUNTS[NEW]
    labels = np.where(w == 0, 9, Y[NEW])  # an unknown label
    with_zeros, without = (
        FlowBNNClassifier(**FAST).fit(X[OLD], Y[OLD]).partial_fit(X[rows], y, None, weight)
        for rows, y, weight in ((NEW, labels, w), (NEW[w > 0], Y[NEW][w > 0], w[w > 0]))
    )
    np.testing.assert_array_equal(with_zeros.networks_, without.networks_)


def test_classes_have_weights_in_updates():
    factors = {0: 2.0, 2: 0.5}
    by_class = FlowBNNClassifier(class_weight=factors, **FAST)
    by_row = FlowBNNClassifier(**FAST)
    for rows in (OLD, NEW[25:]):  # the new data lack the first class
        of_rows = W[rows] * np.array([2.0, 1.0, 0.5])[Y[rows]]
        by_class.partial_fit(X[rows], Y[rows], sample_weight=W[rows])
        by_row.partial_fit(X[rows], Y[rows], sample_weight=of_rows)
    np.testing.assert_array_equal(by_class.networks_, by_row.networks_)
    assert by_class.seen_inputs_.total_weight == by_row.seen_inputs_.total_weight


def test_what_an_update_cannot_weigh_is_named():
    model = FlowBNNClassifier(class_weight="balanced", **FAST)
    for _ in range(2):  # a first call, and an update
        with pytest.raises(ValueError, match="class_weight must be a dict or None for partial_fit"):
            model.partial_fit(X, Y)
        model.fit(X, Y)
    model.set_params(class_weight={0: 0.0})
    with pytest.raises(ValueError, match="not all zero for the labels in y"):
        model.partial_fit(X[:50], Y[:50])
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(150,\)"):
        model.partial_fit(X, Y, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="sample_weight must be finite and non-negative"):
        FlowBNNRegressor(**FAST | ENSEMBLE).partial_fit(X, X[:, 0], -W)
