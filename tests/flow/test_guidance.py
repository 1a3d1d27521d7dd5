"""Guidance against tilted Gaussians, whose moments are known in closed form."""

import dataclasses
import math
import re

import pytest
import torch

from bayesflow_nn.flow import (
    Guidance,
    GuidedField,
    Integrator,
    Sampler,
    SolverError,
    TaskGuidance,
)
from bayesflow_nn.flow.finish import finish

SLOPE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def linear(weights):
    return weights @ SLOPE


def quadratic(weights):
    return 0.5 * (weights - 1).square().sum(1)


def sample(flow, guidance, n=50):
    setting, objective = flow.setting(), guidance and guidance.objective
    guided = guidance and GuidedField(flow.field, guidance, objective, setting)
    integrator = Integrator(
        flow.field, setting, torch.linspace(0, 1, 65), solver="rk4", guided=guided
    )
    with torch.no_grad():
        return Sampler(integrator, guidance, objective)(flow.source(n))


def test_a_linear_objective_moves_a_gaussian_by_its_covariance(gaussian_flow):
    """N(m, C) exp(-s a x) is N(m - s C a, C): every sample moves by the same vector."""
    strength = 1e-3
    moved = sample(gaussian_flow, Guidance(linear, strength=strength)) - sample(gaussian_flow, None)
    expected = -strength * gaussian_flow.covariance @ SLOPE
    # The bound on the shift takes at most 2e-5 of it at this strength, sigma 1e-6; rk4 with steps
    # of 1/64 errs most near t = 1, where the field turns within a few steps.
    torch.testing.assert_close(moved, expected.expand_as(moved), rtol=0.01, atol=0)


def test_the_rule_at_the_point_adds_the_gradient_to_the_velocity(gaussian_flow):
    """Of a flow that stands still, the thesis's rule leaves minus strength times gradient."""
    guidance = Guidance(linear, strength=0.3, at="point", schedule="rising")
    guided = GuidedField(gaussian_flow.field, guidance, linear, gaussian_flow.setting())
    t, x = torch.tensor(0.25, dtype=torch.float64), gaussian_flow.source(5)
    difference = guided(t, x) - gaussian_flow.field(t, x)
    expected = (-0.3 * 0.25 * SLOPE).expand(5, 3)
    torch.testing.assert_close(difference, expected, rtol=1e-9, atol=1e-12)


