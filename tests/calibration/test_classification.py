"""Scores of probabilities against closed forms, loops and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from bayesflow_nn.calibration import (
    brier_decomposition,
    brier_score,
    calibration_error_interval,
    classwise_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    reliability_curve,
)

BINNED = [
    brier_decomposition,
    calibration_error_interval,
    classwise_calibration_error,
    expected_calibration_error,
    reliability_curve,
]
SCORES = [negative_log_likelihood, brier_score, *BINNED]
NUMBERS = [
    negative_log_likelihood,
    brier_score,
    expected_calibration_error,
    classwise_calibration_error,
]
STRATEGIES = ["uniform", "quantile"]


@pytest.fixture
def proba():
    return np.random.default_rng(0).dirichlet([0.5, 0.5, 0.5], size=200)


@pytest.fixture
def y():
    return np.random.default_rng(1).integers(3, size=200)


def loop_over_bins(values, n_bins, strategy):
    """Masks of the inputs of each bin."""
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        edges = np.quantile(values, edges)
    lower = np.r_[-np.inf, edges[1:-1]]
    upper = np.r_[edges[1:-1], np.inf]
    return [(values > a) & (values <= b) for a, b in zip(lower, upper, strict=True)]


def test_scores_of_a_uniform_prediction():
    proba, y = np.full((8, 4), 0.25), np.arange(8) % 4
    assert negative_log_likelihood(proba, y) == pytest.approx(np.log(4))
    assert brier_score(proba, y) == pytest.approx(0.75**2 + 3 * 0.25**2)
    assert expected_calibration_error(proba, y) == pytest.approx(0.0)
    assert classwise_calibration_error(proba, y) == pytest.approx(0.0)


def test_scores_of_a_certain_and_right_prediction_are_zero():
    proba, y = np.eye(3), np.arange(3)
    assert [score(proba, y) for score in NUMBERS] == [0, 0, 0, 0]


def test_scores_of_a_certain_and_wrong_prediction_are_the_worst():
    proba, y = np.eye(2), np.array([1, 0])
    assert [score(proba, y) for score in NUMBERS] == [np.inf, 2, 1, 1]


def test_scores_agree_with_scikit_learn(proba, y):
    assert negative_log_likelihood(proba, y) == pytest.approx(log_loss(y, proba), rel=1e-12)
    one_hot = np.eye(3)[y]
    per_class = sum(brier_score_loss(one_hot[:, c], proba[:, c]) for c in range(3))
    assert brier_score(proba, y) == pytest.approx(per_class, rel=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_bins", [1, 2, 15, 40])
def test_reliability_curve_is_that_of_a_loop_over_bins(proba, y, n_bins, strategy):
    curve = reliability_curve(proba, y, n_bins=n_bins, strategy=strategy)
    confidence, right = proba.max(1), proba.argmax(1) == y
    error = 0.0
    for b, inside in enumerate(loop_over_bins(confidence, n_bins, strategy)):
        assert curve.count[b] == inside.sum()
        if inside.any():
            assert curve.accuracy[b] == pytest.approx(right[inside].mean())
            assert curve.confidence[b] == pytest.approx(confidence[inside].mean())
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        else:
            assert np.isnan([curve.accuracy[b], curve.confidence[b]]).all()
    assert curve.expected_calibration_error == pytest.approx(error, rel=1e-12)
    ece = expected_calibration_error(proba, y, n_bins=n_bins, strategy=strategy)
    assert ece == curve.expected_calibration_error


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_filled_bins_are_those_of_scikit_learn(proba, y, strategy):
    curve = reliability_curve(proba, y, n_bins=10, strategy=strategy)
    expected = calibration_curve(proba.argmax(1) == y, proba.max(1), n_bins=10, strategy=strategy)
    filled = curve.count > 0
    np.testing.assert_allclose(curve.accuracy[filled], expected[0], rtol=1e-12)
    np.testing.assert_allclose(curve.confidence[filled], expected[1], rtol=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    curve = reliability_curve([[0.5, 0.5], [1.0, 0.0]], [0, 0], n_bins=4)
    assert curve.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.count.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("n_bins", [1, 3, 7, 15, 200])
def test_counts_of_equal_mass_differ_by_at_most_one(proba, y, n_bins):
    count = reliability_curve(proba, y, n_bins=n_bins, strategy="quantile").count
    assert count.sum() == 200
    assert np.ptp(count) <= 1


def test_tied_confidences_share_a_bin_of_equal_mass():
    proba = np.array([[0.9, 0.1], [0.6, 0.4]] * 5)
    count = reliability_curve(proba, np.zeros(10, int), n_bins=5, strategy="quantile").count
    assert count.tolist() == [5, 0, 5, 0, 0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_class_wise_error_is_that_of_a_loop(proba, y, strategy):
    error = 0.0
    for c in range(3):
        for inside in loop_over_bins(proba[:, c], 10, strategy):
            if inside.any():
                gap = (y[inside] == c).mean() - proba[inside, c].mean()
                error += inside.mean() * abs(gap) / 3
    ours = classwise_calibration_error(proba, y, n_bins=10, strategy=strategy)
    assert ours == pytest.approx(error, rel=1e-12)


def test_class_wise_error_sees_classes_that_are_not_predicted():
    proba, y = np.tile([0.5, 0.5, 0.0], (4, 1)), np.array([0, 0, 2, 2])
    assert expected_calibration_error(proba, y) == 0
    assert classwise_calibration_error(proba, y) == pytest.approx((0.5 + 0.5) / 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_bins", [1, 4, 15, 500])
def test_the_five_parts_make_up_the_brier_score(proba, y, n_bins, strategy):
    parts = brier_decomposition(proba, y, n_bins=n_bins, strategy=strategy)
    reliability, resolution, uncertainty, variance, covariance = parts
    total = reliability - resolution + uncertainty + variance - covariance
    assert total == pytest.approx(brier_score(proba, y), rel=1e-12)
    assert parts.brier_score == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_brier_decomposition_is_that_of_a_loop(proba, y, strategy):
    parts = brier_decomposition(proba, y, n_bins=10, strategy=strategy)
    expected = dict.fromkeys(parts._fields, 0.0)
    binned_score = 0.0
    for c in range(3):
        p, event = proba[:, c], (y == c).astype(float)
        expected["uncertainty"] += event.var()
        for inside in loop_over_bins(p, 10, strategy):
            if inside.any():
                f, o, share = p[inside].mean(), event[inside].mean(), inside.mean()
                expected["reliability"] += share * (f - o) ** 2
                expected["resolution"] += share * (o - event.mean()) ** 2
                expected["within_variance"] += share * p[inside].var()
                covariance = np.cov(p[inside], event[inside], bias=True)[0, 1]
                expected["within_covariance"] += share * 2 * covariance
                binned_score += share * np.mean((f - event[inside]) ** 2)
    assert parts._asdict() == pytest.approx(expected, rel=1e-11)
    # Murphy's identity, for the forecast that is its bin's mean.
    three = parts.reliability - parts.resolution + parts.uncertainty
    assert three == pytest.approx(binned_score, rel=1e-12)


def test_three_parts_suffice_if_each_bin_holds_one_probability(y):
    levels = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]])
    proba = levels[np.random.default_rng(2).integers(3, size=200)]
    parts = brier_decomposition(proba, y, n_bins=20)
    assert parts[3:] == pytest.approx((0, 0), abs=1e-15)
    three = parts.reliability - parts.resolution + parts.uncertainty
    assert three == pytest.approx(brier_score(proba, y), rel=1e-12)


def test_class_frequencies_have_neither_reliability_error_nor_resolution(y):
    proba = np.tile(np.bincount(y) / 200, (200, 1))
    reliability, resolution, uncertainty, *_ = brier_decomposition(proba, y)
    assert (reliability, resolution) == pytest.approx((0, 0), abs=1e-15)
    assert uncertainty == pytest.approx(brier_score(proba, y), rel=1e-12)


def test_the_interval_of_one_bin_is_the_reversed_one_of_a_binomial_distribution():
    n, n_right = 40, 38
    proba, y = np.tile([0.5, 0.5], (n, 1)), (np.arange(n) >= n_right).astype(int)
    result = calibration_error_interval(proba, y, n_bootstrap=20_000, level=0.99, random_state=0)
    # A resample has K ~ Binomial(n, n_right / n) right answers and the error K / n - 1/2. With
    # 20,000 resamples a quantile is at most one step of K aside; unreversed, the skew of K would
    # put the ends three steps lower.
    low, high = binom(n, n_right / n).interval(0.99) / np.array(n) - 0.5
    assert result.estimate == pytest.approx(0.45, rel=1e-12)
    assert result.lower == pytest.approx(0.9 - high, abs=1.001 / n)
    assert result.upper == pytest.approx(0.9 - low, abs=1.001 / n)


def test_the_error_of_a_calibrated_prediction_is_biased_upward():
    # All labels of four inputs, with their probabilities under the prediction itself.
    labels = np.array(list(np.ndindex(2, 2, 2, 2)))
    chance = np.where(labels == 0, 0.7, 0.3).prod(1)
    errors = [expected_calibration_error(np.tile([0.7, 0.3], (4, 1)), y) for y in labels]
    expected = binom(4, 0.7).expect(lambda k: np.abs(k / 4 - 0.7))
    assert chance @ errors == pytest.approx(expected, rel=1e-12)
    assert expected > 0.18


@pytest.mark.parametrize(("true_error", "slope"), [(0.0, 1.0), (0.2, 0.4)])
def test_the_interval_covers_the_error_of_infinitely_many_inputs(true_error, slope):
    # Confidence c uniform on (2/3, 1), right with probability 1/2 + slope (c - 1/2): the gap is
    # (1 - slope) (c - 1/2), of one sign, and so the true error is its mean, (1 - slope) / 3.
    rng, n, hits = np.random.default_rng(0), 200, 0
    for seed in range(100):
        c = rng.uniform(2 / 3, 1, n)
        wrong = rng.random(n) > 0.5 + slope * (c - 0.5)
        _, lower, upper = calibration_error_interval(
            np.stack([c, 1 - c], 1), wrong.astype(int), n_bootstrap=200, random_state=seed
        )
        hits += lower <= true_error <= upper
    # Nominal 0.9; three standard deviations of 100 data sets are 0.09. Plain quantiles of the
    # resampled errors never cover the error 0.
    assert hits >= 81


def test_an_int_seed_repeats_the_interval_and_chunks_hardly_change_it(proba, y, monkeypatch):
    one, other = (calibration_error_interval(proba, y, random_state=3) for _ in range(2))
    assert one == other
    monkeypatch.setattr(reliability, "_CHUNK_NUMBERS", 700)
    # Other draws of the same distribution: a tail quantile of 1000 errors of spread 0.03 is
    # known to 0.002, and this allows for five times that.
    assert calibration_error_interval(proba, y, random_state=3) == pytest.approx(one, abs=0.01)


@pytest.mark.parametrize("score", NUMBERS)
def test_tensors_and_arrays_score_alike(proba, y, score):
    tensors = torch.from_numpy(proba), torch.from_numpy(y)
    assert score(*tensors) == score(proba, y)
    # float32 has seven digits; no confidence is so near an edge that it changes its bin.
    assert score(tensors[0].float(), tensors[1]) == pytest.approx(score(proba, y), rel=1e-5)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("proba", "y", "match"),
    [
        ([0.5, 0.5], [0, 1], r"proba must have shape \(n_inputs, n_classes\).*got \(2,\)"),
        ([[1.0], [1.0]], [0, 0], "proba must have shape .* two classes"),
        (np.zeros((0, 2)), np.zeros(0, int), "proba must have shape .* at least one input"),
        ([[2.0, -1.0]], [0], "proba must hold probabilities"),
        ([[3.0, 1.0]], [0], "rows that sum to one; turn logits into probabilities"),
        ([[np.nan, 1.0]], [0], "proba must hold probabilities: finite"),
        ([[0.5, 0.5]], [0, 1], r"y must hold one integer class index per row.*shape \(1,\)"),
        ([[0.5, 0.5]], [0.0], "y must hold one integer .* got float64"),
        ([[0.5, 0.5]], [2], "y must hold class indices 0, ..., 1, got 2 to 2"),
        ([[0.5, 0.5]], [-1], "y must hold class indices 0, ..., 1, got -1 to -1"),
    ],
)
def test_bad_input_is_named(score, proba, y, match):
    with pytest.raises(ValueError, match=match):
        score(proba, y)


@pytest.mark.parametrize("score", BINNED)
def test_bad_bins_are_named(proba, y, score):
    with pytest.raises(ValueError, match="n_bins must be an integer of at least 1, got 0"):
        score(proba, y, n_bins=0)
    with pytest.raises(ValueError, match="strategy must be one of .*'quantile'.*, got 'width'"):
        score(proba, y, strategy="width")


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"level": 1.0}, "level must be a number strictly between 0 and 1, got 1.0"),
        ({"level": [0.5, 0.9]}, r"level must be a number .* got \[0.5, 0.9\]"),
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1, got 0"),
        ({"random_state": -1}, "random_state must be a non-negative integer"),
    ],
)
def test_bad_parameters_of_the_interval_are_named(proba, y, parameters, match):
    with pytest.raises(ValueError, match=match):
        calibration_error_interval(proba, y, **parameters)
