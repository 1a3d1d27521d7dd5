"""Predictors of ends, made from predictors of targets."""

import functools

import pytest
import torch
from torch import nn

from bayesflow_nn.velocity import (
    MLPVelocity,
    ProbeVelocity,
    RelationalTransformer,
    UnitVariance,
    make_flow_map,
)
from bayesflow_nn.weights import Architecture

VELOCITIES = {
    "mlp": MLPVelocity,
    "probe": ProbeVelocity,
    "graph": RelationalTransformer,
    "graph_on_probe": functools.partial(RelationalTransformer, base="probe"),
}


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("velocity", VELOCITIES)
def test_a_map_without_a_correction_is_the_flow_of_the_gaussian(
    make_problem, draw_noisy, velocity, pooled
):
    problem = make_problem(Architecture.mlp([4, 5, 3]), pooled=pooled)
    model = VELOCITIES[velocity](problem).double()
    for name, parameter in model.named_parameters():
        if "read_out" in name or "write" in name:
            nn.init.zeros_(parameter)
    t, x = draw_noisy(problem)
    predictor = UnitVariance(model, problem.scale)
    points = x / problem.scale
    before = predictor(t, points)
    flow_map = make_flow_map(predictor)
    gaussian = problem.make_denoiser() if velocity == "mlp" else problem.make_gaussian()
    expected = gaussian.transport(t, x) / problem.scale
    torch.testing.assert_close(flow_map(t, points), expected)
    assert torch.equal(predictor(t, points), before)


def test_the_map_learns_and_its_origin_does_not(problem):
    predictor = UnitVariance(MLPVelocity(problem), problem.scale).requires_grad_(False)
    flow_map = make_flow_map(predictor)
    assert all(parameter.requires_grad for parameter in flow_map.parameters())
    assert not any(parameter.requires_grad for parameter in predictor.parameters())


def test_a_velocity_without_a_gaussian_part_is_refused():
    predictor = UnitVariance(nn.Linear(3, 3), torch.ones(3))
    with pytest.raises(TypeError, match=r"attribute `denoiser`.* Linear has none"):
        make_flow_map(predictor)
