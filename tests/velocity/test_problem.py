"""VelocityProblem and UnitVariance: models work in coordinates of about unit variance."""

import torch
from torch import nn

from bayesflow_nn.velocity import AffineDenoiser, UnitVariance


class SquarePlusTime(nn.Module):
    def forward(self, t, x):
        return x**2 + t[:, None]


def test_unit_variance_scales_points_there_and_predictions_back():
    scale = torch.tensor([1.0, 2.0, 4.0])
    x, t = torch.tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]), torch.tensor([0.0, 8.0])
    expected = torch.tensor([[1.0, 2.0, 4.0], [17.0, 22.0, 38.0]])
    assert torch.equal(UnitVariance(SquarePlusTime(), scale)(t, x), expected)


def test_the_denoiser_of_a_problem_is_fitted_to_scaled_points(problem, draw_noisy):
    t, x = draw_noisy(problem)
    expected = AffineDenoiser(
        problem.points * problem.scale,
        problem.held_out * problem.scale,
        problem.schedule,
    )
    assert torch.equal(problem.make_denoiser()(t, x).mean, expected(t, x).mean)
    assert torch.equal(problem.make_denoiser()(t, x).variance, expected(t, x).variance)


def test_scaled_points_have_about_unit_variance(problem):
    # Random directions in R^5 times sqrt(5), and standardised coordinates. Variances of 40 points
    # average over 20 or more coordinates: within 5 %, plus the 20 % that random means take.
    variance = (problem.points * problem.scale).var(0).mean().item()
    assert 0.75 < variance < 1.25
