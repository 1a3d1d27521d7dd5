"""Weights of inputs in training and sampling, against loops, repeated rows and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from bayesflow_nn.weights import (
    Architecture,
    HeteroscedasticNormal,
    sample_population,
    train_population,
)
from bayesflow_nn.weights.minibatches import MinibatchOrder

SEED = 3
N_INPUTS = 37
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N_INPUTS, 5, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(3, (N_INPUTS,), generator=GENERATOR)
TARGETS = torch.stack([X[:, 0], X[:, 1:].sum(1)], 1)
W = torch.rand(N_INPUTS, generator=GENERATOR, dtype=torch.float64) + 0.1
INTEGERS = torch.arange(N_INPUTS) % 3 + 1


def gaussian_loss(outputs, y):
    """PyTorch's own loss of a mean and a log scale per target, and its constant."""
    variance = (0.2 + outputs[:, 2:].exp()).square()
    return 2 * F.gaussian_nll_loss(outputs[:, :2], y, variance, full=True)


PROBLEMS = {
    "cross_entropy": ("cross_entropy", LABELS, 3, F.cross_entropy),
    "mse": ("mse", TARGETS, 2, F.mse_loss),
    "likelihood": (HeteroscedasticNormal(min_scale=0.2), TARGETS, 4, gaussian_loss),
}


def make_architecture(is_mlp, n_outputs):
    if is_mlp:
        return Architecture.mlp([5, 8, 6, n_outputs])
    layers = nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, n_outputs), nn.Identity()
    architecture = Architecture(nn.Sequential(*layers).double())
    assert not architecture.is_mlp
    return architecture


def random_weights(architecture, n_networks=4):
    generator = torch.Generator().manual_seed(1)
    shape = n_networks, architecture.n_weights
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.1**0.5


def loop(architecture, y, initial, loss, shared):
    """One network, one minibatch and one input after the other, by ``torch.optim``."""
    scaled = N_INPUTS * W / W.sum()
    rows = []
    for i, row in enumerate(initial):
        module = architecture.to_module(row)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01, weight_decay=0.1)
        networks = range(i, i + 1)
        order = MinibatchOrder(SEED, networks, n_inputs=N_INPUTS, batch_size=8, shared=shared)
        for _ in range(3):
            for (batch,) in order.next_epoch():
                optimizer.zero_grad()
                terms = [scaled[i] * loss(module(X[i : i + 1]), y[i : i + 1]) for i in batch]
                (sum(terms) / len(batch)).backward()
                optimizer.step()
        rows.append(nn.utils.parameters_to_vector(module.parameters()).detach())
    return torch.stack(rows)


