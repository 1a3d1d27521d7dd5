"""Loss curves are the history, and paths the principal components found by a plain SVD."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bayesflow_nn.flow.regression import TrainingHistory
from bayesflow_nn.plots import LossCurveDisplay, TrajectoryDisplay

HISTORY = TrainingHistory([2, 4, 6], [3.0, 2.0, 1.0], [3.0, 2.5, 2.6], 4)
RNG = np.random.default_rng(0)
TIMES = np.array([0.0, 0.25, 0.5, 1.0])
PATHS = RNG.normal(size=(4, 5, 6))
TRAINING = RNG.normal(size=(40, 6)) * [4, 2, 1, 1, 1, 1] + 3


def draw_losses(history=HISTORY, **kwargs):
    return LossCurveDisplay.from_estimator(SimpleNamespace(history_=history), **kwargs)


def test_both_losses_are_drawn_over_the_iterations():
    display = draw_losses()
    expected = np.stack([HISTORY.iterations, HISTORY.training_loss], 1)
    np.testing.assert_array_equal(display.training_line_.get_xydata(), expected)
    expected[:, 1] = HISTORY.validation_loss
    np.testing.assert_array_equal(display.validation_line_.get_xydata(), expected)


def test_the_kept_iteration_is_marked_and_named():
    display = draw_losses(name="flow")
    np.testing.assert_array_equal(display.kept_line_.get_xdata(), [4, 4])
    assert display.kept_line_.get_label() == "flow: kept (iteration 4)"
    start = draw_losses(TrainingHistory([2], [1.0], [9.0], 0))
    assert start.kept_line_.get_label() == "kept (the start)"


def test_without_held_out_chains_there_is_no_curve_of_theirs():
    ax = draw_losses(TrainingHistory([2, 4], [2.0, 1.0], [np.nan, np.nan], 4)).ax_
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["training", "kept (iteration 4)"]


def test_losses_of_two_posteriors_differ_in_colour():
    ax = Figure().subplots()
    first, second = draw_losses(ax=ax), draw_losses(ax=ax)
    lines = ("training_line_", "validation_line_", "kept_line_")
    colours = [{getattr(d, name).get_color() for name in lines} for d in (first, second)]
    assert [len(colour) for colour in colours] == [1, 1]
    assert colours[0] != colours[1]


def project(points):
    """Two leading components of `TRAINING`, up to the sign of each; shares of the variance."""
    mean = TRAINING.mean(0)
    _, s, components = np.linalg.svd(TRAINING - mean, full_matrices=False)
    return (points - mean) @ components[:2].T, s[:2] ** 2 / (s**2).sum()


def test_paths_ends_and_training_networks_share_two_principal_components():
    display = TrajectoryDisplay.from_trajectory(TIMES, PATHS, TRAINING)
    paths, shares = project(PATHS)
    training, _ = project(TRAINING)
    drawn = np.asarray(display.training_.get_offsets())
    sign = np.sign((drawn * training).sum(0))
    np.testing.assert_allclose(drawn, sign * training, atol=1e-10)
    np.testing.assert_allclose(display.source_.get_offsets(), sign * paths[0], atol=1e-10)
    np.testing.assert_allclose(display.samples_.get_offsets(), sign * paths[-1], atol=1e-10)
    for k, segment in enumerate(display.paths_.get_segments()):
        np.testing.assert_allclose(segment, sign * paths[:, k], atol=1e-10)
    labels = display.ax_.get_xlabel(), display.ax_.get_ylabel()
    for k, (label, share) in enumerate(zip(labels, shares, strict=True)):
        assert re.findall(r"\d+", label) == [str(k + 1), f"{100 * share:.0f}"]


def test_without_training_networks_components_are_those_of_the_samples():
    display = TrajectoryDisplay.from_trajectory(TIMES, PATHS)
    ends = np.asarray(display.samples_.get_offsets())
    s = np.linalg.svd(PATHS[-1] - PATHS[-1].mean(0), compute_uv=False)
    # Scores along principal components are uncorrelated, with squared singular values as sums.
    np.testing.assert_allclose(ends.T @ ends, np.diag(s[:2] ** 2), atol=1e-10)
    assert display.training_ is None


def test_both_ends_are_named_by_their_times():
    display = TrajectoryDisplay.from_trajectory(TIMES, torch.as_tensor(PATHS))
    assert display.source_.get_label() == "source (t = 0)"
    assert display.samples_.get_label() == "samples (t = 1)"


def from_trajectory(**changes):
    arguments = {"times": TIMES, "weights": PATHS, "training_weights": TRAINING}
    return TrajectoryDisplay.from_trajectory(**arguments | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": PATHS[0]}, r"weights must have shape \(4, n_samples, n_weights\)"),
        ({"weights": PATHS[..., :1]}, "at least two weights"),
        ({"weights": PATHS * np.nan}, "contains NaN"),
        ({"times": [0, np.nan, 0, 1]}, "times must be finite"),
        ({"training_weights": TRAINING[:, :5]}, r"must have shape \(n_training, 6\)"),
        ({"training_weights": TRAINING[:1]}, "at least two networks"),
        ({"training_weights": None, "weights": PATHS[:, :1]}, "there must be two samples"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_trajectory(**changes)


@pytest.mark.parametrize(
    "draw", [LossCurveDisplay.from_estimator, TrajectoryDisplay.from_estimator]
)
def test_what_is_no_fitted_posterior_is_named(draw):
    with pytest.raises(TypeError, match="posterior must be a fitted FlowPosterior, got dict"):
        draw({})
