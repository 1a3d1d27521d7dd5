"""Smooth features of the time, shared by all velocity models."""

import math

import torch
from torch import Tensor

N_TIME_FEATURES = 8


def time_features(t: Tensor) -> Tensor:
    """Cosines of `t` in [0, 1]: ``(n,) -> (n, N_TIME_FEATURES)``, all within [-1, 1]."""
    frequencies = torch.arange(1, N_TIME_FEATURES + 1, dtype=t.dtype, device=t.device)
    return torch.cos(math.pi * frequencies * t[:, None])
