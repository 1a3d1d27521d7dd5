"""MLPVelocity: the affine prediction plus a residual in units of the posterior's spread."""

import pytest
import torch
from torch import nn

from bayesflow_nn.velocity import MLPVelocity
from bayesflow_nn.velocity.features import N_TIME_FEATURES, time_features


@pytest.fixture
def model(problem):
    return MLPVelocity(problem, hidden_size=16, dropout=0.5).double().eval()


@pytest.fixture
def trained(model, generator):
    """A model whose residual is not zero any more."""
    nn.init.normal_(model.read_out.weight, std=0.3, generator=generator)
    return model


def test_a_new_model_is_the_affine_denoiser(model, problem, draw_noisy):
    t, x = draw_noisy(problem)
    expected = problem.make_denoiser()(t, x).mean
    assert torch.equal(model(t, x), expected)


def test_the_residual_vanishes_where_nothing_is_uncertain(trained, problem, draw_noisy):
    """At t = 1 the noise is sigma = 0.001, at t = 0 it is 1."""
    _, x = draw_noisy(problem, 20)

    def residual(t):
        times = torch.full((20,), t, dtype=torch.float64)
        return (trained(times, x) - trained.denoiser(times, x).mean).square().mean().sqrt()

    # The spread at t = 1 is at most sigma pi / 2; the network's own answer is of order one.
    assert residual(1.0) < 0.01
    assert residual(0.0) > 0.1


def test_rows_do_not_depend_on_each_other(trained, problem, draw_noisy):
    t, x = draw_noisy(problem)
    torch.testing.assert_close(trained(t[2:4], x[2:4]), trained(t, x)[2:4])


def test_the_residual_depends_on_the_time_and_on_the_point(trained, problem, draw_noisy):
    t, x = draw_noisy(problem, 2)

    def residual(t, x):
        affine = trained.denoiser(t, x)
        return (trained(t, x) - affine.mean) / affine.variance.sqrt()

    assert (residual(t, x) - residual(t.flip(0), x)).abs().max() > 1e-3
    assert (residual(t, x) - residual(t, x.flip(0))).abs().max() > 1e-3


def test_dropout_acts_in_training_only(trained, problem, draw_noisy):
    t, x = draw_noisy(problem)
    assert torch.equal(trained(t, x), trained(t, x))
    trained.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(trained(t, x), trained(t, x))


def test_initial_parameters_follow_the_generator_of_the_problem(make_problem, problem):
    def parameters(seed):
        architecture = problem.chart.architecture
        model = MLPVelocity(make_problem(architecture, seed=seed), hidden_size=8)
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(parameters(1), parameters(1))
    assert not torch.equal(parameters(1), parameters(2))


def test_time_features_are_bounded_and_tell_times_apart():
    features = time_features(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert features.shape == (101, N_TIME_FEATURES)
    assert features.abs().max() <= 1
    # The first feature, cos(pi t), falls everywhere; over 0.01 it falls least at the ends.
    falls = features[:-1, 0] - features[1:, 0]
    assert falls.min() == pytest.approx(
        1 - torch.cos(torch.tensor(torch.pi / 100)).item(), rel=0.01
    )
