"""Early stopping against the loop of scikit-learn's MLPClassifier over losses of every epoch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesflow_nn.weights import Architecture, HeteroscedasticNormal, train_population

N_NETWORKS, N_EPOCHS = 20, 40
RULE = {"n_iter_no_change": 3, "tol": 2e-3}
MLP = Architecture.mlp([4, 8, 3])
MODULE = Architecture(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Identity()))


@pytest.fixture(scope="module")
def data():
    """Labels of which a third are wrong, so that networks overfit."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(90, 4, generator=generator)
    y = X[:, :3].argmax(1)
    wrong = torch.rand(90, generator=generator) < 0.33
    y[wrong] = torch.randint(3, (90,), generator=generator)[wrong]
    return (X[:60], y[:60]), (X[60:], y[60:])


def options(held_out, **more):
    return {
        "n_networks": N_NETWORKS,
        "learning_rate": 2e-2,
        "n_epochs": N_EPOCHS,
        "batch_size": 16,
        "validation_data": held_out,
        "random_state": 0,
    } | more


def best_and_last_epoch(losses):
    """As MLPClassifier counts them, from 1, for a score that is minus the loss."""
    best_score, best_epoch, n_stalls = -np.inf, None, 0
    for epoch, loss in enumerate(losses, 1):
        n_stalls = n_stalls + 1 if -loss < best_score + RULE["tol"] else 0
        if -loss > best_score:
            best_score, best_epoch = -loss, epoch
        if n_stalls > RULE["n_iter_no_change"]:
            break
    return best_epoch, epoch


@pytest.mark.parametrize("architecture", [MLP, MODULE], ids=["mlp", "module"])
def test_each_network_stops_as_scikit_learns_would(data, architecture):
    train, (X, y) = data
    every_epoch = train_population(architecture, *train, **options((X, y), stride=4))
    outputs = every_epoch.apply(X).double()
    losses = torch.stack([F.cross_entropy(f, y) for f in outputs]).view(N_NETWORKS, N_EPOCHS)
    weights = every_epoch.weights.view(N_NETWORKS, N_EPOCHS, -1)
    expected = [best_and_last_epoch(row.tolist()) for row in losses]
    stopped = train_population(architecture, *train, **options((X, y), early_stopping=True, **RULE))
    assert stopped.metrics["best_epoch"].tolist() == [best for best, _ in expected]
    assert stopped.metrics["n_epochs"].tolist() == [last for _, last in expected]
    assert min(last for _, last in expected) < N_EPOCHS // 2  # the rule has acted,
    assert len({best for best, _ in expected}) > 5  # and not on all alike
    for row, epochs, (best, _) in zip(stopped.weights, weights, expected, strict=True):
        torch.testing.assert_close(row, epochs[best - 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_it_depends_neither_on_the_chunk_size_nor_on_the_other_networks(data, chunk_size):
    train, held_out = data
    given = options(held_out, early_stopping=True, **RULE)
    whole = train_population(MLP, *train, chunk_size=N_NETWORKS, **given)
    parts = train_population(MLP, *train, chunk_size=chunk_size, **given)
    few = train_population(MLP, *train, **given | {"n_networks": 5})
    assert torch.equal(whole.weights, parts.weights)
    assert torch.equal(whole.metrics["n_epochs"], parts.metrics["n_epochs"])
    assert torch.equal(whole.weights[:5], few.weights)


def test_squared_errors_judge_a_regression_without_a_likelihood(data):
    (X, _), (X_held_out, _) = data
    line = Architecture.mlp([4, 1])
    population = train_population(
        line,
        X,
        X.sum(1),
        **options((X_held_out, X_held_out.sum(1)), early_stopping=True, n_iter_no_change=N_EPOCHS),
    )
    mse = population.metrics["mse"]
    assert (population.metrics["n_epochs"] == N_EPOCHS).all()
    assert (mse < 0.1).all()


@pytest.mark.parametrize("architecture", [MLP, MODULE], ids=["mlp", "module"])
def test_a_held_out_weight_of_two_is_an_input_given_twice(data, architecture):
    train, (X, y) = data
    w = torch.arange(30) % 4  # zero: left out
    twice = X.repeat_interleave(w, 0), y.repeat_interleave(w)
    rule = {"early_stopping": True, **RULE}
    weighted, repeated, plain = (
        train_population(architecture, *train, **options(held_out, **rule))
        for held_out in ((X, y, w), twice, (X, y))
    )
    assert torch.equal(weighted.metrics["best_epoch"], repeated.metrics["best_epoch"])
    assert not torch.equal(weighted.metrics["best_epoch"], plain.metrics["best_epoch"])
    for name in ("nll", "accuracy"):
        torch.testing.assert_close(weighted.metrics[name], repeated.metrics[name])


@pytest.mark.parametrize("likelihood", ["mse", HeteroscedasticNormal(0.1)], ids=["mse", "nll"])
def test_scores_of_targets_are_weighted_means(data, likelihood):
    (X, _), (X_held_out, _) = data
    y, w = torch.stack([X_held_out[:, 0], X_held_out.sum(1)], 1), torch.arange(1.0, 31.0)
    population = train_population(
        Architecture.mlp([4, 2 if likelihood == "mse" else 4]),
        X,
        torch.stack([X[:, 0], X.sum(1)], 1),
        loss=likelihood,
        **options((X_held_out, y, w), n_epochs=2),
    )
    outputs = population.apply(X_held_out)
    square = (outputs[..., :2] - y).square().mean(2).numpy()
    np.testing.assert_allclose(
        population.metrics["mse"], np.average(square, axis=1, weights=w), rtol=1e-5
    )
    if likelihood != "mse":
        log_p = likelihood.log_prob(outputs, y).numpy()
        np.testing.assert_allclose(
            population.metrics["nll"], np.average(-log_p, axis=1, weights=w), rtol=1e-4
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"validation_data": (1, 2, 3, 4)}, ValueError, r"must be .X, y. or .* got 4 entries"),
        (
            {"validation_data": (torch.zeros(2, 4), torch.zeros(2).long(), [1.0, -1.0])},
            ValueError,
            "validation_data: sample_weight must be finite and non-negative",
        ),
        ({"validation_data": None}, ValueError, "validation_data must be given for early_stopping"),
        ({"stride": 4}, ValueError, "stride must be None with early_stopping.*got 4"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change must be an integer of at least 1"),
        ({"tol": -1.0}, ValueError, "tol must be finite and >= 0"),
        ({"early_stopping": "yes"}, ValueError, "early_stopping must be one of"),
    ],
)
def test_wrong_arguments_are_named(data, changes, error, message):
    train, held_out = data
    with pytest.raises(error, match=message):
        train_population(MLP, *train, **options(held_out, early_stopping=True) | changes)
