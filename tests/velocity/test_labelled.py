"""LabelledDenoiser against the laws of the networks of each label."""

import dataclasses

import pytest
import torch

from bayesflow_nn.condition_encoder import ConditionEncoder
from bayesflow_nn.symmetry.transfer import transfer_chart
from bayesflow_nn.velocity import (
    AffineDenoiser,
    ConditionalDenoiser,
    ExchangeableDenoiser,
    LabelledDenoiser,
)
from bayesflow_nn.velocity.gaussian import Denoised
from bayesflow_nn.velocity.labelled import (
    ConditionedPoints,
    call_by_label,
    with_laws_of_labels,
)
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.weights import Architecture

TINY = Architecture.mlp([2, 3, 2])
LABELS = ["narrow", "wide"]


@pytest.fixture
def problem(make_problem):
    """Networks of two labels, one in three times as far from the mean as the other."""
    plain = make_problem(TINY, "euclidean", pooled=True)
    encoder = ConditionEncoder().fit(LABELS)

    def label(points):
        place = torch.arange(len(points)) % 2
        factor = torch.tensor([1.0, 3.0], dtype=torch.float64)[place, None]
        return points * factor, encoder.transform([LABELS[i] for i in place]).double()

    points, condition = label(plain.points)
    held_out, held_out_condition = label(plain.held_out)
    return dataclasses.replace(
        plain,
        points=points,
        condition=condition,
        held_out=held_out,
        held_out_condition=held_out_condition,
    )


@pytest.fixture
def shared(problem):
    """The law whose mean alone depends on the label."""
    return ExchangeableDenoiser(
        NeuralGraph(problem.chart),
        problem.points * problem.scale,
        problem.held_out * problem.scale,
        problem.schedule,
        problem.condition,
        problem.held_out_condition,
    )


def law_of(problem, rows):
    points, held_out = problem.points[rows] * problem.scale, problem.held_out[rows] * problem.scale
    return ExchangeableDenoiser(NeuralGraph(problem.chart), points, held_out, problem.schedule)


@pytest.fixture
def denoiser(problem, shared):
    laws = [law_of(problem, slice(start, None, 2)) for start in (0, 1)]
    return LabelledDenoiser(problem.condition[:2], laws, shared)


def calls(denoiser, t, x, condition=None):
    """What all methods make of points."""
    yield from denoiser(t, x, condition)
    yield denoiser.transport(t, x, condition)
    yield denoiser.apply_covariance(t, x, condition, power=0.5)
    yield denoiser.advance(t, torch.tensor(0.05), x, x.flip(1), condition)


def test_each_row_follows_the_law_of_its_label(problem, denoiser):
    x, condition = problem.points[:6], problem.condition[:6]
    t = torch.linspace(0, 0.9, 6).to(x)
    narrow, wide = (law_of(problem, slice(start, None, 2)) for start in (0, 1))
    own = calls(denoiser, t, x, condition)
    expected = calls(narrow, t[::2], x[::2]), calls(wide, t[1::2], x[1::2])
    for value, low, high in zip(own, *expected, strict=True):
        assert torch.equal(value[::2], low)
        assert torch.equal(value[1::2], high)


def test_rows_without_a_fitted_label_follow_the_shared_law(problem, denoiser, shared):
    x, condition = problem.points[:6], problem.condition[:6].clone()
    t = torch.linspace(0, 0.9, 6).to(x)
    known = calls(denoiser, t[2:], x[2:], condition[2:])
    condition[:2] = torch.tensor([[0, 0, 0], [1, 0.5, 0.5]])  # no label, and between the two
    mixed, nothing = calls(denoiser, t, x, condition), calls(denoiser, t, x)
    alone, overall = calls(shared, t[:2], x[:2], condition[:2]), calls(shared, t, x)
    for value, others, bare, expected, unconditional in zip(
        mixed, known, nothing, alone, overall, strict=True
    ):
        assert torch.equal(value[:2], expected)
        assert torch.equal(value[2:], others)
        assert torch.equal(bare, unconditional)
        assert not torch.equal(value[1], unconditional[1])


def test_only_what_has_rows_is_called():
    """Two labels and neither; the rows of one are given together, and come back in their places."""
    labels, asked = torch.eye(2), []

    def answer(name, factor):
        def function(x, y):
            asked.append((name, x.tolist()))
            return x * factor, y + factor

        return function

    functions, other = [answer("first", 10), answer("second", 100)], answer("other", 1000)
    condition = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.0, 1.0]])
    x, y = torch.arange(3), torch.zeros(3, 2)
    times, plus = call_by_label(labels, functions, other, condition, (x, y))
    assert asked == [("second", [0, 2]), ("other", [1])]
    assert times.tolist() == [0, 1000, 200]
    assert plus.tolist() == [[100, 100], [1000, 1000], [100, 100]]


def with_labels(problem, training, held_out):
    """The problem with other conditions."""
    encoder = ConditionEncoder().fit(training)
    return dataclasses.replace(
        problem,
        condition=encoder.transform(training).double(),
        held_out_condition=encoder.transform(held_out).double(),
    )


def test_values_have_no_laws_of_their_own(problem):
    values = torch.linspace(-1, 1, len(problem.points)).numpy()
    gaussian = with_labels(problem, values, values[: len(problem.held_out)]).make_gaussian()
    assert isinstance(gaussian, ExchangeableDenoiser)


def test_labels_of_unaligned_networks_have_laws_of_their_own(problem, denoiser):
    """Variances of 1 and 9 instead of the shared 5.

    The advantage is plain for the narrow label; the other then has its law too.
    """
    gaussian = problem.make_gaussian()
    t = torch.full((40,), 0.5, dtype=torch.float64)
    given = t, problem.points, problem.condition
    assert torch.equal(gaussian(*given).mean, denoiser(*given).mean)


