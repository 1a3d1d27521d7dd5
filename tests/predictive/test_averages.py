"""Streamed predictions against whole-population formulas written out."""

import numpy as np
import pytest
import torch
from torch import nn

from bayesflow_nn.predictive import network_scores, output_moments, predict_proba
from bayesflow_nn.weights import Architecture

CHUNK_SIZES = [1, 5, 13, 10_000]  # one pair; part of the inputs; all inputs of one network; all
N_NETWORKS, N_INPUTS = 7, 9


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
def y():
    return torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 1])


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_the_average_is_over_probabilities(mlp, weights, X, chunk_size):
    expected = mlp.apply(weights, X).softmax(-1).mean(0)
    actual = predict_proba(mlp, weights, X, chunk_size=chunk_size)
    torch.testing.assert_close(actual, expected)


def test_the_average_is_not_the_softmax_of_mean_logits(mlp, weights, X):
    of_logits = mlp.apply(weights, X).mean(0).softmax(-1)
    assert (predict_proba(mlp, weights, X) - of_logits).abs().max() > 0.01


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_network_weights_of_any_sum_weigh_the_average(mlp, weights, X, chunk_size):
    importance = torch.arange(N_NETWORKS)
    proba = mlp.apply(weights, X).softmax(-1)
    expected = (proba * importance[:, None, None]).sum(0) / importance.sum()
    actual = predict_proba(mlp, weights, X, network_weights=importance, chunk_size=chunk_size)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_scores_of_a_classifier_are_those_of_each_network_alone(mlp, weights, X, y, chunk_size):
    scores = network_scores(mlp, weights, X, y, chunk_size=chunk_size)
    for k in range(N_NETWORKS):
        logits = mlp.to_module(weights[k])(X)
        torch.testing.assert_close(scores.nll[k], nn.functional.cross_entropy(logits, y))
        assert scores.accuracy[k] == (logits.argmax(1) == y).double().mean()


def test_nll_survives_logits_whose_probabilities_underflow():
    linear = Architecture.mlp([1, 2], bias=False)
    scores = network_scores(linear, torch.tensor([[0.0, 1e4]]), torch.ones(1, 1), torch.tensor([0]))
    assert scores.nll.item() == pytest.approx(1e4)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_scores_of_a_regression_are_those_of_each_network_alone(mlp, weights, X, chunk_size):
    y = torch.randn(N_INPUTS, 3, dtype=torch.float64)
    mse = network_scores(mlp, weights, X, y, task="regression", chunk_size=chunk_size).mse
    torch.testing.assert_close(mse, (mlp.apply(weights, X) - y).square().mean((1, 2)))


def test_regression_targets_may_be_a_vector():
    line = Architecture.mlp([1, 1], bias=False)
    mse = network_scores(line, [[2.0]], [[1.0], [2.0]], [2.0, 1.0], task="regression").mse
    assert mse == [4.5]


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_moments_are_those_of_the_outputs(mlp, weights, X, chunk_size):
    mean, std = output_moments(mlp, weights, X, chunk_size=chunk_size)
    outputs = mlp.apply(weights, X)
    torch.testing.assert_close(mean, outputs.mean(0))
    torch.testing.assert_close(std, outputs.std(0, correction=0))


def test_moments_ignore_networks_of_weight_zero(mlp, weights, X):
    importance = torch.tensor([0.0, 0, 0, 1, 3, 0, 0])
    mean, std = output_moments(mlp, weights, X, network_weights=importance, chunk_size=1)
    first, second = mlp.apply(weights[3:5], X)
    torch.testing.assert_close(mean, (first + 3 * second) / 4)
    # Two values with probabilities p and 1 - p differ by sqrt(p (1 - p)) standard deviations.
    torch.testing.assert_close(std, (first - second).abs() * (3 / 16) ** 0.5)


def test_std_does_not_cancel_under_a_large_mean():
    line = Architecture.mlp([1, 1])
    weights = torch.tensor([[0.0, 1e8], [0.0, 1e8 + 1]], dtype=torch.float64)
    std = output_moments(line, weights, torch.zeros(1, 1), chunk_size=1).std
    assert std.item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_follow_the_dtype_of_weights_and_the_kind_of_inputs(mlp, weights, X, y, dtype):
    weights = weights.to(dtype)
    for function in (predict_proba, lambda *args: output_moments(*args).std):
        as_array = function(mlp, weights.numpy(), X.numpy())
        as_tensor = function(mlp, weights, X)
        assert isinstance(as_array, np.ndarray)
        assert as_tensor.dtype == dtype
        np.testing.assert_array_equal(as_array, as_tensor.numpy())
    assert isinstance(network_scores(mlp, weights, X.numpy(), y).nll, np.ndarray)


