"""LabelledRefinement: steps of labels see, and learn from, the networks of their label alone."""

import dataclasses

import pytest
import torch

from bayesflow_nn.symmetry.transfer import transfer_chart
from bayesflow_nn.velocity import ProbeVelocity
from bayesflow_nn.velocity.features import all_features
from bayesflow_nn.velocity.probe_refinement import LabelledRefinement, ProbeRefinement
from bayesflow_nn.weights import Architecture

SMALL = Architecture.mlp([4, 5, 3])
N_PROBES = 8


@pytest.fixture
def make_labelled(make_problem, generator):
    """150 networks of each label and 50 held out, of every other ten times as far from the mean."""

    def make(n_labels=2, *, pooled=False, inputs=None):
        plain = make_problem(SMALL, "euclidean", pooled=pooled, inputs=inputs)
        label = torch.arange(200 * n_labels) % n_labels
        shape = len(label), SMALL.n_weights
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        points = plain.chart.to_point(weights * 10.0 ** (label[:, None] % 2))
        condition = torch.cat([torch.ones(len(label), 1), torch.eye(n_labels)[label]], dim=1)
        n_held_out = 50 * n_labels
        return dataclasses.replace(
            plain,
            points=points[n_held_out:],
            held_out=points[:n_held_out],
            condition=condition[n_held_out:].double(),
            held_out_condition=condition[:n_held_out].double(),
        )

    return make


@pytest.fixture
def problem(make_labelled):
    return make_labelled()


@pytest.fixture
def refinement(problem):
    return LabelledRefinement(problem, problem.condition[:2], N_PROBES).double()


def seen_by(problem, rows):
    """Features of conditions at one time, predictions and their variance."""
    x = problem.points[:rows] * problem.scale
    t = torch.full((rows,), 0.6, dtype=torch.float64)
    variance = torch.linspace(0.1, 0.6, rows, dtype=torch.float64)[:, None]
    return all_features(t, problem.condition[:rows], 3), x, variance


def assert_equal(step, expected):
    """Up to the order of float64 operations, which differs with the layout of the features."""
    torch.testing.assert_close(step, expected, rtol=1e-12, atol=1e-14)


def test_each_row_takes_the_step_of_its_label(problem, refinement):
    """The third row has no known label, and the fourth one between the two."""
    features, x, variance = seen_by(problem, 6)
    features[2, -3:] = 0
    features[3, -2:] = 0.5
    step = refinement(features, x, variance)
    for own, rows in ((refinement.own[0], [0, 4]), (refinement.own[1], [1, 5])):
        assert_equal(step[rows], own(features[rows, :-3], x[rows], variance[rows]))
    rows = [2, 3]
    assert_equal(step[rows], refinement.shared(features[rows], x[rows], variance[rows]))


def test_rows_of_a_label_teach_its_own_step_alone(problem, refinement):
    features, x, variance = seen_by(problem, 6)
    refinement(features, x, variance)[::2].square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in refinement.own[0].parameters())
    others = [*refinement.own[1].parameters(), *refinement.shared.parameters()]
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in others)