def schedule(t):
    return t[:, None], 1 - 0.999 * t[:, None]


class Answers(torch.nn.Module):
    """Predicts zeros with given squared errors of the velocity, one for each row."""

    def __init__(self, errors):
        super().__init__()
        self.errors = errors

    def forward(self, t, x, condition=None):
        mean = self.errors.sqrt()[:, None] * schedule(t)[1]
        return Denoised(mean.expand_as(x), None)


@pytest.mark.parametrize(
    ("advantages", "own"), [((1.9, 1.9), []), ((2.1, 0.1), [0, 1]), ((2.1, -0.1), [0])]
)
def test_labels_have_laws_if_one_is_ahead_by_two_standard_errors(advantages, own):
    """Of held-out networks at zero, ten of each label, with squared errors of 20 less the gains."""
    gains = torch.linspace(-1, 1, 10, dtype=torch.float64)
    gains /= gains.std() / 10**0.5  # in units of the standard error of their mean
    labels = torch.eye(2, dtype=torch.float64)
    training = ConditionedPoints(torch.zeros(40, 3).double(), labels.repeat(20, 1))
    held_out = ConditionedPoints(torch.zeros(20, 3).double(), labels.repeat(10, 1))
    # Labels come in the order of their features: the second row of the unit matrix first.
    laws = iter([Answers(20 - gains - advantage) for advantage in advantages])
    shared = Answers(torch.full((10,), 20.0, dtype=torch.float64))
    made = with_laws_of_labels(shared, lambda *_: next(laws), schedule, training, held_out)
    if not own:
        assert made is shared
    else:
        assert made.labels.tolist() == labels.flip(0)[own].tolist()


@pytest.fixture
def make_groups(generator, make_problem):
    """Networks of two labels that do not vary along the same axes, with as many held out.

    Standard deviations fall to a twentieth.
    """

    def make(n, n_labelled_axes):
        plain = make_problem(Architecture.mlp([4, 5, 3]), "euclidean")
        n_coordinates = plain.points.shape[1]
        label = torch.arange(2 * n) % 2
        axes = torch.linspace(0, -3, n_coordinates, dtype=torch.float64).exp().repeat(2, 1)
        axes[0, :n_labelled_axes] *= 0.1
        axes[1, n_labelled_axes : 2 * n_labelled_axes] *= 0.1
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


@pytest.mark.parametrize("n", [40, 80])
def test_aligned_labels_share_a_covariance_that_is_the_same(make_groups, n):
    """By twice as many networks it is known better: by 4 to 6 standard errors, which vary by 1."""
    assert isinstance(make_groups(n, 0).make_gaussian(), ConditionalDenoiser)


@pytest.mark.parametrize(
    ("n_training", "n_held_out", "has_law"), [(19, 400, False), (20, 9, False), (20, 10, True)]
)
def test_rare_labels_have_no_laws_of_their_own(make_groups, n_training, n_held_out, has_law):
    problem = make_groups(800, 15)

    def thin(condition, n):
        """All of the first label, and n of the other."""
        other = condition[:, 2] == 1
        return ~other | (other.cumsum(0) <= n)

    kept = thin(problem.condition, n_training)
    judging = thin(problem.held_out_condition, n_held_out)
    denoiser = dataclasses.replace(
        problem,
        points=problem.points[kept],
        condition=problem.condition[kept],
        held_out=problem.held_out[judging],
        held_out_condition=problem.held_out_condition[judging],
    ).make_gaussian()
    assert denoiser.labels.tolist() == ([[1, 0, 1]] if has_law else []) + [[1, 1, 0]]


def test_without_held_out_networks_labels_share_a_covariance(make_groups):
    problem = make_groups(800, 15)
    unseen = dataclasses.replace(problem, held_out=None, held_out_condition=None)
    assert isinstance(problem.make_gaussian(), LabelledDenoiser)
    assert isinstance(unseen.make_gaussian(), ConditionalDenoiser)


def test_a_label_without_held_out_networks_keeps_the_shared_law(make_groups):
    problem = make_groups(800, 15)
    seen = problem.held_out_condition[:, 1] == 1
    partly = dataclasses.replace(
        problem,
        held_out=problem.held_out[seen],
        held_out_condition=problem.held_out_condition[seen],
    )
    denoiser = partly.make_gaussian()
    assert denoiser.labels.tolist() == [[1, 1, 0]]
    x, condition = problem.points[:6] * problem.scale, problem.condition[:6]
    t = torch.linspace(0, 0.9, 6).to(x)
    for value, of_seen, of_other in zip(
        calls(denoiser, t, x, condition),
        calls(denoiser.shared, t[::2], x[::2], condition[::2]),
        calls(denoiser.shared, t[1::2], x[1::2], condition[1::2]),
        strict=True,
    ):
        assert torch.equal(value[1::2], of_other)
        assert not torch.equal(value[::2], of_seen)


def test_other_widths_have_the_laws_too(problem, denoiser):
    wide = NeuralGraph(transfer_chart(problem.chart, Architecture.mlp([2, 6, 2])))
    x = torch.ones(4, wide.n_coordinates, dtype=torch.float64)
    t, condition = torch.full((4,), 0.5, dtype=torch.float64), problem.condition[:4]
    values = calls(denoiser.on(wide), t, x, condition)
    own = [calls(law.on(wide), t[:2], x[:2]) for law in denoiser.laws]
    for value, *expected in zip(values, *own, strict=True):
        for start in (0, 1):
            assert torch.equal(value[start::2], expected[start])