def test_read_only_arrays_are_accepted(mlp, weights, X):
    X = X.numpy()
    X.flags.writeable = False
    assert predict_proba(mlp, weights, X).shape == (N_INPUTS, 3)


def test_no_gradient_is_recorded(mlp, weights, X):
    assert not predict_proba(mlp, weights.requires_grad_(), X).requires_grad


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_each_network_runs_with_its_own_buffers(chunk_size):
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    architecture = Architecture(module, example_input=torch.zeros(2, 4))
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, architecture.n_weights, generator=generator)
    X = torch.randn(6, 4, generator=generator)
    buffers = {"1.running_mean": torch.randn(3, 5, generator=generator)}
    expected = architecture.apply(weights, X, buffers=buffers).softmax(-1).mean(0)
    actual = predict_proba(architecture, weights, X, buffers=buffers, chunk_size=chunk_size)
    torch.testing.assert_close(actual, expected)


def test_no_block_is_larger_than_the_chunk(mlp, weights, X, monkeypatch):
    sizes = []
    apply = Architecture.apply

    def recording(self, weights, X, **kwargs):
        sizes.append(len(weights) * len(X))
        return apply(self, weights, X, **kwargs)

    monkeypatch.setattr(Architecture, "apply", recording)
    predict_proba(mlp, weights, X, chunk_size=20)
    assert max(sizes) == 18  # two networks of nine inputs
    assert sum(sizes[1:]) == N_NETWORKS * N_INPUTS  # the first call only probes the output


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1, got 0"),
        ({"network_weights": [1.0]}, r"network_weights must be \(7,\).*got shape \(1,\)"),
        ({"network_weights": [0.0] * 7}, "network_weights must be .* not all zero"),
        ({"network_weights": [-1.0] + [1.0] * 6}, "network_weights must be .* non-negative"),
        ({"network_weights": [np.nan] * 7}, "network_weights must be .* finite"),
        ({"weights": torch.zeros(0, 51)}, "weights must have shape .* at least one network"),
        ({"weights": torch.zeros(51)}, r"weights must have shape .* got \(51,\)"),
        ({"X": torch.zeros(0, 4)}, r"X must hold at least one input, got shape \(0, 4\)"),
        ({"X": torch.zeros(2, 5)}, r"X must have shape \(n_inputs, 4\), got \(1, 5\)"),
        ({"X": torch.full((2, 4), torch.nan)}, "X must be finite.*rows 0, 1"),
    ],
)
@pytest.mark.parametrize("function", [predict_proba, output_moments])
def test_bad_input_is_named(mlp, weights, X, function, change, match):
    arguments = {"weights": weights, "X": X} | change
    with pytest.raises(ValueError, match=match):
        function(mlp, **arguments)


def test_a_diverged_network_is_named(mlp, weights, X):
    weights[3, 0] = torch.inf
    with pytest.raises(ValueError, match="weights must be finite, got NaN or infinity in rows 3"):
        predict_proba(mlp, weights, X)


def test_integer_weights_are_refused(mlp, X):
    with pytest.raises(TypeError, match=r"weights must be of floating point, got torch.int64"):
        predict_proba(mlp, torch.zeros(1, 51, dtype=torch.int64), X)


def test_one_output_is_no_classifier():
    with pytest.raises(ValueError, match="one output per class, at least 2, .* got 1"):
        predict_proba(Architecture.mlp([1, 1], bias=False), [[1.0]], [[1.0]])


@pytest.mark.parametrize(
    ("y", "match"),
    [
        ([0, 1], r"y must hold one integer class index 0, ..., 2 per input.*shape \(2,\)"),
        ([0.5] * 9, r"got torch.float64 of shape \(9,\)"),
        ([3] + [0] * 8, r"shape \(9,\), from 0 to 3"),
        ([-1] + [0] * 8, r"shape \(9,\), from -1 to 0"),
    ],
)
def test_labels_that_do_not_fit_are_named(mlp, weights, X, y, match):
    with pytest.raises(ValueError, match=match):
        network_scores(mlp, weights, X, y)


@pytest.mark.parametrize("y", [torch.zeros(9), torch.full((9, 3), torch.nan)])
def test_targets_that_do_not_fit_are_named(mlp, weights, X, y):
    with pytest.raises(ValueError, match=r"y must hold finite targets of shape \(9, 3\)"):
        network_scores(mlp, weights, X, y, task="regression")


def test_an_unknown_task_is_named(mlp, weights, X, y):
    with pytest.raises(ValueError, match="task must be one of .*, got 'ranking'"):
        network_scores(mlp, weights, X, y, task="ranking")
