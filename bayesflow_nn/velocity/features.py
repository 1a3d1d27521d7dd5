"""Smooth features of the time, and those of a condition, shared by all velocity models."""

import math

import torch
from torch import Tensor

N_TIME_FEATURES = 8


def time_features(t: Tensor) -> Tensor:
    """Cosines of `t` in [0, 1]: ``(n,) -> (n, N_TIME_FEATURES)``, all within [-1, 1]."""
    frequencies = torch.arange(1, N_TIME_FEATURES + 1, dtype=t.dtype, device=t.device)
    return torch.cos(math.pi * frequencies * t[:, None])


def all_features(t: Tensor, condition: Tensor | None, n_condition_features: int) -> Tensor:
    """Features of the time beside those of the condition, zeros where it is not known.

    Shapes: ``t (n,)``, `condition` ``(n, n_condition_features)`` or None; returns
    ``(n, N_TIME_FEATURES + n_condition_features)``.
    """
    if condition is None:
        condition = t.new_zeros(len(t), n_condition_features)
    return torch.cat([time_features(t), condition.to(t.dtype)], dim=1)
