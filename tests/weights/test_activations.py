"""Activations that are computed otherwise than torch does."""

import pytest
import torch
from torch import nn

from bayesflow_nn.weights.activations import derive


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("in_place", [False, True])
def test_tanh_is_the_hyperbolic_tangent_up_to_rounding(dtype, in_place):
    # More elements than are computed at once, from both tails and close to zero.
    a = torch.linspace(-30, 30, 300_001, dtype=dtype)[None]
    a = torch.cat([a, 1e-3 * a, torch.tensor([[-torch.inf, torch.inf, 0.0]], dtype=dtype)], dim=1)
    expected = torch.tanh(a.double())
    h = a if in_place else torch.empty_like(a)
    derive(nn.Tanh()).forward(a, h)
    # The sigmoid is rounded, then twice it, then the difference: at most three halves of epsilon,
    # and the error of the sigmoid itself, one unit in the last place, is doubled.
    error = (h.double() - expected).abs().max().item()
    assert error < 3.5 * torch.finfo(dtype).eps
    assert h[0, -3:].tolist() == [-1.0, 1.0, 0.0]
