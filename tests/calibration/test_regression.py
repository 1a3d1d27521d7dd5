"""Scores of predictive distributions against numerical integrals, loops and exact averages."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from bayesflow_nn.calibration import (
    crps_normal_mixture,
    crps_sample,
    interval_coverage,
    mixture_quantile,
    mixtures,
    pit_histogram,
    pit_values,
    regression,
)


@pytest.fixture
def y():
    return np.random.default_rng(1).normal(scale=3, size=5)


def integral_crps(cdf, y, low, high):
    """The CRPS by its definition, over an interval that holds all but 1e-16 of the mass."""
    options = {"epsabs": 1e-12, "epsrel": 1e-12, "limit": 200}
    return (
        quad(lambda x: cdf(x) ** 2, low, y, **options)[0]
        + (quad(lambda x: (cdf(x) - 1) ** 2, y, high, **options)[0])
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_the_closed_form_is_the_integral_that_defines_the_crps(mixture, y, weighted):
    mean, std, w = mixture
    w = w if weighted else np.full(6, 1 / 6)
    expected = [
        integral_crps(lambda x, n=n: w @ norm.cdf(x, mean[:, n], std[:, n]), y[n], -25, 25)
        for n in range(5)
    ]
    ours = crps_normal_mixture(mean, std, y, weights=w if weighted else None)
    # The integrals are exact to about 1e-11.
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


@pytest.mark.parametrize("tile", [1, 10, 100, 2**16])
@pytest.mark.parametrize("n_networks", [1, 2, 3, 7, 23])
def test_tiles_give_the_crps_of_a_loop_over_pairs(rng, monkeypatch, tile, n_networks):
    monkeypatch.setattr(regression, "_TILE_NUMBERS", tile)
    monkeypatch.setattr(mixtures, "_CHUNK_NUMBERS", tile)
    mean, std = rng.normal(size=(n_networks, 4)), rng.uniform(0.5, 2, size=(n_networks, 4))
    y, w = rng.normal(size=4), rng.dirichlet(np.ones(n_networks))

    def mean_absolute(m, s):
        return 2 * s * norm.pdf(m / s) + m * (2 * norm.cdf(m / s) - 1)

    expected = sum(w[i] * mean_absolute(y - mean[i], std[i]) for i in range(n_networks))
    for i, j in itertools.product(range(n_networks), repeat=2):
        s = np.hypot(std[i], std[j])
        expected = expected - w[i] * w[j] * mean_absolute(mean[i] - mean[j], s) / 2
    ours = crps_normal_mixture(mean, std, y, weights=w)
    # Terms of order 1 cancel to scores of order 0.2: a few roundings of 1e-16.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-14)


def test_a_location_far_from_zero_costs_no_accuracy(mixture, y):
    mean, std, w = mixture
    shift = 2.0**30  # numbers near it are spaced by 2**-22, and so are mean and y here
    mean, y = np.round(mean * 2**20) / 2**20, np.round(y * 2**20) / 2**20
    near = crps_normal_mixture(mean, std, y, weights=w)
    np.testing.assert_allclose(
        crps_normal_mixture(mean + shift, std, y + shift, weights=w), near, rtol=1e-12
    )
    np.testing.assert_array_equal(crps_sample(mean + shift, y + shift), crps_sample(mean, y))


@pytest.mark.parametrize("n_draws", [1, 2, 3, 50])
def test_the_plain_crps_is_the_integral_of_the_step_distribution(rng, y, n_draws):
    draws = rng.normal(size=(n_draws, 5))
    for n in range(5):
        points = np.sort(np.append(draws[:, n], y[n]))
        # Between two neighbouring points the integrand is constant.
        below = (draws[:, n] <= points[:-1, None]).mean(1)
        integral = np.square(below - (points[:-1] >= y[n])) @ np.diff(points)
        assert crps_sample(draws, y)[n] == pytest.approx(integral, rel=1e-12)


@pytest.mark.parametrize("fair", [False, True])
def test_sorting_gives_the_crps_of_a_loop_over_pairs(rng, y, fair):
    draws = rng.normal(size=(9, 5)).round(1)  # with ties
    pairs = sum(np.abs(a - b) for a, b in itertools.product(draws, draws))
    expected = np.abs(draws - y).mean(0) - pairs / (2 * 9 * (8 if fair else 9))
    np.testing.assert_allclose(crps_sample(draws, y, fair=fair), expected, rtol=0, atol=1e-14)


def test_the_fair_crps_does_not_depend_on_the_number_of_draws_on_average(rng, y):
    draws = rng.normal(size=(6, 5))
    for n in (2, 3, 5):
        subsets = itertools.combinations(range(6), n)
        mean = np.mean([crps_sample(draws[[*s]], y, fair=True) for s in subsets], axis=0)
        # The mean over all subsets of a mean over pairs is the mean over all pairs.
        np.testing.assert_allclose(mean, crps_sample(draws, y, fair=True), rtol=0, atol=1e-14)


def test_draws_score_as_the_mixture_they_come_from(mixture, y, rng):
    mean, std, w = mixture
    network = rng.choice(6, size=200_000, p=w)
    draws = mean[network] + std[network] * rng.standard_normal((200_000, 5))
    # Standard error of a mean of 200,000 distances of spread 3: 0.007; four of them.
    ours = crps_normal_mixture(mean, std, y, weights=w)
    np.testing.assert_allclose(crps_sample(draws, y, fair=True), ours, atol=0.028)


def test_the_pit_of_quantiles_is_flat(mixture):
    mean, std, w = mixture
    levels = (np.arange(40) + 0.5) / 40
    quantiles = mixture_quantile(mean, std, levels, weights=w)
    pit = np.concatenate([pit_values(mean, std, q, weights=w) for q in quantiles])
    histogram = pit_histogram(pit, n_bins=8)
    assert histogram.count.tolist() == [25] * 8
    np.testing.assert_allclose(histogram.density, 1, rtol=1e-14)
    np.testing.assert_array_equal(histogram.edges, np.linspace(0, 1, 9))


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_the_pit_histogram_shows_too_narrow_and_too_wide_predictions(rng, std):
    density = pit_histogram(pit_values(np.zeros((1, 20_000)), std, rng.normal(size=20_000))).density
    # Targets are standard normal: heights 2.6 at both ends, 1, or 0.05.
    share = norm.cdf(std * norm.ppf(0.1))
    error = 10 * np.sqrt(share * (1 - share) / 20_000)
    np.testing.assert_allclose(density[[0, -1]], 10 * share, atol=4 * error)


def test_the_error_of_a_height_is_that_of_the_multinomial(rng):
    pits = rng.random((4000, 100))
    histograms = [pit_histogram(pit, n_bins=5) for pit in pits]
    spread = np.std([h.density for h in histograms])
    # 20,000 heights, correlated within a histogram: their spread is known to about one percent.
    assert spread == pytest.approx(histograms[0].density_error, rel=0.03)
    assert histograms[0].density_error == pytest.approx(np.sqrt(4 / 100))


def test_coverage_and_width_of_intervals(mixture, y):
    mean, std, w = mixture
    lower, upper = mixture_quantile(mean, std, [0.1, 0.9], weights=w)
    pit = pit_values(mean, std, y, weights=w)
    coverage, width = interval_coverage(lower, upper, y)
    assert coverage == np.mean((pit >= 0.1) & (pit <= 0.9))
    assert width == pytest.approx((upper - lower).mean(), rel=1e-14)


def test_bounds_belong_to_the_interval_and_may_be_infinite():
    assert interval_coverage([0.0, 1.0, 2.0], [1.0, 1.0, 3.0], [1.0, 1.0, 1.0]) == (2 / 3, 2 / 3)
    assert interval_coverage([-np.inf], [0.0], [-5.0]) == (1, np.inf)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: mixture_quantile([[0.0]], 1.0, 1.0), "level must lie strictly between 0 and 1"),
        (lambda: mixture_quantile([[0.0]], 1.0, []), r"level must lie .*got \[\]"),
        (lambda: crps_sample([0.0], [0.0]), r"draws must be .*got shape \(1,\)"),
        (lambda: crps_sample([[np.inf]], [0.0]), "draws must be finite"),
        (lambda: crps_sample([[0.0]], [0.0], fair=True), "draws must .* at least 2 draws"),
        (lambda: crps_sample([[0.0]], [0.0, 0.0]), r"y must hold one .* shape \(1,\), got"),
        (lambda: pit_histogram([0.5, 1.5]), "pit must hold numbers between 0 and 1"),
        (lambda: pit_histogram([[0.5]]), r"pit must .*got shape \(1, 1\); compute them"),
        (lambda: pit_histogram([0.5], n_bins=0), "n_bins must be an integer of at least 1"),
        (lambda: interval_coverage([0.0], [1.0, 2.0], [0.0]), r"lower and upper .*\(1,\) and \(2"),
        (lambda: interval_coverage([1.0], [0.0], [0.0]), "lower must not be NaN or above upper"),
        (lambda: interval_coverage([np.nan], [0.0], [0.0]), "lower must not be NaN"),
        (lambda: interval_coverage([0.0], [1.0], [0.0, 1.0]), "y must hold one finite target"),
    ],
)
def test_other_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
