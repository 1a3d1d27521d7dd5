"""Points of networks, means of sets, and the posterior's own report."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bayesflow_nn.diversity import max_iou
from bayesflow_nn.plots import DiversityDisplay

RNG = np.random.default_rng(0)
SETS = {"training": (RNG.random(7), RNG.random(7)), "generated": (RNG.random(4), RNG.random(4))}


def test_a_network_is_a_point_and_a_set_has_its_mean():
    display = DiversityDisplay.from_sets(SETS)
    for name, (overlap, accuracy) in SETS.items():
        expected = [[o, a] for o, a in zip(overlap, accuracy, strict=True)]
        np.testing.assert_array_equal(display.points_[name].get_offsets(), expected)
        mean = [sum(overlap) / len(overlap), sum(accuracy) / len(accuracy)]
        np.testing.assert_allclose(display.means_[name].get_offsets(), [mean])


def test_the_legend_names_the_sets_once_each():
    legend = DiversityDisplay.from_sets(SETS).ax_.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["training", "generated"]


def test_a_copy_of_a_training_network_lies_at_an_overlap_of_one():
    wrong = torch.as_tensor(RNG.random((5, 40)) < 0.3)
    copies, accuracy = max_iou(wrong[:2], wrong), 1 - wrong[:2].double().mean(1)
    display = DiversityDisplay.from_sets({"copies": (copies, accuracy)})
    expected = [[1, 1 - wrong[k].sum().item() / 40] for k in range(2)]
    np.testing.assert_allclose(display.points_["copies"].get_offsets(), expected)


def test_a_posterior_is_drawn_as_the_frontier_of_its_report():
    asked = {}

    def diversity(X, y, **options):
        asked.update(options, X=X, y=y)
        return SimpleNamespace(frontier=SETS)

    posterior = SimpleNamespace(diversity=diversity)
    display = DiversityDisplay.from_estimator(posterior, "X", "y", n_samples=9, random_state=3)
    assert asked == {"X": "X", "y": "y", "n_samples": 9, "random_state": 3}
    same = DiversityDisplay.from_sets(SETS)
    for name in SETS:
        drawn, expected = (d.points_[name].get_offsets() for d in (display, same))
        np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, "sets must hold at least one set"),
        ({"a": ([0.1, 0.2], [0.9])}, "accuracy of 'a' must be a vector of 2 numbers"),
        ({"a": ([], [])}, "max_iou of 'a' must be a vector"),
        ({"a": ([np.nan], [0.9])}, "max_iou of 'a' must be finite"),
    ],
)
def test_bad_sets_are_named(sets, message):
    with pytest.raises(ValueError, match=message):
        DiversityDisplay.from_sets(sets)