@pytest.mark.parametrize("minibatches", ["independent", "shared"])
@pytest.mark.parametrize("is_mlp", [True, False])
@pytest.mark.parametrize("name", PROBLEMS)
def test_training_equals_a_loop_over_inputs(name, is_mlp, minibatches):
    loss, y, n_outputs, loss_of_one = PROBLEMS[name]
    architecture = make_architecture(is_mlp, n_outputs)
    initial = random_weights(architecture)
    population = train_population(
        architecture,
        X,
        y,
        sample_weight=7 * W,  # only ratios matter
        loss=loss,
        init=initial,
        learning_rate=0.01,
        weight_decay=0.1,
        n_epochs=3,
        batch_size=8,  # of 37 inputs the last minibatch holds 5
        minibatches=minibatches,
        random_state=SEED,
    )
    expected = loop(architecture, y, initial, loss_of_one, minibatches == "shared")
    torch.testing.assert_close(population.weights, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("is_mlp", [True, False])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_weight_of_two_is_a_row_given_twice(name, is_mlp):
    loss, y, n_outputs, _ = PROBLEMS[name]
    architecture = make_architecture(is_mlp, n_outputs)
    options = {
        "loss": loss,
        "init": random_weights(architecture),
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "batch_size": 1000,  # all inputs
        "n_epochs": 20,
        "random_state": SEED,
    }
    weighted = train_population(architecture, X, y, sample_weight=INTEGERS, **options)
    repeated = train_population(
        architecture, X.repeat_interleave(INTEGERS, 0), y.repeat_interleave(INTEGERS, 0), **options
    )
    # Equal but for the order of sums, whose rounding 20 steps magnify only a little.
    torch.testing.assert_close(weighted.weights, repeated.weights, rtol=0, atol=1e-8)


@pytest.mark.parametrize("is_mlp", [True, False])
def test_rows_of_weight_zero_are_left_out_and_equal_weights_are_none(is_mlp):
    architecture = make_architecture(is_mlp, 3)
    options = {"n_networks": 3, "n_epochs": 3, "batch_size": 8, "random_state": SEED}
    kept = torch.arange(N_INPUTS) % 4 > 0
    labels = torch.where(kept, LABELS, 99)  # no such class
    with_zeros = train_population(architecture, X, labels, sample_weight=W * kept, **options)
    removed = train_population(
        architecture, X[kept], LABELS[kept], sample_weight=W[kept], **options
    )
    assert torch.equal(with_zeros.weights, removed.weights)
    assert torch.equal(with_zeros.inputs, removed.inputs)
    plain = train_population(architecture, X, LABELS, **options)
    assert not torch.equal(with_zeros.weights, plain.weights)
    equal = train_population(architecture, X, LABELS, sample_weight=[0.3] * N_INPUTS, **options)
    assert torch.equal(equal.weights, plain.weights)


def test_chunks_and_threads_do_not_change_weighted_training():
    options = {"n_networks": 20, "n_epochs": 2, "batch_size": 8, "random_state": SEED}
    mlp = make_architecture(True, 3)
    whole, parts = (
        train_population(mlp, X, LABELS, sample_weight=W, chunk_size=size, **options)
        for size in (20, 7)
    )
    assert torch.equal(whole.weights, parts.weights)


def test_logistic_regression_is_that_of_scikit_learn():
    alpha = 3.0
    reference = LogisticRegression(C=1 / alpha, fit_intercept=False, tol=1e-10, max_iter=1000)
    reference.fit(X.numpy(), LABELS.numpy(), W.numpy())
    # The mean loss is 0.1-strongly convex and about 1-smooth: momentum loses a factor of at least
    # e per 20 steps.
    population = train_population(
        Architecture.mlp([5, 3], bias=False),
        X,
        LABELS,
        sample_weight=W,
        n_networks=2,
        weight_decay=alpha / W.sum().item(),
        optimizer="sgd",
        learning_rate=0.5,
        momentum=0.9,
        batch_size=N_INPUTS,
        n_epochs=1000,
        random_state=SEED,
    )
    for row in population.weights:
        np.testing.assert_allclose(row.view(3, 5), reference.coef_, atol=1e-6)


@pytest.mark.parametrize("is_mlp", [True, False])
@pytest.mark.parametrize("sampler", ["mclmc", "hmc", "sgld"])
def test_chains_see_integer_weights_as_repeated_rows(sampler, is_mlp):
    architecture = make_architecture(is_mlp, 3)
    options = {
        "sampler": sampler,
        "init": random_weights(architecture),
        "n_tune": 5,
        "n_draws": 3,
        "random_state": SEED,
    }
    weighted = sample_population(architecture, X, LABELS, sample_weight=INTEGERS, **options)
    repeated = sample_population(
        architecture,
        X.repeat_interleave(INTEGERS, 0),
        LABELS.repeat_interleave(INTEGERS),
        **options,
    )
    # Equal but for the order of sums, whose rounding few steps magnify only a little.
    torch.testing.assert_close(weighted.weights, repeated.weights, rtol=0, atol=1e-8)
    torch.testing.assert_close(weighted.metrics["lp"], repeated.metrics["lp"], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sample_weight": W[:9]}, r"sample_weight must have shape \(37,\), .* got \(9,\)"),
        ({"sample_weight": W[:, None]}, r"sample_weight must have shape .* got \(37, 1\)"),
        ({"sample_weight": 2.0}, r"sample_weight must have shape \(37,\)"),
        ({"sample_weight": torch.where(W > 1, -W, W)}, "sample_weight must be finite and non-neg"),
        ({"sample_weight": [np.nan, np.inf] + [1] * 35}, "got other weights in rows 0, 1"),
        ({"sample_weight": 0 * W}, "sample_weight must hold a positive weight, got only zeros"),
        ({"loss": F.cross_entropy}, "sample_weight needs a loss of single inputs.*got a callable"),
    ],
)
def test_bad_weights_are_named(changes, match):
    arguments = {"sample_weight": W, "n_networks": 2, "n_epochs": 1} | changes
    with pytest.raises(ValueError, match=match):
        train_population(make_architecture(True, 3), X, LABELS, **arguments)
