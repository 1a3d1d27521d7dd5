"""Losses of averages are drawn where they are, with the errors that are known."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from bayesflow_nn.plots import PredictiveCurveDisplay
from bayesflow_nn.predictive import PredictiveCurve

CURVE = PredictiveCurve(
    np.array([1, 10, 100]), np.array([0.5, 0.3, 0.25]), np.array([0.04, 0.02, np.nan])
)


def test_the_line_holds_the_losses():
    display = PredictiveCurveDisplay.from_curve(CURVE)
    np.testing.assert_array_equal(display.line_.get_xydata(), np.stack([CURVE.sizes, CURVE.nll], 1))
    assert display.ax_.get_xscale() == "log"


def test_the_band_is_one_standard_error_wide_where_there_is_one():
    (path,) = PredictiveCurveDisplay.from_curve(CURVE).band_.get_paths()
    corners = {tuple(corner) for corner in path.vertices.round(12)}
    assert corners == {(1, 0.46), (1, 0.54), (10, 0.28), (10, 0.32)}


def test_curves_share_axes_in_colours_of_their_own():
    ax = Figure().subplots()
    first = PredictiveCurveDisplay.from_curve(CURVE, name="trained", ax=ax)
    second = PredictiveCurveDisplay.from_curve(CURVE, name="generated", ax=ax)
    assert first.line_.get_color() != second.line_.get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["trained", "generated"]


def test_the_curve_of_an_estimator_is_asked_for_with_its_data():
    asked = {}

    def predictive_curve(X, y, *, n_samples):
        asked.update(X=X, y=y, n_samples=n_samples)
        return CURVE

    posterior = SimpleNamespace(predictive_curve=predictive_curve)
    display = PredictiveCurveDisplay.from_estimator(posterior, "X", "y", n_samples=7)
    assert asked == {"X": "X", "y": "y", "n_samples": 7} and display.curve is CURVE


def test_anything_but_a_curve_is_refused():
    with pytest.raises(TypeError, match="curve must be a PredictiveCurve, got list"):
        PredictiveCurveDisplay.from_curve([0.5, 0.3])
