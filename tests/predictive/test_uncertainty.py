"""Entropies of class predictions against scipy's, network by network."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from bayesflow_nn.predictive import output_moments, predict_proba, tiles
from bayesflow_nn.predictive.uncertainty import network_proba, predict_uncertainty
from bayesflow_nn.weights import Architecture

CHUNK_SIZES = [1, 5, 13, 10_000]  # one pair; part of the inputs; all inputs of one network; all
N_NETWORKS, N_INPUTS = 7, 9
FUNCTIONS = [predict_uncertainty, network_proba]


@pytest.fixture
def mlp():
    return Architecture.mlp([4, 6, 3])


@pytest.fixture
def weights(mlp):
    return torch.randn(
        N_NETWORKS, mlp.n_weights, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def X():
    return torch.randn(N_INPUTS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def proba(mlp, weights, X):
    """Probabilities of every network, run as a module of its own."""
    return torch.stack([mlp.to_module(row)(X).softmax(-1).detach() for row in weights]).numpy()


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_parts_are_entropies_of_the_average_and_of_the_networks(mlp, weights, X, proba, chunk_size):
    w = np.arange(N_NETWORKS) / np.arange(N_NETWORKS).sum()
    total, aleatoric, epistemic = predict_uncertainty(
        mlp, weights, X, network_weights=np.arange(N_NETWORKS), chunk_size=chunk_size
    )
    for i in range(N_INPUTS):
        average = sum(w[k] * proba[k, i] for k in range(N_NETWORKS))
        expected = sum(w[k] * entropy(proba[k, i]) for k in range(N_NETWORKS))
        assert total[i].item() == pytest.approx(entropy(average), rel=1e-12)
        assert aleatoric[i].item() == pytest.approx(expected, rel=1e-12)
        # The mean divergence of the networks from their average is the mutual information, too.
        divergence = sum(w[k] * entropy(proba[k, i], average) for k in range(N_NETWORKS))
        assert epistemic[i].item() == pytest.approx(divergence, rel=1e-9)


def test_equal_weights_are_the_default(mlp, weights, X):
    equal = predict_uncertainty(mlp, weights, X, network_weights=[3.0] * N_NETWORKS)
    for ours, expected in zip(predict_uncertainty(mlp, weights, X), equal, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_networks_that_agree_leave_nothing_open(mlp, weights, X):
    total, aleatoric, epistemic = predict_uncertainty(mlp, weights[:1].expand(5, -1), X)
    torch.testing.assert_close(total, aleatoric, rtol=1e-12, atol=0)
    # Sums of five equal terms round; a difference below zero would be no information.
    assert 0 <= epistemic.min() <= epistemic.max() < 1e-14


def test_networks_that_are_sure_of_different_classes_leave_all_open():
    # Each of three networks gives its own class a logit of 1,000: the others underflow to zero.
    linear = Architecture.mlp([1, 3], bias=False)
    total, aleatoric, epistemic = predict_uncertainty(linear, 1000 * torch.eye(3), torch.ones(1, 1))
    assert total.item() == epistemic.item() == pytest.approx(math.log(3))
    assert aleatoric.item() == 0


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_probabilities_are_those_of_each_network_alone(mlp, weights, X, proba, chunk_size):
    ours = network_proba(mlp, weights, X, chunk_size=chunk_size)
    np.testing.assert_allclose(ours, proba, rtol=1e-12)


def test_inputs_beyond_one_block_are_predicted_as_alone(mlp, weights, X, monkeypatch):
    functions = [*FUNCTIONS, predict_proba, output_moments]
    together = [function(mlp, weights, X) for function in functions]
    monkeypatch.setattr(tiles, "_INPUTS", 4)
    for function, expected in zip(functions, together, strict=True):
        torch.testing.assert_close(function(mlp, weights, X), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_follow_the_dtype_of_weights_and_the_kind_of_inputs(mlp, weights, X, dtype):
    weights = weights.to(dtype)
    for function in (lambda *args: predict_uncertainty(*args).epistemic, network_proba):
        as_array = function(mlp, weights.numpy(), X.numpy())
        as_tensor = function(mlp, weights, X)
        assert isinstance(as_array, np.ndarray)
        assert as_tensor.dtype == dtype
        np.testing.assert_array_equal(as_array, as_tensor.numpy())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1, got 0"),
        ({"weights": torch.full((1, 51), torch.nan)}, "weights must be finite.*rows 0"),
        ({"X": torch.zeros(2, 5)}, r"X must have shape \(n_inputs, 4\), got \(1, 5\)"),
    ],
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_input_is_named(mlp, weights, X, function, change, match):
    arguments = {"weights": weights, "X": X} | change
    with pytest.raises(ValueError, match=match):
        function(mlp, **arguments)


def test_bad_network_weights_are_named(mlp, weights, X):
    with pytest.raises(ValueError, match="network_weights must be .* non-negative"):
        predict_uncertainty(mlp, weights, X, network_weights=[-1.0] + [1.0] * 6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_output_is_no_classifier(function):
    with pytest.raises(ValueError, match="one output per class, at least 2, .* got 1"):
        function(Architecture.mlp([1, 1], bias=False), [[1.0]], [[1.0]])
