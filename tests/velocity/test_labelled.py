"""LabelledDenoiser against the laws of the networks of each label."""

import dataclasses

import pytest
import torch

from bayesflow_nn.condition_encoder import ConditionEncoder
from bayesflow_nn.velocity import (
    AffineDenoiser,
    ConditionalDenoiser,
    ExchangeableDenoiser,
    LabelledDenoiser,
)
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.weights import Architecture

TINY = Architecture.mlp([2, 3, 2])
LABELS = ["narrow", "wide"]


@pytest.fixture
def problem(make_problem):
    """Networks of two labels, one in three times as far from the mean as the other."""
    plain = make_problem(TINY, "euclidean", pooled=True)
    names = [LABELS[i % 2] for i in range(len(plain.points))]
    factor = torch.tensor([1.0, 3.0]).repeat(len(names))[: len(names), None]
    return dataclasses.replace(
        plain,
        points=plain.points * factor.to(plain.points),
        held_out=None,
        condition=ConditionEncoder().fit_transform(names).double(),
    )


@pytest.fixture
def denoiser(problem):
    return problem.make_gaussian()


def law_of(problem, rows):
    points = problem.points[rows] * problem.scale
    return ExchangeableDenoiser(NeuralGraph(problem.chart), points, None, problem.schedule)


def calls(denoiser, t, x, condition=None):
    """What all methods make of points."""
    yield from denoiser(t, x, condition)
    yield denoiser.transport(t, x, condition)
    yield denoiser.apply_covariance(t, x, condition, power=0.5)


def test_each_row_follows_the_law_of_its_label(problem, denoiser):
    assert isinstance(denoiser, LabelledDenoiser)
    x, condition = problem.points[:6], problem.condition[:6]
    t = torch.linspace(0, 0.9, 6).to(x)
    narrow, wide = (law_of(problem, slice(start, None, 2)) for start in (0, 1))
    own = calls(denoiser, t, x, condition)
    for value, low, high in zip(own, calls(narrow, t, x), calls(wide, t, x), strict=True):
        assert torch.equal(value[::2], low[::2])
        assert torch.equal(value[1::2], high[1::2])


def test_without_a_label_a_row_follows_the_law_of_all(problem, denoiser):
    x, condition = problem.points[:6], problem.condition[:6].clone()
    t = torch.linspace(0, 0.9, 6).to(x)
    overall = law_of(problem, slice(None))
    known = list(calls(denoiser, t, x, condition))
    condition[:2] = 0
    mixed, nothing = calls(denoiser, t, x, condition), calls(denoiser, t, x)
    for value, all_known, bare, expected in zip(
        mixed, known, nothing, calls(overall, t, x), strict=True
    ):
        assert torch.equal(value[:2], expected[:2])
        assert torch.equal(value[2:], all_known[2:])
        assert torch.equal(bare, expected)


def test_values_and_rare_labels_have_no_laws_of_their_own(problem):
    values = torch.linspace(-1, 1, len(problem.points))
    rare = ["often"] * (len(problem.points) - 5) + ["rare"] * 5
    for y in (values.numpy(), rare):
        condition = ConditionEncoder().fit_transform(y).double()
        gaussian = dataclasses.replace(problem, condition=condition).make_gaussian()
        assert isinstance(gaussian, ExchangeableDenoiser)


@pytest.fixture
def make_groups(generator, make_problem):
    """Networks of two labels that vary in other directions, with as many held out."""

    def make(n, n_labelled_axes):
        plain = make_problem(Architecture.mlp([4, 5, 3]), "euclidean")
        n_coordinates = plain.points.shape[1]
        label = torch.arange(2 * n) % 2
        axes = torch.full((2, n_coordinates), 1.0, dtype=torch.float64)
        axes[0, :n_labelled_axes] = axes[1, n_labelled_axes : 2 * n_labelled_axes] = 0.1
        points = torch.randn(2 * n, n_coordinates, generator=generator, dtype=torch.float64)
        points = points * axes[label] / plain.scale
        features = ConditionEncoder().fit_transform([LABELS[i] for i in label]).double()
        return dataclasses.replace(
            plain,
            points=points[:n],
            held_out=points[n:],
            condition=features[:n],
            held_out_condition=features[n:],
        )

    return make


def test_aligned_labels_have_own_laws_where_these_differ(make_groups):
    problem = make_groups(800, 15)
    denoiser = problem.make_gaussian()
    assert isinstance(denoiser, LabelledDenoiser)
    x = problem.points * problem.scale
    own = AffineDenoiser(x[::2], problem.held_out[::2] * problem.scale, problem.schedule)
    t = torch.full((400,), 0.5, dtype=torch.float64)
    assert torch.equal(denoiser(t, x[::2], problem.condition[::2]).mean, own(t, x[::2]).mean)


def test_aligned_labels_share_a_covariance_that_is_the_same(make_groups):
    problem = make_groups(80, 0)
    assert isinstance(problem.make_gaussian(), ConditionalDenoiser)
    unseen = dataclasses.replace(problem, held_out=None, held_out_condition=None)
    assert isinstance(unseen.make_gaussian(), ConditionalDenoiser)
