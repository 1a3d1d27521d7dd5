"""Histograms of scores hold every input, and the legend the share of pairs in the right order."""

from types import SimpleNamespace

import numpy as np
import pytest

from bayesflow_nn.plots import UncertaintyHistogramDisplay

RNG = np.random.default_rng(0)
INSIDE, OUTSIDE = RNG.integers(0, 8, 30) / 10, RNG.integers(3, 12, 20) / 10


def legend_title(display):
    return display.ax_.get_legend().get_title().get_text()


def test_all_inputs_of_both_kinds_are_in_the_same_bins():
    display = UncertaintyHistogramDisplay.from_scores(INSIDE, OUTSIDE, n_bins=7)
    low, high = min(INSIDE.min(), OUTSIDE.min()), max(INSIDE.max(), OUTSIDE.max())
    for outline, scores in ((display.inside_, INSIDE), (display.outside_, OUTSIDE)):
        np.testing.assert_allclose(outline.get_data().edges, np.linspace(low, high, 8))
        assert outline.get_data().values.sum() == pytest.approx(100)
        bins = np.minimum(((scores - low) / (high - low) * 7).astype(int), 6)
        expected = 100 * np.bincount(bins, minlength=7) / len(scores)
        np.testing.assert_allclose(outline.get_data().values, expected)


def test_the_auroc_is_the_share_of_pairs_in_the_right_order():
    pairs = [1.0 if b > a else 0.5 if b == a else 0.0 for a in INSIDE for b in OUTSIDE]
    display = UncertaintyHistogramDisplay.from_scores(INSIDE, OUTSIDE)
    assert legend_title(display) == f"AUROC = {np.mean(pairs):.3f}"
    assert legend_title(display.plot(name="flow")) == f"flow (AUROC = {np.mean(pairs):.3f})"


@pytest.mark.parametrize("part", ["epistemic", "aleatoric", "total"])
def test_a_classifier_is_drawn_as_its_scores(part):
    def uncertainty(X):
        return SimpleNamespace(epistemic=X[:, 0], aleatoric=X[:, 1], total=X.sum(1))

    X_inside, X_outside = RNG.random((30, 2)), RNG.random((20, 2)) + 0.2
    display = UncertaintyHistogramDisplay.from_estimator(
        SimpleNamespace(uncertainty=uncertainty), X_inside, X_outside, part=part
    )
    scores = (getattr(uncertainty(X), part) for X in (X_inside, X_outside))
    same = UncertaintyHistogramDisplay.from_scores(*scores)
    for outline, expected in zip(
        (display.inside_, display.outside_), (same.inside_, same.outside_), strict=True
    ):
        np.testing.assert_array_equal(outline.get_data().values, expected.get_data().values)
    assert legend_title(display) == f"SimpleNamespace ({legend_title(same)})"
    assert display.ax_.get_xlabel() == f"{part} uncertainty (nats)"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: UncertaintyHistogramDisplay.from_scores([], [0.5]), "inside must"),
        (lambda: UncertaintyHistogramDisplay.from_scores([0.5], [np.nan]), "outside must"),
        (lambda: UncertaintyHistogramDisplay.from_scores([0.5], [0.6], n_bins=0), "n_bins must"),
        (
            lambda: UncertaintyHistogramDisplay.from_estimator(None, [[0]], [[1]], part="model"),
            "part must be",
        ),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises((ValueError, TypeError), match=message):
        draw()
