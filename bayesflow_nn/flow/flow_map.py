r"""Few-step sampling: a map from points at a few times to the ends of their trajectories.

A flow map :math:`g(t, x_t) = x_1` makes a network in one evaluation where an integrator takes many.
With K steps it is used at the times k / K: the end that it finds is noised back to the next time
with fresh source noise and mapped again (multistep consistency sampling, Song et al. 2023, alg. 1),
so that its errors are made anew at every time instead of adding up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.guided import Setting

DrawSource = Callable[[int], Tensor]


@dataclass(frozen=True)
class FlowMap:
    """Carries source points to networks by a learned map.

    Parameters
    ----------
    field : FlowField
        Its predictor predicts ends of trajectories.
    setting : Setting
        The space of networks.
    source : callable
        Draws n source points, as fresh noise.
    n_steps : int
        Number of evaluations of the map.
    """

    field: FlowField
    setting: Setting
    source: DrawSource
    n_steps: int

    def __call__(self, x_0: Tensor) -> Tensor:
        """Points of networks ``(n, n_coordinates)``; differentiable."""
        x = x_0
        for k in range(self.n_steps):
            t = torch.full((len(x),), k / self.n_steps, dtype=x.dtype, device=x.device)
            if k:
                x = self.field.path.sample(t, self.source(len(x)), x).x_t
            x = self.end(t, x)
        return x

    def differentiable(self, x_0: Tensor) -> Tensor:
        """The same as a call."""
        return self(x_0)

    def end(self, t: Tensor, x: Tensor) -> Tensor:
        """Ends of the trajectories on which points ``(n, n_coordinates)`` lie at times ``(n,)``."""
        return self.setting.project(self.field.predict(t, x))

    def rows(self, part: slice) -> FlowMap:
        """The map for a part of the points."""
        return replace(self, field=self.field.rows(part))
