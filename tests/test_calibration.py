"""Scores of probabilities against closed forms, loops and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from bayesflow_nn.calibration import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
)

SCORES = [negative_log_likelihood, brier_score, expected_calibration_error, reliability_curve]


@pytest.fixture
def proba():
    return np.random.default_rng(0).dirichlet([0.5, 0.5, 0.5], size=200)


@pytest.fixture
def y():
    return np.random.default_rng(1).integers(3, size=200)


def test_scores_of_a_uniform_prediction():
    proba, y = np.full((8, 4), 0.25), np.arange(8) % 4
    assert negative_log_likelihood(proba, y) == pytest.approx(np.log(4))
    assert brier_score(proba, y) == pytest.approx(0.75**2 + 3 * 0.25**2)
    assert expected_calibration_error(proba, y) == pytest.approx(0.0)


def test_scores_of_a_certain_and_right_prediction_are_zero():
    proba, y = np.eye(3), np.arange(3)
    assert negative_log_likelihood(proba, y) == 0
    assert brier_score(proba, y) == 0
    assert expected_calibration_error(proba, y) == 0


def test_scores_of_a_certain_and_wrong_prediction_are_the_worst():
    proba, y = np.eye(2), np.array([1, 0])
    assert negative_log_likelihood(proba, y) == np.inf
    assert brier_score(proba, y) == 2
    assert expected_calibration_error(proba, y) == 1


def test_scores_agree_with_scikit_learn(proba, y):
    assert negative_log_likelihood(proba, y) == pytest.approx(log_loss(y, proba), rel=1e-12)
    assert brier_score(proba, y) == pytest.approx(
        brier_score_loss(y, proba, labels=[0, 1, 2], scale_by_half=False), rel=1e-12
    )


@pytest.mark.parametrize("n_bins", [1, 2, 15, 40])
def test_reliability_curve_is_that_of_a_loop_over_bins(proba, y, n_bins):
    curve = reliability_curve(proba, y, n_bins=n_bins)
    confidence, right = proba.max(1), proba.argmax(1) == y
    error = 0.0
    for b in range(n_bins):
        inside = (confidence > b / n_bins) & (confidence <= (b + 1) / n_bins)
        assert curve.count[b] == inside.sum()
        if inside.any():
            assert curve.accuracy[b] == pytest.approx(right[inside].mean())
            assert curve.confidence[b] == pytest.approx(confidence[inside].mean())
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        else:
            assert np.isnan([curve.accuracy[b], curve.confidence[b]]).all()
    assert curve.expected_calibration_error == pytest.approx(error)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    curve = reliability_curve([[0.5, 0.5], [1.0, 0.0]], [0, 0], n_bins=4)
    assert curve.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.count.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("score", SCORES[:3])
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


def test_a_bad_number_of_bins_is_named(proba, y):
    with pytest.raises(ValueError, match="n_bins must be an integer of at least 1, got 0"):
        reliability_curve(proba, y, n_bins=0)
