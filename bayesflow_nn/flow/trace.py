r"""Traces of Jacobians from products with a few directions.

With directions z the trace of J is measured by quadratic forms :math:`z^T J z`:

- "exact": the sum over all coordinate axes;
- "hutchinson": the mean over random probes ([G18] eq. 7);
- "hutch++": the sum over an orthonormal basis Q of the directions in which J is farthest from a
  multiple of the identity, plus the mean over random probes in the complement of Q (Meyer et al.
  2021, alg. 1), of fixed length, so that the multiple of the identity adds no scatter.

Here J is the Jacobian along a trajectory, integrated over time. So Q is found once per trajectory,
by power iteration with the mean of the Jacobians at a few of its times, instead of at every
evaluation, where the search would cost as much as the trace. All are unbiased.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.ode import integrate

TRACES = ("exact", "hutchinson", "hutch++")
PROBE_DISTRIBUTIONS = ("rademacher", "gaussian")
CHUNK = 32  # directions differentiated at once: bounds memory to 32 batches
_N_SKETCH_STEPS = 8  # of the trajectory on which Q is found
_N_ITERATIONS = 2  # of the power method, in the search for Q


class Directions(NamedTuple):
    """Directions of a trace estimate.

    Attributes
    ----------
    vectors : Tensor of shape (n_directions, n_coordinates) or (n_directions, n, n_coordinates)
        The same for all rows, or those of each.
    n_summed : int
        The forms of the first ones are summed, those of the others averaged.
    """

    vectors: Tensor
    n_summed: int

    def columns(self, forms: Tensor) -> Tensor:
        """Sum of the first forms, then the others: ``(n_directions, n)`` to ``(n, 1 + n_rest)``."""
        summed = forms[: self.n_summed].sum(0, keepdim=True)
        return torch.cat([summed, forms[self.n_summed :]]).T

    @property
    def n_columns(self) -> int:
        """Number of columns that `columns` makes."""
        return 1 + len(self.vectors) - self.n_summed


def combine(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Traces and their standard errors, both ``(n,)``, from what `Directions.columns` makes.

    The error is zero without averaged forms and NaN with a single one.
    """
    summed, forms = columns[:, 0], columns[:, 1:]
    n_forms = forms.shape[1]
    if n_forms == 0:
        return summed, torch.zeros_like(summed)
    if n_forms == 1:
        return summed + forms[:, 0], torch.full_like(summed, math.nan)
    return summed + forms.mean(1), forms.std(1) / math.sqrt(n_forms)


class Probes:
    """Random vectors of a trace estimate, drawn once: the same for every row and time.

    Parameters
    ----------
    trace : {"exact", "hutchinson", "hutch++"}
    n_probes : int
        Products with the Jacobian at every evaluation; not used by "exact". "hutch++" takes a
        quarter of them for Q.
    distribution : {"rademacher", "gaussian"}
        Law of the probes of "hutchinson".
    like : Tensor of shape (..., n_coordinates)
        Gives size, dtype and device.
    generator : torch.Generator
    """

    def __init__(
        self, trace: str, n_probes: int, distribution: str, like: Tensor, generator: torch.Generator
    ) -> None:
        self.trace, n_coordinates = trace, like.shape[-1]
        self.n_basis = min(n_probes // 4, n_coordinates) if trace == "hutch++" else 0
        if trace == "exact":
            self.random = torch.eye(n_coordinates, dtype=like.dtype, device=like.device)
        else:
            shape = n_probes, n_coordinates
            random = torch.randn(shape, generator=generator, device=like.device).to(like)
            signs = trace == "hutchinson" and distribution == "rademacher"
            self.random = random.sign() if signs else random

    def directions(self, field: FlowField, x: Tensor, start: float, end: float) -> Directions:
        """Directions for the trajectories from points ``(n, n_coordinates)``."""
        if self.trace == "exact":
            return Directions(self.random, len(self.random))
        if not self.n_basis:
            return Directions(self.random, 0)
        basis = _leading_directions(field, x, self.random[: self.n_basis], start, end)
        random = self.random[self.n_basis :, None].expand(-1, len(x), -1)
        along = torch.einsum("knd,mnd->mnk", basis, random)
        outside = random - torch.einsum("mnk,knd->mnd", along, basis)
        # Uniform directions of the squared length that a complete set of unit vectors has in sum.
        length = math.sqrt(max(x.shape[1] - len(basis), 0))
        outside = nn.functional.normalize(outside, dim=-1) * length
        return Directions(torch.cat([basis, outside]), len(basis))


def divergence(field: FlowField, t: Tensor, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    r"""Velocity and the quadratic forms :math:`(P z)^T J P z` of its Jacobian.

    P projects to the tangent space. The field is extended constantly along the radii of spheres, so
    J P = J, and the trace of P J P is the intrinsic divergence.

    Parameters
    ----------
    field : FlowField
    t : Tensor of shape ()
    x : Tensor of shape (n, n_coordinates)
    vectors : Tensor of shape (n_directions, n_coordinates) or (n_directions, n, n_coordinates)

    Returns
    -------
    velocity : Tensor of shape (n, n_coordinates)
    forms : Tensor of shape (n_directions, n)
    """
    manifold = field.path.manifold
    base = manifold.projx(x)

    def form(vector: Tensor) -> Tensor:
        change = _product(field, t, x, vector.expand_as(x))
        return (manifold.proju(base, change) * vector).sum(-1)

    return field.extended(t, x), vmap(form, chunk_size=CHUNK)(vectors)


def _product(field: FlowField, t: Tensor, x: Tensor, vector: Tensor) -> Tensor:
    """Jacobian at points times a vector for each, both ``(n, n_coordinates)``."""
    return jvp(lambda x: field.extended(t, x), (x,), (vector,))[1]


def _leading_directions(
    field: FlowField, x: Tensor, random: Tensor, start: float, end: float
) -> Tensor:
    """Orthonormal directions ``(n_basis, n, n_coordinates)`` that the Jacobian stretches most.

    The mean of its quadratic forms is subtracted: a multiple of the identity needs no direction.
    """
    times = torch.linspace(start, end, _N_SKETCH_STEPS + 1, dtype=x.dtype, device=x.device)
    trajectory = integrate(field, x, grid=times, return_trajectory=True)

    def multiply(vectors: Tensor) -> Tensor:
        products = (
            vmap(lambda v, t=t, x=x: _product(field, t, x, v), chunk_size=CHUNK)(vectors)
            for t, x in zip(times, trajectory, strict=True)
        )
        return sum(products) / len(times)

    drawn = random[:, None].expand(-1, *x.shape)
    moved = multiply(drawn)
    level = ((drawn * moved).sum((0, 2)) / drawn.square().sum((0, 2)))[:, None]
    found = moved - level * drawn
    for _ in range(_N_ITERATIONS):
        found = multiply(found) - level * found
    return torch.linalg.qr(found.permute(1, 2, 0)).Q.permute(2, 0, 1)
