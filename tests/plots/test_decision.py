"""Lines and shading of a surface, for classifiers whose boundaries are known in closed form."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from scipy.special import softmax

from bayesflow_nn.plots import UncertaintySurfaceDisplay
from bayesflow_nn.plots.style import PALETTE

DIRECTIONS = np.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]])
POINTS = np.array([[-1.0, -2.0], [3.0, 2.0], [0.0, 1.0], [1.0, 0.5]])


def linear_classifier(directions, **attributes):
    """softmax(directions x), which disagrees as x_0^2 and is noisy as x_1^2."""
    return SimpleNamespace(
        predict_proba=lambda X: softmax(X @ directions.T, axis=1),
        uncertainty=lambda X: SimpleNamespace(
            epistemic=X[:, 0] ** 2, aleatoric=X[:, 1] ** 2, total=(X**2).sum(1)
        ),
        **attributes,
    )


THREE = linear_classifier(DIRECTIONS)
TWO = linear_classifier(np.array([[0.0, 0.0], [2.0, 0.0]]))


def vertices(contour):
    return np.concatenate([path.vertices for path in contour.get_paths()])


def draw(estimator=THREE, X=POINTS, y=None, **kwargs):
    return UncertaintySurfaceDisplay.from_estimator(estimator, X, y, grid_resolution=30, **kwargs)


@pytest.mark.parametrize("part", ["epistemic", "aleatoric", "total"])
def test_the_part_asked_for_is_shaded(part):
    display = draw(part=part, eps=0.5)
    xx, yy = np.meshgrid(np.linspace(-1.5, 3.5, 30), np.linspace(-2.5, 2.5, 30))
    expected = {"epistemic": xx**2, "aleatoric": yy**2, "total": xx**2 + yy**2}[part]
    shade = np.asarray(display.surface_.get_array()).reshape(30, 30)
    np.testing.assert_allclose(shade, expected, atol=1e-12)
    np.testing.assert_allclose(display.surface_.get_coordinates(), np.stack([xx, yy], 2))
    assert display.colorbar_.ax.get_ylabel() == f"{part} uncertainty (nats)"


def test_probability_lines_of_two_classes_lie_at_the_logit_of_the_level():
    display = draw(TWO, level=0.9)
    # p_1 = 1 / (1 + exp(-2 x_0)) is .9 at log(9) / 2, and p_0 at the opposite place. Contours are
    # linear between grid points .2 apart, where p bends by less than .8: an error below .01.
    for contour, place in zip(display.contours_, (-1, 1), strict=True):
        np.testing.assert_allclose(vertices(contour)[:, 0], place * np.log(9) / 2, atol=0.02)
    (boundary,) = display.boundaries_
    np.testing.assert_allclose(vertices(boundary)[:, 0], 0, atol=1e-2)


def test_boundaries_of_three_classes_are_where_the_best_two_tie():
    display = draw()
    assert len(display.boundaries_) == 3
    for contour in display.boundaries_:
        logits = np.sort(vertices(contour) @ DIRECTIONS.T, axis=1)
        # Contours are linear between grid points, .2 apart: off by a small part of a step, most
        # where three classes meet and the margin has a kink.
        assert np.abs(logits[:, 2] - logits[:, 1]).max() < 0.05


def test_a_class_that_wins_nowhere_has_no_line():
    def predict_proba(X):
        return np.tile([0.7, 0.2, 0.1], (len(X), 1))

    certain = SimpleNamespace(predict_proba=predict_proba, uncertainty=THREE.uncertainty)
    display = draw(certain, level=0.5)
    assert display.boundaries_ == display.contours_ == []
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["data"]


def test_points_are_drawn_class_by_class_under_their_labels():
    classes = np.array(["hen", "owl", "rook"])
    estimator = linear_classifier(DIRECTIONS, classes_=classes)
    y = np.array(["owl", "hen", "owl", "rook"])
    ax = draw(estimator, POINTS, y, ax=Figure().subplots()).ax_
    drawn = {points.get_label(): points for points in ax.collections}
    for c, name in enumerate(classes):
        points = drawn[f"class {name}"]
        np.testing.assert_array_equal(points.get_offsets(), POINTS[y == name])
        assert same_color(points.get_facecolor()[0], PALETTE[c])


def test_data_without_labels_are_drawn_all_the_same():
    ax = draw(ax=Figure().subplots()).ax_
    (points,) = (points for points in ax.collections if points.get_label() == "data")
    np.testing.assert_array_equal(points.get_offsets(), POINTS)


def test_the_scale_of_the_shading_is_optional_and_can_be_fixed():
    figure = Figure()
    display = draw(ax=figure.subplots(), colorbar=False, vmax=2.0)
    assert display.colorbar_ is None and figure.axes == [display.ax_]
    assert display.surface_.get_clim() == (0, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"X": np.zeros((0, 2))}, ValueError, r"X must have shape \(n_points, 2\), got \(0, 2\)"),
        ({"X": np.zeros(2)}, ValueError, r"got \(2,\); of more inputs fix all but two"),
        ({"part": "model"}, ValueError, "part must be"),
        ({"eps": -1.0}, ValueError, "eps must be"),
        ({"y": [0, 1, 2, 3]}, ValueError, "previously unseen labels"),
        (
            {"estimator": SimpleNamespace(predict_proba=None)},
            TypeError,
            "estimator must have predict_proba and uncertainty, got SimpleNamespace",
        ),
    ],
)
def test_bad_input_is_named(options, error, message):
    with pytest.raises(error, match=message):
        draw(**options)


def test_a_grid_of_one_point_is_refused():
    with pytest.raises(ValueError, match="grid_resolution must be"):
        UncertaintySurfaceDisplay.from_estimator(THREE, POINTS, grid_resolution=1)