def test_half_the_probes_of_a_label_start_where_its_own_networks_are_least_certain(make_labelled):
    inputs = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = make_labelled(inputs=inputs)
    refinement = LabelledRefinement(problem, problem.condition[:2], N_PROBES)
    assert not torch.equal(*(own.probes[: N_PROBES // 2] for own in refinement.own))
    for own, start in zip(refinement.own, (0, 1), strict=True):
        weights = problem.chart.to_weights(problem.points[start::2])
        proba = SMALL.apply(weights, inputs).softmax(-1)
        entropy = -torch.xlogy(proba, proba).sum(-1).mean(0)
        least_certain = inputs[entropy.argsort(descending=True)[: N_PROBES // 2]]
        assert torch.equal(own.probes[: N_PROBES // 2], least_certain)


@pytest.mark.parametrize(("n_labels", "kind"), [(4, LabelledRefinement), (5, ProbeRefinement)])
def test_up_to_four_labels_have_steps_of_their_own(make_labelled, n_labels, kind):
    problem = make_labelled(n_labels)
    model = ProbeVelocity(problem, n_probes=4, n_refinements=1)
    assert len(model.denoiser.labels) == n_labels  # by their Gaussian laws all would
    (refinement,) = model.refinements
    assert type(refinement) is kind


@pytest.mark.parametrize("kind", ["values", "two columns", "a rare label"])
def test_conditions_that_are_not_all_labels_with_a_law_share_the_steps(problem, kind):
    """Those in between, in other combinations, or of rare networks have to learn from the rest."""
    condition = {"held_out_condition": problem.held_out_condition, "condition": problem.condition}
    for name, features in condition.items():
        label = features[:, 2:]
        if kind == "values":
            condition[name] = torch.cat([features[:, :1], 0.3 * label, 0.1 * label], dim=1)
        elif kind == "two columns":
            condition[name] = torch.cat([features, features[:, 1:]], dim=1)
        else:
            rare = torch.zeros(len(features), 1, dtype=torch.float64)
            rare[:5] = 1
            condition[name] = torch.cat([features * (1 - rare), rare], dim=1)
            condition[name][:, 0] = 1
    model = ProbeVelocity(dataclasses.replace(problem, **condition), n_probes=4, n_refinements=1)
    assert len(model.denoiser.labels) == 2
    assert type(model.refinements[0]) is ProbeRefinement


def test_labels_with_a_shared_law_share_the_steps(problem):
    unseen = dataclasses.replace(problem, held_out=None, held_out_condition=None)
    (refinement,) = ProbeVelocity(unseen, n_probes=4, n_refinements=1).refinements
    assert type(refinement) is ProbeRefinement


def test_forward_derivatives_of_many_directions_agree_with_finite_differences(problem, generator):
    """As the trace of the divergence takes them."""
    model = ProbeVelocity(problem, n_probes=N_PROBES, n_refinements=2).double()
    assert all(type(step) is LabelledRefinement for step in model.refinements)
    x, condition = problem.points[:6] * problem.scale, problem.condition[:6].clone()
    condition[2] = 0
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    directions = torch.randn(3, *x.shape, generator=generator, dtype=torch.float64)

    def push(direction):
        return torch.func.jvp(lambda x: model(t, x, condition), (x,), (direction,))[1]

    pushed, h = torch.func.vmap(push)(directions), 1e-6
    for own, direction in zip(pushed, directions, strict=True):
        ahead, behind = (model(t, x + sign * h * direction, condition) for sign in (1, -1))
        # Rounding eps / h = 2e-10 times values of order ten, as in the tests of ProbeVelocity.
        torch.testing.assert_close(own, (ahead - behind) / (2 * h), atol=1e-7, rtol=1e-6)


def test_other_widths_take_the_steps_too(make_labelled):
    problem = make_labelled(pooled=True)
    refinement = LabelledRefinement(problem, problem.condition[:2], N_PROBES).double()
    chart = transfer_chart(problem.chart, Architecture.mlp([4, 7, 3]))
    wide = refinement.on(chart)
    x = torch.ones(4, chart.manifold.n_coordinates, dtype=torch.float64)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    features, variance = all_features(t, problem.condition[:4], 3), x[:, :1]
    features[3, -3:] = 0
    step = wide(features, x, variance)
    for own, rows in ((refinement.own[0], [0, 2]), (refinement.own[1], [1])):
        expected = own.on(chart)(features[rows, :-3], x[rows], variance[rows])
        assert_equal(step[rows], expected)
    shared = refinement.shared.on(chart)
    assert_equal(step[3:], shared(features[3:], x[3:], variance[3:]))
    assert wide.own[0].probes is refinement.own[0].probes
