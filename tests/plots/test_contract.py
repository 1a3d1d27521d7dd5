"""What every display promises: given axes are used, pyplot is not, and labels say what is drawn."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from bayesflow_nn.flow.regression import TrainingHistory
from bayesflow_nn.plots import (
    DiversityDisplay,
    LossCurveDisplay,
    MarginalsDisplay,
    PitDisplay,
    PredictiveBandDisplay,
    PredictiveCurveDisplay,
    ReliabilityDisplay,
    TrajectoryDisplay,
    UncertaintyHistogramDisplay,
    UncertaintySurfaceDisplay,
)
from bayesflow_nn.predictive import PredictiveCurve

CURVE = PredictiveCurve(np.array([1, 10]), np.array([0.5, 0.3]), np.array([0.1, np.nan]))
HISTORY = TrainingHistory([2, 4, 6], [3.0, 2.0, 1.0], [3.0, 2.5, 2.6], 4)
CLASSIFIER = SimpleNamespace(
    predict_proba=lambda X: np.stack([1 - np.tanh(X[:, 0] ** 2), np.tanh(X[:, 0] ** 2)], 1),
    uncertainty=lambda X: SimpleNamespace(epistemic=np.abs(X).sum(1)),
)
WEIGHTS = np.random.default_rng(0).normal(size=(3, 5, 4))

DISPLAYS = {
    "reliability": lambda ax: ReliabilityDisplay.from_predictions([0, 1], [[0.8, 0.2]] * 2, ax=ax),
    "pit": lambda ax: PitDisplay.from_values([0.1, 0.7, 0.9], ax=ax),
    "band": lambda ax: PredictiveBandDisplay.from_predictions([0, 1], [2, 3], [1, 1], ax=ax),
    "curve": lambda ax: PredictiveCurveDisplay.from_curve(CURVE, ax=ax),
    "surface": lambda ax: UncertaintySurfaceDisplay.from_estimator(
        CLASSIFIER, np.eye(2), [0, 1], grid_resolution=8, ax=ax
    ),
    "scores": lambda ax: UncertaintyHistogramDisplay.from_scores([0.1, 0.2], [0.3], ax=ax),
    "diversity": lambda ax: DiversityDisplay.from_sets({"training": ([0.5], [0.9])}, ax=ax),
    "losses": lambda ax: LossCurveDisplay.from_estimator(SimpleNamespace(history_=HISTORY), ax=ax),
    "paths": lambda ax: TrajectoryDisplay.from_trajectory([0, 0.5, 1], WEIGHTS, ax=ax),
    "marginals": lambda ax: MarginalsDisplay.from_samples({"training": WEIGHTS[0]}, ax=ax),
}

cases = pytest.mark.parametrize("draw", DISPLAYS.values(), ids=DISPLAYS)


def labelled_axes(display):
    """Axes that carry the labels: panels of marginals, else those of the display."""
    return list(getattr(display, "axes_", [display.ax_]))


@cases
def test_given_axes_are_used_and_pyplot_is_not(draw):
    ax = Figure().subplots(1, 2)[1]
    display = draw(ax)
    assert display.ax_ is ax and display.figure_ is ax.figure
    assert plt.get_fignums() == []


@cases
def test_without_axes_there_is_one_new_figure(draw):
    display = draw(None)
    assert plt.get_fignums() == [display.figure_.number]
    assert display.ax_ in display.figure_.axes


@cases
def test_a_display_can_be_drawn_again(draw):
    display = draw(None)
    first = display.figure_
    assert display.plot() is display
    assert display.figure_ is not first


@cases
def test_axes_have_labels_and_legends_no_frame(draw):
    display = draw(Figure().subplots())
    axes = labelled_axes(display)
    assert all(ax.get_xlabel() for ax in axes) and axes[0].get_ylabel()
    legend = axes[0].get_legend()
    assert not legend.get_frame_on()
    assert legend.get_texts()


@cases
def test_a_figure_is_rendered_without_a_warning(draw):
    """Warnings are errors here: of lines that are nowhere, and labels that do not fit."""
    canvas = draw(None).figure_.canvas
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    assert 0.005 < (pixels.min(-1) < 250).mean() < 0.9  # something is drawn, on white


@cases
def test_part_of_a_figure_can_be_drawn_on(draw):
    ax = Figure().subfigures(1, 2)[0].subplots()
    assert draw(ax).ax_ is ax


@cases
def test_an_array_of_axes_is_refused(draw):
    with pytest.raises(TypeError, match=r"ax must be a matplotlib Axes or None, got ndarray"):
        draw(Figure().subplots(1, 2))
