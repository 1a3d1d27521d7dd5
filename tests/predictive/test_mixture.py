"""Moments and densities of mixtures over networks against scipy's distributions, one by one."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from bayesflow_nn.calibration import mixture_log_density
from bayesflow_nn.predictive import output_moments
from bayesflow_nn.predictive.mixture import predictive_log_density, predictive_moments
from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    HeteroscedasticNormal,
    Normal,
    StudentT,
)

CHUNK_SIZES = [1, 5, 13, 10_000]  # one pair; part of the inputs; all inputs of one network; all
REGRESSIONS = [Normal([0.7, 2.0]), HeteroscedasticNormal(0.1), StudentT(5.0, 0.7)]
N_NETWORKS, N_INPUTS = 7, 9
W = np.arange(N_NETWORKS) / np.arange(N_NETWORKS).sum()


def make_networks(likelihood, n_targets=2):
    architecture = Architecture.mlp([4, 6, likelihood.n_outputs(n_targets)])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(
        N_NETWORKS, architecture.n_weights, dtype=torch.float64, generator=generator
    )
    return architecture, weights, torch.randn(N_INPUTS, 4, dtype=torch.float64, generator=generator)


def laws(likelihood, architecture, weights, X):
    """Law of all targets under every network, a scipy distribution ``(n_inputs, n_targets)``."""
    for row in weights:
        f = architecture.to_module(row)(X).detach().numpy()
        if isinstance(likelihood, HeteroscedasticNormal):
            yield stats.norm(f[:, :2], likelihood.min_scale + np.exp(f[:, 2:]))
        elif isinstance(likelihood, StudentT):
            yield stats.t(likelihood.df, f, likelihood.scale)
        else:
            yield stats.norm(f, likelihood.scale)


@pytest.fixture
def y():
    return np.random.default_rng(0).normal(size=(N_INPUTS, 2))


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("likelihood", REGRESSIONS, ids=repr)
def test_moments_are_those_of_the_mixture(likelihood, chunk_size):
    networks = make_networks(likelihood)
    moments = predictive_moments(
        *networks, likelihood, network_weights=np.arange(N_NETWORKS), chunk_size=chunk_size
    )
    law = list(laws(likelihood, *networks))
    mean = sum(w * p.mean() for w, p in zip(W, law, strict=True))
    square = sum(w * (p.var() + p.mean() ** 2) for w, p in zip(W, law, strict=True))
    noise = sum(w * p.var() for w, p in zip(W, law, strict=True))
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(moments.std, np.sqrt(square - mean**2), rtol=1e-9)
    np.testing.assert_allclose(moments.aleatoric_std, np.sqrt(noise), rtol=1e-9)
    spread = sum(w * (p.mean() - mean) ** 2 for w, p in zip(W, law, strict=True))
    np.testing.assert_allclose(moments.epistemic_std, np.sqrt(spread), rtol=1e-9)


def test_means_and_their_spread_are_those_of_the_outputs():
    networks = make_networks(Normal(1.0))
    moments, outputs = predictive_moments(*networks, 0.5), output_moments(*networks)
    torch.testing.assert_close(moments.mean, outputs.mean)
    torch.testing.assert_close(moments.epistemic_std, outputs.std)
    torch.testing.assert_close(moments.aleatoric_std, torch.full_like(outputs.std, 0.5))


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("likelihood", REGRESSIONS, ids=repr)
def test_densities_are_sums_over_networks(likelihood, y, chunk_size):
    networks = make_networks(likelihood)
    ours = predictive_log_density(
        *networks, y, likelihood, network_weights=np.arange(N_NETWORKS), chunk_size=chunk_size
    )
    # Targets of an input are independent under one network, but not under the mixture.
    log_p = [p.logpdf(y).sum(1) for p in laws(likelihood, *networks)]
    expected = logsumexp(log_p, axis=0, b=W[:, None])
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_probabilities_of_labels_are_averaged_before_the_logarithm(chunk_size):
    architecture, weights, X = make_networks(Categorical(), 3)
    y = torch.arange(N_INPUTS) % 3
    ours = predictive_log_density(
        architecture, weights, X, y, Categorical(), network_weights=W, chunk_size=chunk_size
    )
    proba = [architecture.to_module(row)(X).softmax(-1).detach() for row in weights]
    for i in range(N_INPUTS):
        average = sum(w * p[i, y[i]].item() for w, p in zip(W, proba, strict=True))
        assert ours[i].item() == pytest.approx(np.log(average), rel=1e-9)


def test_the_density_of_one_target_is_that_of_a_mixture_of_normals(y):
    networks = make_networks(Normal(1.0), 1)
    ours = predictive_log_density(*networks, y[:, 0], 0.7, network_weights=W)
    means = networks[0].apply(*networks[1:])[..., 0]
    expected = mixture_log_density(means, 0.7, y[:, 0], weights=W)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("chunk_size", [1, 100])
def test_the_log_density_is_finite_where_densities_underflow(chunk_size):
    line = Architecture.mlp([1, 1], bias=False)
    ours = predictive_log_density(
        line, [[-1.0], [1.0]], [[1.0]], [100.0], 1.0, chunk_size=chunk_size
    )
    # The other network is e^200 times less likely.
    np.testing.assert_allclose(ours, stats.norm.logpdf(99) + np.log(0.5), rtol=1e-12)


def test_a_network_of_weight_zero_does_not_count(y):
    likelihood = Normal(0.7)
    architecture, weights, X = make_networks(likelihood)
    ours = predictive_log_density(
        architecture, weights, X, y, likelihood, network_weights=[0, 1] + [0] * 5, chunk_size=1
    )
    alone = predictive_log_density(architecture, weights[1:2], X, y, likelihood)
    torch.testing.assert_close(ours, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_follow_the_dtype_of_weights_and_the_kind_of_inputs(y, dtype):
    architecture, weights, X = make_networks(Normal(1.0))
    weights = weights.to(dtype)
    for function in (
        lambda *args: predictive_moments(*args, 0.7).std,
        lambda *args: predictive_log_density(*args, y, 0.7),
    ):
        as_array = function(architecture, weights.numpy(), X.numpy())
        as_tensor = function(architecture, weights, X)
        assert isinstance(as_array, np.ndarray)
        assert as_tensor.dtype == dtype
        np.testing.assert_array_equal(as_array, as_tensor.numpy())


@pytest.mark.parametrize(
    ("likelihood", "match"),
    [
        (None, "likelihood must be the standard deviation"),
        (Categorical(), "likelihood must be one of regression"),
        (HeteroscedasticNormal(), "must have 2 outputs per target for Hetero.*, got 3"),
        (Normal([1.0, 2.0]), "scale must have one number per target, 3 of them, got 2"),
        (-1.0, "scale must be finite and > 0"),
    ],
)
def test_likelihoods_that_do_not_fit_are_named(likelihood, match):
    networks = make_networks(Normal(1.0), 3)
    with pytest.raises(ValueError, match=match):
        predictive_moments(*networks, likelihood)


@pytest.mark.parametrize(
    ("y", "likelihood", "match"),
    [
        (np.zeros(9), 1.0, r"y must hold finite targets of shape \(9, 3\), got shape \(9, 1\)"),
        (np.full((9, 3), np.nan), 1.0, r"y must hold finite targets of shape \(9, 3\)"),
        ([3] * 9, Categorical(), "y must hold one integer class index 0, ..., 2 .* from 3 to 3"),
        ([0.5] * 9, Categorical(), "y must hold one integer .* got torch.float64"),
        ([0] * 8, Categorical(), r"y must hold one integer .* of shape \(8,\)"),
    ],
)
def test_targets_that_do_not_fit_are_named(y, likelihood, match):
    with pytest.raises(ValueError, match=match):
        predictive_log_density(*make_networks(Normal(1.0), 3), y, likelihood)


def test_one_output_is_no_classifier():
    with pytest.raises(ValueError, match="one output per class, at least 2, .* got 1"):
        predictive_log_density(
            Architecture.mlp([1, 1], bias=False), [[1.0]], [[1.0]], [0], Categorical()
        )
