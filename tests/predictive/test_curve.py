"""Curves of averages against all sets of networks, one by one, and equivalents read from them."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import nn

from bayesflow_nn.predictive.curve import (
    PredictiveCurve,
    deep_ensemble_equivalent,
    predictive_curve,
)
from bayesflow_nn.weights import Architecture, Categorical, HeteroscedasticNormal, Normal

N_NETWORKS, N_INPUTS = 7, 9
LIKELIHOODS = [Categorical(), Normal(0.7), HeteroscedasticNormal(0.1)]


def make_networks(likelihood, n_networks=N_NETWORKS):
    """Networks, inputs and targets: three classes, or one target."""
    n_outputs = likelihood.n_outputs(3 if likelihood.task == "classification" else 1)
    architecture = Architecture.mlp([4, 6, n_outputs])
    generator = torch.Generator().manual_seed(0)
    shapes = (n_networks, architecture.n_weights), (N_INPUTS, 4), (N_INPUTS,)
    weights, X, y = (torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)
    y = torch.arange(N_INPUTS) % 3 if likelihood.task == "classification" else y
    return architecture, weights / 2, X, y  # small enough that no likelihood underflows


def log_likelihoods(likelihood, architecture, weights, X, y):
    """Log p(y_i | x_i, theta_k), network by network, ``(n_networks, n_inputs)``."""
    rows = []
    for row in weights:
        f, t = architecture.to_module(row)(X).detach().numpy(), y.numpy()
        if isinstance(likelihood, Categorical):
            rows.append([np.log(np.exp(z)[c] / np.exp(z).sum()) for z, c in zip(f, t, strict=True)])
        elif isinstance(likelihood, Normal):
            rows.append(stats.norm.logpdf(t, f[:, 0], likelihood.scale))
        else:
            rows.append(stats.norm.logpdf(t, f[:, 0], likelihood.min_scale + np.exp(f[:, 1])))
    return np.array(rows)


def loss_of(log_p, networks):
    """Loss of the average of some networks, in nats per input."""
    return -np.log(np.exp(log_p[list(networks)]).mean(0)).mean()


def make_curve(sizes, nll):
    return PredictiveCurve(np.array(sizes), np.array(nll), np.zeros(len(sizes)))


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_a_single_network_and_all_of_them_need_no_choice(likelihood):
    networks = make_networks(likelihood)
    log_p = log_likelihoods(likelihood, *networks)
    curve = predictive_curve(*networks, likelihood=likelihood, sizes=[1, N_NETWORKS], n_repeats=2)
    alone = [loss_of(log_p, [k]) for k in range(N_NETWORKS)]
    expected = [np.mean(alone), loss_of(log_p, range(N_NETWORKS))]
    np.testing.assert_allclose(curve.nll, expected, rtol=1e-9)
    np.testing.assert_allclose(curve.standard_error, [stats.sem(alone), np.nan], rtol=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_one_permutation_gives_the_loss_of_disjoint_sets(likelihood):
    networks = make_networks(likelihood)
    log_p = log_likelihoods(likelihood, *networks)
    # Two sets of three among seven networks: the curve has to be one of these 70 pairs of sets.
    pairs = [
        [loss_of(log_p, a), loss_of(log_p, b)]
        for a, b in itertools.combinations(itertools.combinations(range(N_NETWORKS), 3), 2)
        if not set(a) & set(b)
    ]
    assert len(pairs) == 70
    expected = {tuple(np.round([np.mean(pair), stats.sem(pair)], 9)) for pair in pairs}
    found = {
        (curve.nll[0].round(9), curve.standard_error[0].round(9))
        for curve in (
            predictive_curve(
                *networks, likelihood=likelihood, sizes=[3], n_repeats=1, random_state=seed
            )
            for seed in range(8)
        )
    }
    assert found <= expected
    assert len(found) > 1


def test_many_permutations_give_the_mean_over_all_sets():
    networks = make_networks(Categorical())
    log_p = log_likelihoods(Categorical(), *networks)
    sizes, n_repeats = [2, 3, 5], 2000
    curve = predictive_curve(*networks, sizes=sizes, n_repeats=n_repeats, random_state=0)
    for n, nll in zip(sizes, curve.nll, strict=True):
        losses = [loss_of(log_p, s) for s in itertools.combinations(range(N_NETWORKS), n)]
        # Sets of one permutation are correlated, so that only permutations count as draws.
        assert abs(nll - np.mean(losses)) < 5 * np.std(losses) / np.sqrt(n_repeats)
        assert np.ptp(losses) > 50 * np.std(losses) / np.sqrt(n_repeats)


def test_standard_errors_are_those_over_draws_of_the_networks():
    linear, X, y = Architecture.mlp([2, 2], bias=False), [[1.0, -0.5], [0.2, 1.0]], [0, 1]
    rng, n_draws = np.random.default_rng(0), 200
    curves = [
        predictive_curve(linear, rng.normal(size=(12, 4)), X, y, sizes=[1, 3], random_state=k)
        for k in range(n_draws)
    ]
    scatter = np.std([curve.nll for curve in curves], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([curve.standard_error**2 for curve in curves], axis=0))
    # A ratio of standard deviations over 200 draws is good to about 5 %.
    assert claimed[0] == pytest.approx(scatter[0], rel=0.25)
    assert 0.75 * scatter[1] < claimed[1]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_chunks_change_nothing_but_the_memory(likelihood):
    networks = make_networks(likelihood)
    curves = [
        predictive_curve(*networks, likelihood=likelihood, random_state=0, chunk_size=chunk_size)
        for chunk_size in (1, 2 * N_NETWORKS, 10_000)
    ]
    for curve in curves[1:]:
        np.testing.assert_allclose(curve.nll, curves[0].nll, rtol=1e-12)
        np.testing.assert_allclose(curve.standard_error, curves[0].standard_error, rtol=1e-9)


class Recorder(Categorical):
    """A likelihood that writes down how many network-input pairs came at once."""

    pairs = ()

    def log_prob(self, outputs, y):
        Recorder.pairs += (outputs.shape[:2].numel(),)
        return super().log_prob(outputs, y)


def test_no_more_pairs_than_a_chunk_are_held(monkeypatch):
    monkeypatch.setattr(Recorder, "pairs", ())
    predictive_curve(*make_networks(Recorder()), likelihood=Recorder(), chunk_size=20)
    assert Recorder.pairs == (14, 14, 14, 14, 7)


def test_losses_are_finite_where_every_likelihood_underflows():
    line = Architecture.mlp([1, 1], bias=False)
    curve = predictive_curve(line, [[-1.0], [1.0]], [[1.0]], [100.0], likelihood=1.0)
    log_p = stats.norm.logpdf([101, 99])
    assert np.exp(log_p).max() == 0
    expected = [-log_p.mean(), np.log(2) - logsumexp(log_p)]
    np.testing.assert_allclose(curve.nll, expected, rtol=1e-12)


def test_copies_of_one_network_gain_nothing():
    architecture, weights, X, y = make_networks(Categorical())
    curve = predictive_curve(architecture, weights[:1].repeat(30, 1), X, y)
    np.testing.assert_allclose(curve.nll, curve.nll[0], rtol=1e-12)
    np.testing.assert_allclose(curve.standard_error[:4], 0, atol=1e-12)  # up to 10
    assert curve.flat_size == 1


def test_several_targets_are_scored_together():
    plane = Architecture.mlp([1, 2], bias=False)
    curve = predictive_curve(plane, [[1.0, 2.0]], [[1.0]], [[0.0, 0.0]], likelihood=Normal(1.0))
    np.testing.assert_allclose(curve.nll, [-stats.norm.logpdf([1.0, 2.0]).sum()], rtol=1e-12)


def test_buffers_go_with_their_networks():
    architecture = Architecture(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval())
    generator = torch.Generator().manual_seed(0)
    weights, X = torch.randn(4, architecture.n_weights, generator=generator), torch.ones(3, 2)
    buffers = {"1.running_mean": torch.randn(4, 3, generator=generator)}
    y = torch.tensor([0, 1, 2])
    curve = predictive_curve(architecture, weights, X, y, buffers=buffers, sizes=[1])
    expected = []
    for k in range(4):
        module = architecture.to_module(weights[k])
        module[1].running_mean.copy_(buffers["1.running_mean"][k])
        expected.append(nn.functional.cross_entropy(module.eval()(X), y).item())
    np.testing.assert_allclose(curve.nll, [np.mean(expected)], rtol=1e-5)  # networks of float32


@pytest.mark.parametrize(
    ("n_networks", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (9, [1, 2, 5, 9]),
        (100, [1, 2, 5, 10, 20, 50, 100]),
        (120, [1, 2, 5, 10, 20, 50, 100, 120]),
    ],
)
def test_default_sizes_end_with_all_networks(n_networks, sizes):
    curve = predictive_curve(*make_networks(Categorical(), n_networks))
    assert curve.sizes.tolist() == sizes
    # Two disjoint sets are the least that tell an error.
    np.testing.assert_array_equal(np.isnan(curve.standard_error), 2 * curve.sizes > n_networks)


def test_a_seed_fixes_the_curve():
    networks = make_networks(Categorical())
    first, again, other = (predictive_curve(*networks, random_state=k) for k in (0, 0, 1))
    np.testing.assert_array_equal(first.nll, again.nll)
    assert (first.nll != other.nll).any()


def test_arrays_and_tensors_give_the_same_curve():
    architecture, *tensors = make_networks(Categorical())
    curve = predictive_curve(architecture, *tensors, random_state=0)
    arrays = predictive_curve(architecture, *(t.numpy() for t in tensors), random_state=0)
    np.testing.assert_array_equal(curve.nll, arrays.nll)


@pytest.mark.parametrize(
    ("nll", "flat_size"),
    [
        ([0.5, 0.4, 0.3009, 0.3], 5),
        ([0.5, 0.4, 0.3011, 0.3], 10),
        ([0.3, 0.4, 0.3, 0.3], 5),  # what comes near and leaves again is not flat
        ([0.3, 0.3, 0.3, 0.2985], 10),  # nor is what ends lower
        ([0.3, 0.3, 0.3, 0.3], 1),
    ],
)
def test_flat_from_a_size_on(nll, flat_size):
    assert make_curve([1, 2, 5, 10], nll).flat_size == flat_size


def test_the_curve_prints_as_a_table():
    curve = PredictiveCurve(np.array([1, 200]), np.array([1.25, 0.5]), np.array([0.125, np.nan]))
    assert str(curve).split("\n") == [
        "  networks        NLL  std. error",
        "         1     1.2500      0.1250",
        "       200     0.5000           -",
        "flat to 0.001 nats from 200 networks",
    ]


def test_equivalents_of_the_reference_itself_are_its_sizes():
    sizes = [1, 2, 5, 10, 50]
    reference = make_curve(sizes, 0.1 + 1 / np.array(sizes))
    found = [deep_ensemble_equivalent(nll, reference) for nll in reference.nll]
    np.testing.assert_allclose([e.size for e in found], sizes, rtol=1e-12)
    assert not any(e.is_bound for e in found)


def test_equivalents_are_the_first_sizes_that_reach_the_loss():
    # Of noisy losses, the two pairs that rise are replaced by their means, 0.3 and 0.15.
    reference = make_curve([1, 2, 4, 8, 16, 32], [0.5, 0.28, 0.32, 0.2, 0.14, 0.16])
    monotone = [0.5, 0.3, 0.3, 0.2, 0.15, 0.15]
    n = np.geomspace(1, 32, 100_001)
    loss = np.interp(np.log(n), np.log(reference.sizes), monotone)
    for nll in (0.49, 0.4, 0.31, 0.29, 0.21, 0.17, 0.1501):
        expected = n[np.flatnonzero(loss <= nll)[0]]
        assert deep_ensemble_equivalent(nll, reference).size == pytest.approx(expected, rel=1e-4)
    assert deep_ensemble_equivalent(0.3 + 1e-12, reference).size == pytest.approx(2)
    assert deep_ensemble_equivalent(0.15 + 1e-12, reference).size == pytest.approx(16)


def test_interpolation_is_linear_in_the_logarithm_of_the_size():
    reference = make_curve([1, 100], [3.0, 1.0])
    for nll, size in ((2.0, 10), (2.5, 10**0.5), (1.5, 10**1.5)):
        assert deep_ensemble_equivalent(nll, reference).size == pytest.approx(size, rel=1e-12)


def test_beyond_the_reference_there_are_bounds():
    reference = make_curve([1, 10], [0.5, 0.2])
    assert deep_ensemble_equivalent(0.19, reference) == (10, True)
    assert deep_ensemble_equivalent(0.2, reference) == (10, False)
    assert deep_ensemble_equivalent(0.5, reference) == (1, False)
    assert deep_ensemble_equivalent(0.51, reference) == (0, False)


def test_a_single_measured_network_is_a_reference():
    reference = make_curve([1], [0.5])
    assert [deep_ensemble_equivalent(nll, reference) for nll in (0.4, 0.5, 0.6)] == [
        (1, True),
        (1, False),
        (0, False),
    ]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sizes": []}, r"sizes must be ascending integers from 1 .* networks, 7, got \[\]"),
        ({"sizes": 3}, "sizes must be ascending integers .* got 3"),
        ({"sizes": [0, 1]}, r"sizes must be ascending integers .* got \[0, 1\]"),
        ({"sizes": [1, 8]}, r"sizes must be ascending integers .* got \[1, 8\]"),
        ({"sizes": [2, 1]}, r"sizes must be ascending integers .* got \[2, 1\]"),
        ({"sizes": np.array([1, 3, 2], np.uint8)}, "sizes must be ascending integers"),
        ({"sizes": [1, 1]}, r"sizes must be ascending integers .* got \[1, 1\]"),
        ({"sizes": [1.0, 2.0]}, r"sizes must be ascending integers .* got \[1.0, 2.0\]"),
        ({"n_repeats": 0}, "n_repeats must be an integer of at least 1, got 0"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1, got 0"),
        ({"y": [3] * N_INPUTS}, "y must hold one integer class index 0, ..., 2 .* from 3 to 3"),
        ({"likelihood": 0.5, "y": [0.0] * N_INPUTS}, r"y must hold finite targets .* \(9, 3\)"),
        ({"likelihood": -1.0}, "scale must be finite and > 0"),
        ({"likelihood": HeteroscedasticNormal()}, "must have 2 outputs per target"),
        ({"random_state": -1}, "random_state must be a non-negative integer"),
    ],
)
def test_bad_arguments_are_named(change, match):
    names = ("architecture", "weights", "X", "y")
    arguments = dict(zip(names, make_networks(Categorical()), strict=True)) | change
    with pytest.raises(ValueError, match=match):
        predictive_curve(**arguments)


@pytest.mark.parametrize(
    ("nll", "sizes", "error", "match"),
    [
        (np.nan, [1, 2], ValueError, "nll must be finite"),
        (np.inf, [1, 2], ValueError, "nll must be finite"),
        (-np.inf, [1, 2], ValueError, "nll must be finite"),
        ([0.1], [1, 2], TypeError, "nll must be a number, got list"),
        (0.1, [2, 5], ValueError, r"reference must begin with a single network, .* from 2 on"),
    ],
)
def test_bad_references_and_losses_are_named(nll, sizes, error, match):
    with pytest.raises(error, match=match):
        deep_ensemble_equivalent(nll, make_curve(sizes, [0.5, 0.4]))