def test_no_shift_is_longer_than_the_target_is_uncertain(gaussian_flow):
    guidance = Guidance(linear, strength=1e6)
    guided = GuidedField(gaussian_flow.field, guidance, linear, gaussian_flow.setting())
    t, x = torch.tensor(0.5, dtype=torch.float64), gaussian_flow.source(5)
    # u = (prediction - (1 - sigma) x) / kappa, and the path has kappa(1/2) = 0.5005.
    shift = (guided(t, x) - gaussian_flow.field(t, x)) * 0.5005
    variance = gaussian_flow.gaussian(t.expand(5), x).variance.squeeze(1)
    torch.testing.assert_close(shift.square().mean(1), variance, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", ["adam", "covariance"])
def test_the_finish_lowers_the_objective_of_every_network(gaussian_flow, rule):
    guidance = Guidance(quadratic, strength=0.0, finish=rule, finish_steps=30)
    start = sample(gaussian_flow, None)
    after = finish(start, guidance, quadratic, gaussian_flow.setting())
    far = quadratic(start) > 0.1  # steps of fixed length overshoot where little is left to gain
    assert far.sum() > 30
    assert (quadratic(after) < quadratic(start))[far].all()


def test_the_finish_follows_the_spheres_and_projects_nothing(product, draw_points, gaussian_flow):
    """Where a projection kept the function, it would give the norm of a step to another layer."""
    setting = dataclasses.replace(
        gaussian_flow.setting(),
        project=lambda x: 2 * x,
        move=lambda x, step: product.expmap(x, product.proju(x, step)),
        scale=product.unit_scale,
    )
    guidance = Guidance(quadratic, strength=0.0, finish_steps=10)
    after = finish(draw_points(product, 20), guidance, quadratic, setting)
    torch.testing.assert_close(product.projx(after), after, atol=1e-14, rtol=0)


def test_langevin_dynamics_samples_the_tilted_gaussian(gaussian_flow):
    """Per principal axis x' = x - s ((x - m) + v (x - c)) + sqrt(2 s v) xi, an AR(1) process."""
    size, n = 0.1, 20_000
    guidance = Guidance(
        quadratic, strength=1.0, finish="langevin", finish_steps=60, finish_step_size=size
    )
    start = gaussian_flow.source(n)
    x = finish(start, guidance, quadratic, gaussian_flow.setting())
    variances, axes = torch.linalg.eigh(gaussian_flow.covariance)
    rate = 1 + variances
    one = torch.ones(3, dtype=torch.float64)
    mean = (gaussian_flow.mean @ axes + variances * (one @ axes)) / rate
    variance = 2 * size * variances / (1 - (1 - size * rate) ** 2)
    # After 60 steps exp(-0.1 * 60) < 0.3 % of the start is left; 5 standard errors of 20,000 draws.
    error = 5 * (variance / n).sqrt()
    assert ((x @ axes).mean(0) - mean).abs().le(error + 0.003 * 3).all()
    torch.testing.assert_close((x @ axes).var(0), variance, rtol=5 * (2 / n) ** 0.5, atol=0)


def test_optimised_sources_lead_to_lower_objectives(gaussian_flow):
    guidance = Guidance(quadratic, strength=0.0, source_steps=15)
    before, after = (
        quadratic(sample(gaussian_flow, None)),
        quadratic(sample(gaussian_flow, guidance)),
    )
    assert after.mean() < 0.8 * before.mean()
    # Nothing moves without steps.
    still = sample(gaussian_flow, Guidance(quadratic, strength=0.0))
    assert torch.equal(still, sample(gaussian_flow, None))


def test_a_diverging_network_is_named(gaussian_flow):
    def objective(weights):
        steepness = torch.tensor([1.0, 1.0, math.inf, 1.0, 1.0])
        return weights[:, 0] * steepness

    message = re.escape(
        "the gradient of the guidance objective gave non-finite values in 1 of the 5"
    )
    with pytest.raises(SolverError, match=message + ".*row 2.*step 1.*lower finish_step_size"):
        sample(gaussian_flow, Guidance(objective, strength=0.0, finish_steps=3), n=5)
    with pytest.raises(SolverError, match=message + ".*row 2.*lower strength"):
        sample(gaussian_flow, Guidance(objective, strength=0.5), n=5)


def test_an_objective_of_one_number_is_refused(gaussian_flow):
    with pytest.raises(ValueError, match=r"one value per network, shape \(5,\), got \(\)"):
        sample(gaussian_flow, Guidance(lambda weights: weights.sum()), n=5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strength": -1.0}, "strength must be finite and >= 0, got -1"),
        ({"schedule": "late"}, "schedule must be one of .*'rising'.* got 'late'"),
        ({"at": "start"}, "at must be one of .*'point'.* got 'start'"),
        ({"finish": "newton"}, "finish must be one of .*'langevin'.* got 'newton'"),
        ({"finish_steps": 1.5}, "finish_steps must be an integer of at least 0, got 1.5"),
        ({"finish_step_size": 0.0}, "finish_step_size must be finite and > 0, got 0"),
        ({"source_steps": -1}, "source_steps must be an integer of at least 0, got -1"),
        (
            {"finish": "langevin", "finish_steps": 1, "strength": 0.0},
            "strength must be positive for finish='langevin'",
        ),
    ],
)
def test_wrong_rules_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Guidance(linear, **parameters)
    with pytest.raises(ValueError, match=message):
        TaskGuidance([[0.0]], [0], **parameters)


def test_an_objective_must_be_callable():
    with pytest.raises(TypeError, match=r"objective must be a callable.* got float.*TaskGuidance"):
        Guidance(3.0)
