"""Marginals: names of weights, whose networks are drawn, and panels inside given axes."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation
from bayesflow_nn.plots import MarginalsDisplay, TrajectoryDisplay, weight_names
from bayesflow_nn.plots.style import FLOW, TRAINED

RNG = np.random.default_rng(0)
SAMPLES = {"training": RNG.normal(size=(60, 4)), "generated": RNG.normal(size=(40, 4))}


@pytest.fixture(scope="module")
def posterior():
    mlp = Architecture.mlp([2, 3, 2])
    weights = torch.randn(80, mlp.n_weights, generator=torch.Generator().manual_seed(0))
    population = WeightPopulation(weights, architecture=mlp, task="classification")
    return FlowPosterior(velocity="mlp", max_iter=20, n_steps=4, random_state=0).fit(population)


def test_names_point_at_the_parameters_of_the_module():
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2, 2)
    )
    architecture = Architecture(module, torch.zeros(1, 1, 3, 3))
    flat = torch.nn.utils.parameters_to_vector(module.parameters())
    names = weight_names(architecture)
    assert len(names) == len(flat) == len(set(names))
    parameters = dict(module.named_parameters())
    for name, value in zip(names, flat, strict=True):
        parameter, index = name.removesuffix("]").split("[")
        assert parameters[parameter][tuple(map(int, index.split(", ")))] == value


def heights(display):
    return {
        name: [outline.get_data().values for outline in outlines]
        for name, outlines in display.histograms_.items()
    }


def test_bins_of_a_panel_span_all_sets():
    display = MarginalsDisplay.from_samples(SAMPLES, [2], n_bins=5)
    both = np.concatenate([rows[:, 2] for rows in SAMPLES.values()])
    for outlines in display.histograms_.values():
        edges = outlines[0].get_data().edges
        np.testing.assert_allclose(edges, np.linspace(both.min(), both.max(), 6))
    assert [v[0].sum() for v in heights(display).values()] == pytest.approx([100, 100])


def test_a_posterior_is_drawn_as_its_training_and_generated_networks(posterior):
    display = MarginalsDisplay.from_estimator(posterior, [0, 16], n_samples=50, random_state=3)
    training = posterior.chart_.to_weights(posterior.training_points_)
    assert len(training) > 50
    generated = posterior.sample(50, random_state=3)
    np.testing.assert_array_equal(display.samples["generated"], generated[:, [0, 16]])
    rows = {tuple(row) for row in training[:, [0, 16]].double().tolist()}
    assert len(display.samples["training"]) <= 50
    assert rows.issuperset(map(tuple, display.samples["training"].tolist()))
    assert [panel.get_xlabel() for panel in display.axes_] == ["0.weight[0, 0]", "2.bias[1]"]


def test_training_and_generated_networks_keep_their_colours():
    display = MarginalsDisplay.from_samples(dict(reversed(SAMPLES.items())))
    colours = {name: outlines[0].get_edgecolor() for name, outlines in display.histograms_.items()}
    for name, colour in (("training", TRAINED), ("generated", FLOW)):
        rgb = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        np.testing.assert_allclose(colours[name][:3], rgb)


def test_panels_lie_inside_the_given_axes():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    display = MarginalsDisplay.from_samples(SAMPLES, ax=right, n_panels_per_row=3)
    assert len(display.axes_) == 4
    frame = right.get_position()
    for panel in display.axes_:
        box = panel.get_position()
        assert frame.x0 - 1e-9 <= box.x0 < box.x1 <= frame.x1 + 1e-9
        assert frame.y0 - 1e-9 <= box.y0 < box.y1 <= frame.y1 + 1e-9
    rows = {round(panel.get_position().y0, 6) for panel in display.axes_}
    assert len(rows) == 2
    assert not right.axison and left.axison


def test_paths_of_a_posterior_are_those_of_its_flow(posterior):
    display = TrajectoryDisplay.from_estimator(posterior, n_samples=6, random_state=1)
    trajectory = posterior.sample(6, random_state=1, noise=0, return_trajectory=True)
    training = posterior.chart_.to_weights(posterior.training_points_)
    same = TrajectoryDisplay.from_trajectory(*trajectory, training)
    np.testing.assert_allclose(display.paths, same.paths)
    np.testing.assert_allclose(display.training, same.training)
    ends = posterior.sample(6, random_state=1, noise=0)
    np.testing.assert_array_equal(trajectory.weights[-1], ends)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": {}}, "samples must hold sets"),
        ({"samples": {"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}}, "with the same weights"),
        ({"samples": {"a": np.full((2, 3), np.inf)}}, r"samples\['a'\] must be finite"),
        ({"columns": [4]}, "columns must be integers from 0 to 3"),
        ({"columns": [-1]}, "columns must be integers from 0 to 3"),
        ({"columns": [0.5]}, "columns must be integers"),
        ({"columns": []}, "at least one"),
        ({"labels": ["a"]}, "labels must name all 4 weights, got 1 labels"),
        ({"n_bins": 0}, "n_bins must be"),
        ({"n_panels_per_row": 0}, "n_panels_per_row must be"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        MarginalsDisplay.from_samples(**{"samples": SAMPLES} | options)


def test_axes_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="ax must be one of a grid of subplots"):
        MarginalsDisplay.from_samples(SAMPLES, ax=Figure().add_axes((0, 0, 1, 1)))
