"""Quantiles, draws and fitted noise of mixtures over networks, against scipy one by one."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logsumexp

from bayesflow_nn.predictive import predict_proba
from bayesflow_nn.predictive.mixture import predictive_log_density, predictive_moments
from bayesflow_nn.predictive_distribution import draw_targets, fit_noise, predictive_quantiles
from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    HeteroscedasticNormal,
    Normal,
    StudentT,
)

CHUNK_SIZES = [1, 13, 10_000]  # one input; a few; all at once
REGRESSIONS = [Normal([0.7, 2.0]), HeteroscedasticNormal(0.1), StudentT(3.5, 0.7)]
N_NETWORKS, N_INPUTS = 6, 5
W = np.arange(N_NETWORKS) / np.arange(N_NETWORKS).sum()


def make_networks(likelihood, n_targets=2, n_inputs=N_INPUTS):
    architecture = Architecture.mlp([4, 6, likelihood.n_outputs(n_targets)])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(
        N_NETWORKS, architecture.n_weights, dtype=torch.float64, generator=generator
    )
    return architecture, weights, torch.randn(n_inputs, 4, dtype=torch.float64, generator=generator)


def laws(likelihood, architecture, weights, X):
    """Law of the targets under every network, as functions of input and target."""
    outputs = np.stack([architecture.to_module(row)(X).detach().numpy() for row in weights])

    def law(k, i, j):
        f = outputs[k, i]
        if isinstance(likelihood, StudentT):
            return stats.t(likelihood.df, f[j], likelihood.scale)
        if isinstance(likelihood, HeteroscedasticNormal):
            return stats.norm(f[j], likelihood.min_scale + np.exp(f[2 + j]))
        return stats.norm(f[j], likelihood.scale[j])

    return law


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("likelihood", REGRESSIONS, ids=repr)
def test_quantiles_invert_the_distribution_of_the_mixture(likelihood, chunk_size):
    networks, levels = make_networks(likelihood), [1e-9, 0.05, 0.5, 0.7, 1 - 1e-9]
    ours = predictive_quantiles(
        *networks, likelihood, levels, network_weights=np.arange(N_NETWORKS), chunk_size=chunk_size
    )
    assert ours.shape == (N_INPUTS, 5, 2)
    law = laws(likelihood, *networks)
    for i, q, j in np.ndindex(*ours.shape):
        level, members = levels[q], [law(k, i, j) for k in range(N_NETWORKS)]

        def excess(x, level=level, members=members):
            # Where the tail is small, in the tail.
            if level > 0.5:
                return 1 - sum(w * m.sf(x) for w, m in zip(W, members, strict=True)) / (1 - level)
            return sum(w * m.cdf(x) for w, m in zip(W, members, strict=True)) / level - 1

        root = brentq(excess, -1e9, 1e9, xtol=1e-14, rtol=1e-14)
        assert ours[i, q, j].item() == pytest.approx(root, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("likelihood", [Normal(0.7), StudentT(3.5, 0.7)], ids=repr)
def test_quantiles_of_one_network_are_those_of_its_law(likelihood):
    architecture, weights, X = make_networks(likelihood, 1)
    ours = predictive_quantiles(architecture, weights[:1], X, likelihood, [0.1, 0.5])
    f = architecture.to_module(weights[0])(X).detach().numpy()
    law = stats.norm(f, 0.7) if isinstance(likelihood, Normal) else stats.t(3.5, f, 0.7)
    np.testing.assert_allclose(ours, law.ppf([0.1, 0.5]), rtol=1e-9)


def test_student_quantiles_approach_normal_ones():
    networks = make_networks(Normal(1.0))
    # At 10^9 degrees of freedom the laws differ by about 10^-9.
    ours = predictive_quantiles(*networks, StudentT(1e9, 0.7), [0.01, 0.5, 0.9])
    normal = predictive_quantiles(*networks, 0.7, [0.01, 0.5, 0.9])
    torch.testing.assert_close(ours, normal, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("likelihood", [*REGRESSIONS, Categorical()], ids=repr)
def test_draws_do_not_depend_on_the_blocks_they_come_in(likelihood, chunk_size):
    networks = make_networks(likelihood)
    whole = draw_targets(*networks, likelihood, n_draws=11, random_state=3)
    parts = draw_targets(*networks, likelihood, n_draws=11, random_state=3, chunk_size=chunk_size)
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)
    assert whole.shape == (11, N_INPUTS) + ((2,) if likelihood.task == "regression" else ())
    other = draw_targets(*networks, likelihood, n_draws=11, random_state=4)
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("likelihood", REGRESSIONS, ids=repr)
def test_draws_have_the_moments_of_the_mixture(likelihood):
    networks, n = make_networks(likelihood), 20_000
    y = draw_targets(*networks, likelihood, n_draws=n, network_weights=W, random_state=0)
    moments = predictive_moments(*networks, likelihood, network_weights=W)
    # Ten means: |z| > 5 has a probability of 6e-6 in all.
    assert ((y.mean(0) - moments.mean).abs() < 5 * moments.std / n**0.5).all()
    # And ten shares below the quantile of 0.3.
    quantile = predictive_quantiles(*networks, likelihood, [0.3], network_weights=W)[:, 0]
    share = (y <= quantile).double().mean(0)
    assert ((share - 0.3).abs() < 5 * (0.3 * 0.7 / n) ** 0.5).all()


def test_drawn_labels_have_the_probabilities_of_the_average():
    networks, n = make_networks(Categorical(), 3), 20_000
    y = draw_targets(*networks, Categorical(), n_draws=n, network_weights=W, random_state=0)
    assert y.dtype == torch.int64
    p = predict_proba(*networks, network_weights=W)
    share = torch.nn.functional.one_hot(y, 3).double().mean(0)
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


def test_every_network_is_drawn_once_by_default():
    architecture, weights, X = make_networks(Normal(1.0))
    y = draw_targets(architecture, weights, X, 1e-9, random_state=0)
    torch.testing.assert_close(y, architecture.apply(weights, X), rtol=0, atol=1e-7)


def test_targets_of_a_draw_come_from_one_network():
    # Networks y = x and y = -x: every draw is a line.
    line = Architecture.mlp([1, 1], bias=False)
    X = np.array([[1.0], [2.0]])
    y = draw_targets(line, [[1.0], [-1.0]], X, 1e-6, n_draws=50, random_state=0)
    np.testing.assert_allclose(y[:, 1], 2 * y[:, 0], atol=1e-4)
    assert {-1, 1} == {*y[:, 0].round().astype(int)}


def test_networks_are_drawn_with_their_own_buffers():
    module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    architecture = Architecture(module, example_input=torch.zeros(2, 1))
    weights = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).expand(2, -1)
    # All that distinguishes the two: the mean that batch norm subtracts.
    buffers = {"1.running_mean": torch.tensor([[0.0], [3.0]])}
    y = draw_targets(architecture, weights, [[0.0]], 1e-6, network_weights=[0, 1], buffers=buffers)
    np.testing.assert_allclose(y, [[-3.0], [-3.0]], rtol=1e-4)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_fitted_noise_maximises_the_density_of_each_target(chunk_size):
    architecture, weights, X = make_networks(Normal(1.0), n_inputs=40)
    rng = np.random.default_rng(0)
    y = architecture.apply(weights[2:3], X)[0].numpy() + [0.3, 3.0] * rng.normal(size=(40, 2))
    noise = fit_noise(architecture, weights, X, y, network_weights=W, chunk_size=chunk_size)
    means = architecture.apply(weights, X).numpy()
    for j in range(2):

        def loss(log_scale, j=j):
            log_p = stats.norm(means[..., j], np.exp(log_scale)).logpdf(y[:, j])
            return -logsumexp(log_p, axis=0, b=W[:, None]).sum()

        grid = np.linspace(-5, 5, 400)
        best = grid[np.argmin([loss(s) for s in grid])]
        expected = minimize_scalar(loss, bracket=(best - 0.05, best, best + 0.05), tol=1e-10)
        # A minimum is found to the root of the rounding of the function, 1e-8.
        assert noise.scale[j] == pytest.approx(np.exp(expected.x), rel=1e-6)


def test_noise_of_one_network_is_its_root_mean_square_error():
    architecture, weights, X = make_networks(Normal(1.0), 1)
    y = np.arange(5.0)
    residual = y - architecture.apply(weights[:1], X)[0, :, 0].numpy()
    noise = fit_noise(architecture, weights[:1], X, y)
    assert noise.scale == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-8)
    # Networks of weight zero do not count, and equal ones count as one.
    twice = torch.cat([weights[:1], weights[:1], weights])
    same = fit_noise(architecture, twice, X, y, network_weights=[2, 1] + [0] * 6)
    assert same.scale == pytest.approx(noise.scale, rel=1e-8)


def test_noise_counts_inputs_by_their_weights():
    architecture, weights, X = make_networks(Normal(1.0), n_inputs=20)
    y = np.random.default_rng(0).normal(size=(20, 2))
    w = np.arange(20) % 3
    weighted = fit_noise(architecture, weights, X, y, sample_weight=0.7 * w)
    repeated = fit_noise(
        architecture, weights, X.repeat_interleave(torch.tensor(w), 0), y.repeat(w, 0)
    )
    assert weighted.scale == pytest.approx(repeated.scale, rel=1e-7)
    residual = y - architecture.apply(weights[:1], X)[0].numpy()
    one = fit_noise(architecture, weights[:1], X, y, sample_weight=w)
    assert one.scale == pytest.approx(np.sqrt(np.average(residual**2, 0, w)), rel=1e-7)
    with pytest.raises(ValueError, match="sample_weight must be finite and non-negative.*rows 1"):
        fit_noise(architecture, weights, X, y, sample_weight=-w)


def test_of_two_optima_the_better_is_found():
    # At each input one network is off by 0.01 and many by about 1: a narrow and a wide optimum.
    line, X = Architecture.mlp([1, 1]), np.zeros((4, 1))
    offsets = np.array([0.01, *np.linspace(0.9, 1.1, 9)])
    weights = np.stack([np.zeros(10), offsets], 1)
    y = np.zeros(4)

    def log_density(scale, w):
        return predictive_log_density(line, weights, X, y, float(scale), network_weights=w).mean()

    for share, narrow in ((1e-3, False), (0.1, True)):
        w = np.r_[share, np.full(9, (1 - share) / 9)]
        scale = fit_noise(line, weights, X, y, network_weights=w).scale
        assert (scale < 0.1) == narrow
        best = max(log_density(s, w) for s in np.geomspace(1e-3, 10, 200))
        assert log_density(scale, w) >= best


def test_noise_leaves_out_what_networks_disagree_about():
    # Constants that scatter by 1, and at each input a target about one of them.
    rng = np.random.default_rng(0)
    constants, X = rng.normal(size=50), np.zeros((4000, 1))
    y = rng.choice(constants, 4000) + 0.5 * rng.normal(size=4000)
    weights = np.stack([np.zeros(50), constants], 1)
    noise = fit_noise(Architecture.mlp([1, 1]), weights, X, y)
    # Nearly a normal of variance v = 1.25, whose standard error is v sqrt(2 / n) = 0.028; that of
    # the scale is 0.028 / (2 * 0.5). Residuals of single networks would give 1.5.
    assert noise.scale == pytest.approx(0.5, abs=5 * 0.028)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_follow_the_dtype_of_weights_and_the_kind_of_inputs(dtype):
    architecture, weights, X = make_networks(Normal(1.0), 1)
    weights = weights.to(dtype)
    for function in (
        lambda *args: predictive_quantiles(*args, 0.7, [0.5, 0.9]),
        lambda *args: draw_targets(*args, 0.7, random_state=0),
    ):
        as_array = function(architecture, weights.numpy(), X.numpy())
        as_tensor = function(architecture, weights, X)
        assert isinstance(as_array, np.ndarray)
        assert as_tensor.dtype == dtype
        np.testing.assert_array_equal(as_array, as_tensor.numpy())
        assert as_array.ndim == 2  # one target has no dimension of its own


@dataclass(frozen=True)
class Laplace:
    """A likelihood of the user's own."""

    task = "regression"
    log_prob = None


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"likelihood": Laplace()}, TypeError, "likelihood must be Normal.*Laplace.*draw_targets"),
        ({"likelihood": Categorical()}, ValueError, "likelihood must be one of regression"),
        ({"likelihood": HeteroscedasticNormal()}, ValueError, "must have 2 outputs per target"),
        ({"quantiles": [0.0, 0.5]}, ValueError, "quantiles must lie strictly between 0 and 1"),
        ({"quantiles": 0.5}, ValueError, r"quantiles must have shape \(n_quantiles,\), got \(\)"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be an integer of at least 1"),
    ],
)
def test_bad_quantiles_are_named(change, error, match):
    architecture, weights, X = make_networks(Normal(1.0), 3)
    arguments = {"likelihood": Normal(1.0), "quantiles": [0.5]} | change
    with pytest.raises(error, match=match):
        predictive_quantiles(architecture, weights, X, **arguments)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_draws": 0}, "n_draws must be an integer of at least 1, got 0"),
        ({"network_weights": [1.0]}, r"network_weights must be \(6,\)"),
        ({"likelihood": HeteroscedasticNormal()}, "must have 2 outputs per target"),
        ({"likelihood": None}, "likelihood must be the standard deviation"),
        ({"random_state": -1}, "random_state must be a non-negative integer"),
    ],
)
def test_bad_draws_are_named(change, match):
    architecture, weights, X = make_networks(Normal(1.0), 3)
    with pytest.raises(ValueError, match=match):
        draw_targets(architecture, weights, X, **{"likelihood": Normal(1.0)} | change)


def test_labels_of_one_output_cannot_be_drawn():
    with pytest.raises(ValueError, match="one output per class, at least 2, .* got 1"):
        draw_targets(Architecture.mlp([1, 1], bias=False), [[1.0]], [[1.0]], Categorical())


def test_noise_needs_targets_that_fit_and_are_not_met():
    architecture, weights, X = make_networks(Normal(1.0), 1)
    with pytest.raises(ValueError, match=r"y must hold finite targets of shape \(5, 1\)"):
        fit_noise(architecture, weights, X, np.zeros((5, 2)))
    met = architecture.apply(weights[:1], X)[0]
    with pytest.raises(ValueError, match="y must hold noisy held-out targets.*not trained on"):
        fit_noise(architecture, weights[:1], X, met)
