"""Soft targets against data drawn from them, and against the data whose best model they are."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression

from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    HeteroscedasticNormal,
    LogPosterior,
    Normal,
    train_population,
)
from bayesflow_nn.weights.soft_targets import SoftCategorical, SoftNormal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_classes_are_the_expectation_over_labels():
    f, q = normal(4, 5, 3), normal(5, 3, seed=1).softmax(-1)
    labels = [Categorical().log_prob(f, torch.full((5,), k)) for k in range(3)]
    expected = sum(q[:, k] * log_p for k, log_p in enumerate(labels))
    torch.testing.assert_close(SoftCategorical().log_prob(f, q), expected)


@pytest.mark.parametrize("likelihood", [Normal((0.5, 2.0)), HeteroscedasticNormal(0.1)])
def test_normal_targets_are_an_expectation(likelihood):
    f = normal(4, 5, likelihood.n_outputs(2))
    mean, variance = normal(5, 2, seed=1), normal(5, 2, seed=2).exp()
    # Three-point Gauss-Hermite quadrature is exact for the square of a target.
    nodes, w = np.polynomial.hermite_e.hermegauss(3)
    points = [mean + variance.sqrt() * node for node in nodes]
    expected = sum(p * likelihood.log_prob(f, y) for p, y in zip(w / w.sum(), points, strict=True))
    soft = SoftNormal(likelihood)
    y = torch.cat([mean, variance], 1)
    assert soft.n_outputs(y.shape[1]) == likelihood.n_outputs(2)
    torch.testing.assert_close(soft.log_prob(f, y), expected)


def differences(log_posterior, weights):
    """Without the constant, that is on the networks beyond the first."""
    values = log_posterior.log_likelihood(weights)
    return values[1:] - values[0]


def test_the_best_logistic_model_stands_for_its_labels():
    X = normal(80, 2)
    y = (X @ normal(2, 3, seed=1) + normal(80, 3, seed=2)).argmax(1)
    best = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(X, y)
    line, weights = Architecture.mlp([2, 3]), normal(6, 9, seed=3)
    proba = torch.as_tensor(best.predict_proba(X))
    soft = LogPosterior(line, X, proba, likelihood=SoftCategorical())
    expected = differences(LogPosterior(line, X, y), weights)
    torch.testing.assert_close(differences(soft, weights), expected, rtol=1e-5, atol=1e-4)
    value, gradient = soft.value_and_gradient(weights)
    torch.testing.assert_close(value, soft(weights))
    leaf = weights.clone().requires_grad_()
    soft(leaf).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)


def test_the_best_line_stands_for_its_targets():
    X = normal(80, 2)
    y = X @ normal(2, 2, seed=1) + normal(80, 2, seed=2)
    mean = torch.as_tensor(LinearRegression().fit(X, y).predict(X))
    line, weights = Architecture.mlp([2, 2]), normal(6, 6, seed=3)
    rows = torch.cat([mean, torch.zeros_like(mean)], 1)
    soft = LogPosterior(line, X, rows, likelihood=SoftNormal(Normal(0.7)))
    expected = differences(LogPosterior(line, X, y, likelihood=0.7), weights)
    torch.testing.assert_close(differences(soft, weights), expected)


def test_networks_are_trained_on_probabilities():
    X, q = torch.zeros(8, 2), torch.tensor([0.2, 0.3, 0.5])
    population = train_population(
        Architecture.mlp([2, 3]),
        X,
        q.expand(8, 3),
        n_networks=3,
        loss=SoftCategorical(),
        learning_rate=0.05,
        n_epochs=300,
        random_state=0,
    )
    assert population.task == "classification"
    torch.testing.assert_close(
        population.apply(X).softmax(-1), q.expand(3, 8, 3), rtol=0, atol=1e-3
    )
