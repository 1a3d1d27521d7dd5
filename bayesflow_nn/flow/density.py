r"""Log densities of a flow by the instantaneous change of variables ([G18] eq. 3-4).

.. math::
    \log p_1(x_1) = \log p_0(x_0) - \int_0^1 \operatorname{div} u(t, x_t) \, dt

On a sphere the field is extended constantly along radii; at points of the sphere the trace of its
ambient Jacobian is then the intrinsic divergence. The trace is exact, by one Jacobian product per
coordinate, or Hutchinson's estimate :math:`E[z^T J z]` ([G18] eq. 7) with Rademacher probes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap

from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.ode import integrate_augmented
from bayesflow_nn.flow.source import StandardSource


class LogDensity(NamedTuple):
    """Log densities and the standard error of their trace estimates, both ``(n,)``, in nats."""

    value: Tensor
    standard_error: Tensor


def divergence(field: FlowField, t: Tensor, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    r"""Velocity and the quadratic forms :math:`z^T J z` of its Jacobian.

    Parameters
    ----------
    field : FlowField
    t : Tensor of shape ()
    x : Tensor of shape (n, n_coordinates)
    probes : Tensor of shape (n_probes, n_coordinates)
        Unit vectors of all coordinates for the exact trace, random signs for the estimate.

    Returns
    -------
    velocity : Tensor of shape (n, n_coordinates)
    forms : Tensor of shape (n_probes, n)
    """

    def form(probe: Tensor) -> Tensor:
        tangents = probe.expand_as(x)
        return (jvp(lambda x: field.extended(t, x), (x,), (tangents,))[1] * tangents).sum(-1)

    return field.extended(t, x), vmap(form, chunk_size=_PROBE_CHUNK)(probes)


_PROBE_CHUNK = 32  # probes differentiated at once: bounds memory to 32 batches


def log_density(
    field: FlowField,
    source: StandardSource,
    x: Tensor,
    *,
    solver: str,
    n_steps: int,
    trace: str,
    n_probes: int,
    generator: torch.Generator,
    chunk_size: int = 2048,
) -> LogDensity:
    """Log density of the flow at points of the manifold, with respect to its volume.

    Parameters
    ----------
    field : FlowField
    source : StandardSource
    x : Tensor of shape (n, n_coordinates)
    solver : {"euler", "midpoint", "rk4"}
    n_steps : int
        Equal steps from t = 1 to t = 0.
    trace : {"exact", "hutchinson"}
    n_probes : int
        Number of Hutchinson probes, drawn once and the same for every row and solver stage.
    generator : torch.Generator
    chunk_size : int
        Points times probes integrated together, which bounds the memory.

    Returns
    -------
    LogDensity
        The standard error is zero for the exact trace and NaN with a single probe.

    Raises
    ------
    SolverError
        If the integration gives non-finite values.
    """
    probes = _make_probes(x, trace, n_probes, generator)

    def estimates(part: slice) -> Tensor:
        conditioned, x_1 = field.rows(part), x[part]

        def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            velocity, forms = divergence(conditioned, t, state[0], probes)
            return velocity, (forms.sum(0, keepdim=True) if trace == "exact" else forms).T

        start = (x_1, x_1.new_zeros(len(x_1), 1 if trace == "exact" else n_probes))
        x_0, integrals = integrate_augmented(
            rate, start, solver=solver, n_steps=n_steps, start=1.0, end=0.0
        )
        # Backwards in time the integral comes out as minus the one in the docstring.
        return source.log_prob(field.path.manifold.projx(x_0))[:, None] + integrals

    n_rows = max(1, chunk_size // min(len(probes), _PROBE_CHUNK))
    starts = range(0, len(x), n_rows)
    values = torch.cat([estimates(slice(start, start + n_rows)) for start in starts])
    error = torch.zeros_like(values[:, 0])
    if trace == "hutchinson":
        error = values.std(1) / math.sqrt(n_probes) if n_probes > 1 else error + math.nan
    return LogDensity(values.mean(1), error)


def _make_probes(x: Tensor, trace: str, n_probes: int, generator: torch.Generator) -> Tensor:
    n_coordinates = x.shape[1]
    if trace == "exact":
        return torch.eye(n_coordinates, dtype=x.dtype, device=x.device)
    signs = torch.randint(0, 2, (n_probes, n_coordinates), generator=generator, device=x.device)
    return 2.0 * signs.to(x.dtype) - 1.0
