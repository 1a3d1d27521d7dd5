"""Time grids against a curve whose bend is known."""

import pytest
import torch

from bayesflow_nn.flow import equal_error_grid
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold

LINE = ProductManifold([EuclideanBlock(2)])


def test_straight_lines_have_equal_steps(prescribed_field):
    field = prescribed_field(LINE, lambda t, x: torch.ones_like(x) * (1 + 3 * t))
    grid = equal_error_grid(field, torch.zeros(3, 2, dtype=torch.float64), 10)
    torch.testing.assert_close(grid, torch.linspace(0, 1, 11, dtype=torch.float64))


def test_steps_follow_the_bend(prescribed_field):
    """u = t^3 bends by 3 t^2, its root is proportional to t, with a floor of 1/20 of the mean 1/2:
    half of the steps lie before the t with t^2 + t / 20 = (1 + 1/20) / 2, which is 0.700."""
    field = prescribed_field(LINE, lambda t, x: torch.ones_like(x) * t**3)
    grid = equal_error_grid(field, torch.zeros(3, 2, dtype=torch.float64), 10)
    assert grid[5].item() == pytest.approx(0.700, abs=0.01)
    assert grid[0] == 0
    assert grid[-1] == 1
    assert (grid.diff() > 0).all()
