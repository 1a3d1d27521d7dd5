r"""Log densities of a flow by the instantaneous change of variables ([G18] eq. 3-4).

.. math::
    \log p_1(x_1) = \log p_0(x_0) - \int_0^1 \operatorname{div} u(t, x_t) \, dt

along the trajectory from x_0 to x_1, followed from either end. The divergence is the trace of the
Jacobian; see :mod:`bayesflow_nn.flow.trace`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesflow_nn.flow import trace
from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.ode import integrate, integrate_augmented
from bayesflow_nn.flow.source import StandardSource


class LogDensity(NamedTuple):
    """Log densities and the standard error of their trace estimates, both ``(n,)``, in nats."""

    value: Tensor
    standard_error: Tensor


class DensitySample(NamedTuple):
    """Points of the flow ``(n, n_coordinates)`` and their log densities."""

    points: Tensor
    log_density: LogDensity


@dataclass(frozen=True)
class DensityMethod:
    """How log densities are computed.

    Parameters
    ----------
    solver : {"euler", "midpoint", "rk4", "dopri5"}
        "dopri5" takes one row at a time, so that no row depends on the others.
    n_steps : int
        Equal steps; not used by "dopri5".
    tolerance : float
        Relative and absolute error per step of "dopri5".
    trace : {"exact", "hutchinson", "hutch++"}
    n_probes : int
        Jacobian products per evaluation of an estimated trace.
    probe_distribution : {"rademacher", "gaussian"}
    seed : int
        Of the probes, which are the same at every call.
    chunk_size : int
        Points times probes integrated together, which bounds the memory.
    """

    solver: str = "rk4"
    n_steps: int = 32
    tolerance: float = 1e-5
    trace: str = "exact"
    n_probes: int = 8
    probe_distribution: str = "rademacher"
    seed: int = 0
    chunk_size: int = 2048

    def log_density(self, field: FlowField, source: StandardSource, x: Tensor) -> LogDensity:
        """Log density of the flow at points of the manifold, with respect to its volume.

        Parameters
        ----------
        field : FlowField
        source : StandardSource
        x : Tensor of shape (n, n_coordinates)

        Returns
        -------
        LogDensity
            The standard error is zero for the exact trace and NaN with a single probe.

        Raises
        ------
        SolverError
            If the integration gives non-finite values, or "dopri5" cannot go on.
        """
        x_0, integral, error = self._follow(field, x, start=1.0, end=0.0)
        # Backwards in time the integral comes out as minus the one in the equation.
        return LogDensity(source.log_prob(x_0) + integral, error)

    def sample(self, field: FlowField, source: StandardSource, x_0: Tensor) -> DensitySample:
        """Points to which the flow carries source points, and their log densities.

        Parameters and errors are those of `log_density`.
        """
        points, integral, error = self._follow(field, x_0, start=0.0, end=1.0)
        return DensitySample(points, LogDensity(source.log_prob(x_0) - integral, error))

    def round_trip(self, field: FlowField, x: Tensor) -> Tensor:
        """Points ``(n, n_coordinates)`` carried to the source and back."""
        options = {"solver": self.solver, "n_steps": self.n_steps, "tolerance": self.tolerance}

        def both_ways(part: slice) -> Tensor:
            rows = field.rows(part)
            x_0 = integrate(rows, x[part], **options, start=1.0, end=0.0)
            return integrate(rows, x_0, **options)

        return torch.cat([both_ways(part) for part in self._parts(len(x), 1)])

    def _follow(
        self, field: FlowField, x: Tensor, *, start: float, end: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ends of trajectories, integrals of the divergence along them, and their errors."""
        generator = torch.Generator(x.device).manual_seed(self.seed)
        probes = trace.Probes(self.trace, self.n_probes, self.probe_distribution, x, generator)

        def follow(part: slice) -> tuple[Tensor, Tensor]:
            rows, first = field.rows(part), x[part]
            directions = probes.directions(rows, first, start, end)

            def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
                velocity, forms = trace.divergence(rows, t, state[0], directions.vectors)
                return velocity, directions.columns(forms)

            return integrate_augmented(
                rate,
                (first, first.new_zeros(len(first), directions.n_columns)),
                solver=self.solver,
                n_steps=self.n_steps,
                start=start,
                end=end,
                tolerance=self.tolerance,
            )

        n_at_once = min(len(probes.random), trace.CHUNK)
        parts = [follow(part) for part in self._parts(len(x), n_at_once)]
        ends, columns = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return field.path.manifold.projx(ends), *trace.combine(columns)

    def _parts(self, n: int, n_probes: int) -> list[slice]:
        size = 1 if self.solver == "dopri5" else max(1, self.chunk_size // n_probes)
        return [slice(first, first + size) for first in range(0, n, size)]
