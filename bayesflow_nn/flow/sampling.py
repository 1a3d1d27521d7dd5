"""From source points to points of networks: solver, noise on the way, guidance, and the end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.finish import finish, search_source
from bayesflow_nn.flow.guidance import Guidance
from bayesflow_nn.flow.guided import GuidedField, Setting
from bayesflow_nn.flow.noise import Noise
from bayesflow_nn.flow.ode import integrate

_CHUNK = 128  # networks integrated at once


@dataclass(frozen=True)
class Sampler:
    """Carries source points along a field to networks.

    Attributes
    ----------
    field : FlowField
    setting : Setting
        The space of networks, and the generator for all that is random on the way.
    grid : Tensor of shape (n_steps + 1,)
        Times of the steps.
    solver : str
        As in :func:`bayesflow_nn.flow.integrate`.
    noise : StepNoise, Refresh or None
        Noise before every step.
    guidance : Guidance or None
    objective : callable or None
        That of the guidance, bound to the architecture.
    progress : bool
        Show progress bars.
    """

    field: FlowField
    setting: Setting
    grid: Tensor
    solver: str
    noise: Noise | None = None
    guidance: Guidance | None = None
    objective: Callable[[Tensor], Tensor] | None = None
    progress: bool = False

    def __call__(self, x_0: Tensor, *, return_trajectory: bool = False) -> Tensor:
        """Points of networks ``(n, n_coordinates)`` from source points.

        With `return_trajectory` the points at all times of the grid, ``(n_steps + 1, n,
        n_coordinates)``; the last ones are the networks, denoised and finished.
        """
        parts = [
            self._run(x_0, slice(start, start + _CHUNK), return_trajectory)
            for start in range(0, len(x_0), _CHUNK)
        ]
        return torch.cat(parts, dim=-2)

    def _run(self, x_0: Tensor, part: slice, return_trajectory: bool) -> Tensor:
        field, perturb, x_0 = self.field.rows(part), None, x_0[part]
        guided = field
        if self.guidance is not None:
            guided = GuidedField(field, self.guidance, self.objective, self.setting)
            x_0 = self._search_source(field, x_0)
        if self.noise is not None:
            perturb = functools.partial(self.noise.perturb, generator=self.setting.generator)
        points = integrate(
            guided,
            x_0,
            solver=self.solver,
            grid=self.grid,
            perturb=perturb,
            return_trajectory=return_trajectory,
            progress=self.progress,
        )
        if not return_trajectory:
            return self._end(field, points)
        return torch.cat([points[:-1], self._end(field, points[-1])[None]])

    def _search_source(self, field: FlowField, x_0: Tensor) -> Tensor:
        def flow(x_0: Tensor) -> Tensor:
            x = integrate(field, x_0, solver=self.solver, grid=self.grid, checkpoint=True)
            return field.denoise(x)

        manifold = field.path.manifold
        return search_source(
            x_0,
            flow,
            self.guidance,
            self.objective,
            self.setting,
            manifold=manifold,
            progress=self.progress,
        )

    def _end(self, field: FlowField, x: Tensor) -> Tensor:
        x = self.setting.project(field.denoise(x))
        if self.guidance is None:
            return x
        return finish(
            x,
            self.guidance,
            self.objective,
            self.setting,
            condition=field.condition,
            progress=self.progress,
        )
