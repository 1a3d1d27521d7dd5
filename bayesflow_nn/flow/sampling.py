"""From source points to points of networks: source, transport, and the steps after it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from bayesflow_nn.flow.exponential import GaussianFlow
from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.finish import finish, search_source
from bayesflow_nn.flow.flow_map import FlowMap
from bayesflow_nn.flow.guidance import Guidance, Objective
from bayesflow_nn.flow.guided import GuidedField, Setting
from bayesflow_nn.flow.noise import Noise
from bayesflow_nn.flow.ode import integrate

_CHUNK = 128  # networks carried at once


@dataclass(frozen=True)
class Integrator:
    """Carries source points to networks along the trajectories of a flow.

    Attributes
    ----------
    field : FlowField
    setting : Setting
        The space of networks, and the generator of the noise.
    grid : Tensor of shape (n_steps + 1,)
        Times of the steps.
    solver : str
        As in :func:`bayesflow_nn.flow.integrate`.
    guided : GuidedField or None
        The field under guidance, which is followed instead.
    noise : StepNoise, Refresh or None
        Noise before every step.
    return_trajectory : bool
        Return the points at all times of the grid.
    progress : bool
        Show a progress bar.
    """

    field: FlowField
    setting: Setting
    grid: Tensor
    solver: str
    guided: GuidedField | None = None
    noise: Noise | None = None
    return_trajectory: bool = False
    progress: bool = False

    def __call__(self, x_0: Tensor) -> Tensor:
        """Points of networks ``(n, n_coordinates)``, or at all times ``(n_times, n, ...)``.

        The last ones are denoised and on the manifold.
        """
        perturb = None
        if self.noise is not None:
            perturb = functools.partial(self.noise.perturb, setting=self.setting)
        points = integrate(
            self.field if self.guided is None else self.guided,
            x_0,
            solver=self.solver,
            grid=self.grid,
            gaussian=self._gaussian,
            perturb=perturb,
            return_trajectory=self.return_trajectory,
            progress=self.progress,
        )
        if not self.return_trajectory:
            return self._end(points)
        return torch.cat([points[:-1], self._end(points[-1])[None]])

    def differentiable(self, x_0: Tensor) -> Tensor:
        """Points of networks by the flow alone, to be differentiated by ``backward``."""
        points = integrate(
            self.field,
            x_0,
            solver=self.solver,
            grid=self.grid,
            gaussian=self._gaussian,
            checkpoint=True,
        )
        return self._end(points)

    def rows(self, part: slice) -> Integrator:
        """For a part of the points."""
        guided = None if self.guided is None else self.guided.rows(part)
        return replace(self, field=self.field.rows(part), guided=guided)

    @property
    def _gaussian(self) -> GaussianFlow:
        return GaussianFlow(self.setting.gaussian, self.setting.scale)

    def _end(self, x: Tensor) -> Tensor:
        return self.setting.project(self.field.denoise(x))


@dataclass(frozen=True)
class Sampler:
    """Makes networks from source points.

    Attributes
    ----------
    transport : Integrator or FlowMap
    guidance : Guidance or None
        Steps before and after the transport.
    objective : callable or None
        That of the guidance, bound to the architecture.
    progress : bool
        Show progress bars.
    """

    transport: Integrator | FlowMap
    guidance: Guidance | None = None
    objective: Objective | None = None
    progress: bool = False

    def __call__(self, x_0: Tensor) -> Tensor:
        """Points of networks ``(n, n_coordinates)`` from source points, or what else comes out."""
        starts = range(0, len(x_0), _CHUNK)
        quiet, done = not self.progress or len(starts) == 1, []
        with tqdm(
            total=len(x_0), desc="networks", disable=quiet, leave=False, mininterval=0, miniters=1
        ) as bar:
            for start in starts:
                done.append(self._run(x_0, slice(start, start + _CHUNK)))
                bar.update(done[-1].shape[-2])
        return torch.cat(done, dim=-2)

    def _run(self, x_0: Tensor, part: slice) -> Tensor:
        transport, x_0 = self.transport.rows(part), x_0[part]
        if self.guidance is None:
            return transport(x_0)
        guide = (self.guidance, self.objective, transport.setting)
        x_0 = search_source(
            x_0,
            transport.differentiable,
            *guide,
            manifold=transport.field.path.manifold,
            progress=self.progress,
        )
        points = transport(x_0)
        last = points[-1] if points.ndim > x_0.ndim else points
        end = finish(
            last, *guide, condition=transport.field.gaussian_condition, progress=self.progress
        )
        return end if last is points else torch.cat([points[:-1], end[None]])
