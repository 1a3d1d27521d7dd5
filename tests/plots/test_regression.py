"""Bands lie where means, deviations and quantiles put them, whatever the order of the inputs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bayesflow_nn.plots import PredictiveBandDisplay

RNG = np.random.default_rng(0)
X = RNG.permutation(np.linspace(-1, 1, 7))
MEAN, STD = RNG.normal(size=7), 0.5 + RNG.random(7)
SORTED = np.argsort(X)


def outline(band):
    """Corners ``(n, 2)`` of a drawn band without repetitions, in a fixed order."""
    return np.unique(band.get_paths()[0].vertices, axis=0)


def corners(x, lower, upper):
    return np.unique(np.concatenate([np.stack([x, ends], 1) for ends in (lower, upper)]), axis=0)


def test_the_line_is_the_mean_in_the_order_of_the_inputs():
    display = PredictiveBandDisplay.from_predictions(X, MEAN, STD)
    np.testing.assert_array_equal(display.line_.get_xydata(), np.stack([X, MEAN], 1)[SORTED])


def test_bands_are_drawn_at_deviations_of_targets_and_of_networks():
    display = PredictiveBandDisplay.from_predictions(X, MEAN, STD, epistemic_std=STD / 3, n_std=1.5)
    for drawn, half_width in zip(display.bands_, (1.5 * STD, 0.5 * STD), strict=True):
        np.testing.assert_allclose(
            outline(drawn), corners(X, MEAN - half_width, MEAN + half_width), rtol=1e-12
        )
    labels = [band.get_label() for band in display.bands_]
    assert labels == ["± 1.5 std of targets", "± 1.5 std of networks"]


def test_a_regressor_is_drawn_as_its_moments():
    def predict_moments(inputs):
        assert inputs.shape == (7, 1)
        mean = np.sin(inputs)
        return SimpleNamespace(mean=mean, std=1 + mean**2, epistemic_std=mean**2)

    regressor = SimpleNamespace(predict_moments=predict_moments)
    display = PredictiveBandDisplay.from_estimator(regressor, X)
    mean = np.sin(X)
    same = PredictiveBandDisplay.from_predictions(X, mean, 1 + mean**2, epistemic_std=mean**2)
    assert np.array_equal(display.line_.get_xydata(), same.line_.get_xydata())
    for drawn, expected in zip(display.bands_, same.bands_, strict=True):
        assert np.array_equal(outline(drawn), outline(expected))


def test_quantiles_are_paired_from_outside_in():
    quantiles = np.sort(RNG.normal(size=(7, 5)), axis=1)
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    display = PredictiveBandDisplay.from_quantiles(X, quantiles, levels)
    np.testing.assert_array_equal(display.line_.get_ydata(), quantiles[SORTED, 2])
    for drawn, (low, high) in zip(display.bands_, ((0, 4), (1, 3)), strict=True):
        np.testing.assert_array_equal(
            outline(drawn), corners(X, quantiles[:, low], quantiles[:, high])
        )
    assert [band.get_label() for band in display.bands_] == [
        "5 % to 95 % of targets",
        "25 % to 75 % of targets",
    ]
    assert display.line_.get_label() == "median"


def test_a_middle_quantile_other_than_the_median_is_named():
    display = PredictiveBandDisplay.from_quantiles([0, 1], np.zeros((2, 1)), [0.9])
    assert display.line_.get_label() == "90 % quantile"
    assert display.bands_ == []


def test_training_data_are_points_also_from_tensors():
    x_train, y_train = torch.randn(9, 1, generator=torch.Generator().manual_seed(0)), torch.ones(9)
    display = PredictiveBandDisplay.from_predictions(
        X, MEAN, STD, x_train=x_train, y_train=y_train[:, None]
    )
    expected = np.stack([x_train[:, 0], y_train], 1)
    np.testing.assert_array_equal(display.points_.get_offsets(), expected)
    assert PredictiveBandDisplay.from_predictions(X, MEAN, STD).points_ is None


def from_predictions(**changes):
    return PredictiveBandDisplay.from_predictions(**{"x": X, "mean": MEAN, "std": STD} | changes)


def from_quantiles(levels, shape=(7, 3)):
    return PredictiveBandDisplay.from_quantiles(X, np.zeros(shape), levels)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: from_predictions(mean=MEAN[:5]), "mean must be a vector of 7 numbers"),
        (lambda: from_predictions(x=np.zeros((7, 2))), "x must be a vector of numbers"),
        (lambda: from_predictions(std=STD * np.nan), "std must be finite"),
        (lambda: from_predictions(epistemic_std=-STD), "epistemic_std must not be negative"),
        (lambda: from_predictions(n_std=0), "n_std must be"),
        (lambda: from_predictions(y_train=[0.0]), "got x_train=None"),
        (lambda: from_predictions(x_train=[0.0], y_train=[0.0, 1.0]), "y_train must be a vector"),
        (lambda: from_quantiles([0.1, 0.9], (7, 2)), "levels must be ascending .* odd number"),
        (lambda: from_quantiles([0.9, 0.5, 0.1]), "levels must be ascending"),
        (lambda: from_quantiles([0.0, 0.5, 1.0]), "levels must lie strictly between 0 and 1"),
        (lambda: from_quantiles([0.1, 0.5, 0.9], (7, 3, 2)), r"quantiles must have shape \(7, 3\)"),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
