"""Mixtures of normals against scipy and sums network by network."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from bayesflow_nn.calibration import (
    crps_normal_mixture,
    mixture_cdf,
    mixture_log_density,
    mixture_quantile,
    mixtures,
    pit_values,
)

MIXTURES = [mixture_cdf, mixture_log_density, pit_values, crps_normal_mixture]
"""Functions of a mixture and of points; they share their checks."""


@pytest.fixture
def y():
    return np.random.default_rng(1).normal(scale=3, size=5)


def cdf(x, mean, std, weights):
    """Distribution at one input, network by network."""
    return sum(w * norm.cdf(x, m, s) for m, s, w in zip(mean, std, weights, strict=True))


def test_cdf_and_log_density_are_sums_over_networks(mixture, y):
    mean, std, w = mixture
    expected = [cdf(y[n], mean[:, n], std[:, n], w) for n in range(5)]
    np.testing.assert_allclose(mixture_cdf(mean, std, y, weights=w), expected, rtol=1e-13)
    np.testing.assert_allclose(pit_values(mean, std, y, weights=w), expected, rtol=1e-13)
    density = [w @ norm.pdf(y[n], mean[:, n], std[:, n]) for n in range(5)]
    ours = mixture_log_density(mean, std, y, weights=w)
    np.testing.assert_allclose(ours, np.log(density), rtol=1e-12)


def test_one_network_is_a_normal(rng, y):
    mean, std = rng.normal(size=(1, 5)), 0.7
    normal = norm(mean[0], std)
    np.testing.assert_allclose(mixture_cdf(mean, std, y), normal.cdf(y), rtol=1e-13)
    np.testing.assert_allclose(mixture_log_density(mean, std, y), normal.logpdf(y), rtol=1e-13)
    np.testing.assert_allclose(mixture_quantile(mean, std, 0.9), normal.ppf(0.9), rtol=1e-13)
    # The CRPS of a normal in its own closed form (Gneiting et al. 2005).
    z = (y - mean[0]) / std
    crps = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(crps_normal_mixture(mean, std, y), crps, rtol=1e-12)


def test_the_log_density_is_finite_where_densities_underflow():
    expected = norm.logpdf(99) + np.log(0.5)  # the other network is e^200 times less likely
    ours = mixture_log_density([[-1.0], [1.0]], 1.0, [100.0])
    np.testing.assert_allclose(ours, expected, rtol=1e-14)


def test_the_density_integrates_to_the_distribution(mixture, y):
    mean, std, w = mixture

    def density(x):
        return np.exp(mixture_log_density(mean[:, :1], std[:, :1], [x], weights=w)[0])

    mass, _ = quad(density, -30, y[0], epsabs=1e-12, limit=200)
    assert mixture_cdf(mean[:, :1], std[:, :1], y[:1], weights=w)[0] == pytest.approx(mass)


@pytest.mark.parametrize("level", [1e-300, 1e-12, 0.05, 0.5, 0.7, 1 - 1e-12])
def test_quantiles_invert_the_distribution(mixture, level):
    mean, std, w = mixture
    quantile = mixture_quantile(mean, std, level, weights=w)
    assert quantile.shape == (5,)
    # Where the tail is small, in the tail: 1 - F of the mixture is F of the mirrored one.
    sign, tail = (1, level) if level <= 0.5 else (-1, 1 - level)

    def excess(x, n):
        return cdf(sign * x, sign * mean[:, n], std[:, n], w) / tail - 1

    for n in range(5):
        root = brentq(excess, -80, 80, args=(n,), xtol=1e-300, rtol=4 * np.finfo(float).eps)
        assert quantile[n] == pytest.approx(root, rel=1e-12)


def test_quantiles_of_several_levels_and_in_chunks(mixture, monkeypatch):
    mean, std, w = mixture
    levels = np.array([[0.1, 0.5, 0.9], [0.2, 0.3, 0.4]])
    together = mixture_quantile(mean, std, levels, weights=w)
    assert together.shape == (2, 3, 5)
    monkeypatch.setattr(mixtures, "_CHUNK_NUMBERS", 1)
    for index in np.ndindex(2, 3):
        alone = mixture_quantile(mean, std, levels[index], weights=w)
        # A bracket that another level keeps open is halved further, below one rounding.
        np.testing.assert_allclose(together[index], alone, rtol=1e-14, atol=1e-15)


def test_symmetric_mixtures_have_symmetric_quantiles():
    low, median, high = mixture_quantile([[-1e8], [0.0], [1e8]], 1.0, [0.25, 0.5, 0.75])[:, 0]
    assert median == pytest.approx(0, abs=1e-15)
    assert low == pytest.approx(-1e8 + norm.ppf(0.75), rel=1e-15)
    assert high == -low


def test_equal_weights_are_the_default_and_weights_are_normalised(mixture, y):
    mean, std, w = mixture
    for score in MIXTURES:
        equal = score(mean, std, y, weights=np.full(6, 7))
        np.testing.assert_allclose(score(mean, std, y), equal, rtol=1e-13)
        np.testing.assert_allclose(
            score(mean, std, y, weights=10 * w), score(mean, std, y, weights=w), rtol=1e-13
        )


def test_a_network_of_weight_zero_does_not_count(mixture, y):
    mean, std, w = mixture
    w[2] = 0
    rest = np.arange(6) != 2
    mean[2] = 1e6  # far outside the bracket of the others' quantiles

    def quantile(mean, std, y, weights):
        return mixture_quantile(mean, std, 0.3, weights=weights)

    for score in (*MIXTURES, quantile):
        expected = score(mean[rest], std[rest], y, weights=w[rest])
        np.testing.assert_allclose(score(mean, std, y, weights=w), expected, rtol=1e-13)


@pytest.mark.parametrize("shape", [(), (6, 1), (1, 5)])
def test_standard_deviations_broadcast(mixture, y, shape):
    mean, std = mixture[0], np.random.default_rng(2).uniform(0.5, 2, size=shape)
    full = np.broadcast_to(std, (6, 5))
    for score in MIXTURES:
        np.testing.assert_array_equal(score(mean, std, y), score(mean, full, y))


def test_a_grid_of_points_is_evaluated_row_by_row(mixture, rng, monkeypatch):
    mean, std, w = mixture
    grid = rng.normal(size=(2, 7, 5))
    monkeypatch.setattr(mixtures, "_CHUNK_NUMBERS", 100)
    for score in (mixture_cdf, mixture_log_density):
        values = score(mean, std, grid, weights=w)
        assert values.shape == grid.shape
        for row in np.ndindex(2, 7):
            alone = score(mean, std, grid[row], weights=w)
            np.testing.assert_allclose(values[row], alone, rtol=1e-13)


def test_tensors_of_float32_are_scored_in_float64(mixture, y):
    tensors = [torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in (*mixture, y)]
    arrays = [t.detach().numpy().astype(float) for t in tensors]
    for score in MIXTURES:
        ours = score(tensors[0], tensors[1], tensors[3], weights=tensors[2])
        expected = score(arrays[0], arrays[1], arrays[3], weights=arrays[2])
        # Only the weights' sum was rounded, to seven digits, before they were normalised.
        np.testing.assert_allclose(ours, expected, rtol=1e-13)
        assert ours.dtype == np.float64


@pytest.mark.parametrize("score", [*MIXTURES, mixture_quantile])
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mean": [1.0, 2.0]}, r"mean must be .*\(n_networks, n_inputs\).*got shape \(2,\)"),
        ({"mean": [[np.nan, 0.0]] * 2}, "mean must be finite"),
        ({"std": 0.0}, "std must be finite and positive.*crps_sample"),
        ({"std": [1.0, 1.0]}, r"std must be .* \(2, 2\), .*got shape \(2,\)"),
        ({"std": np.ones((3, 1))}, r"std must be .*got shape \(3, 1\)"),
        ({"weights": [1.0]}, r"weights must be .*shape \(2,\), got shape \(1,\); for log weights"),
        ({"weights": [2.0, -1.0]}, "weights must be finite, non-negative"),
        ({"weights": [0.0, 0.0]}, "weights must be .*not all zero"),
    ],
)
def test_bad_mixtures_are_named(score, changes, match):
    arguments = {"mean": np.zeros((2, 2)), "std": 1.0, "weights": None} | changes
    third = 0.5 if score is mixture_quantile else [0.0, 0.0]
    with pytest.raises(ValueError, match=match):
        score(arguments["mean"], arguments["std"], third, weights=arguments["weights"])


@pytest.mark.parametrize("y", [0.0, [0.0], [[0.0, 0.0, 0.0]], [0.0, np.nan], np.zeros((0, 2))])
@pytest.mark.parametrize("score", MIXTURES)
def test_bad_targets_are_named(score, y):
    with pytest.raises(ValueError, match=r"y must hold .*shape \(.*2,?\).*got shape"):
        score(np.zeros((3, 2)), 1.0, y)
