r"""Integrators of dx/dt = u(t, x) between t = 0 and t = 1.

Sampling uses explicit Runge-Kutta steps on the manifold: an Euler step follows the geodesic of the
velocity; midpoint and rk4 evaluate their stages off the manifold through the radially extended
field and project the end of each step, which keeps their order (Hairer, Lubich & Wanner 2006,
IV.4). Densities use torchdiffeq on the state augmented by the integral of the divergence.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torchdiffeq
from torch import Tensor
from tqdm import tqdm

from bayesflow_nn.flow.field import FlowField

Rate = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


class SolverError(RuntimeError):
    """The integration of the flow failed; the message says where and what to try."""


def integrate(
    field: FlowField,
    x: Tensor,
    *,
    solver: str = "midpoint",
    n_steps: int = 32,
    start: float = 0.0,
    end: float = 1.0,
    progress: bool = False,
) -> Tensor:
    """Carry points along the flow with `n_steps` equal steps.

    Parameters
    ----------
    field : FlowField
    x : Tensor of shape (n, n_coordinates)
        Points at time `start`.
    solver : {"euler", "midpoint", "rk4"}
    n_steps : int
        Number of steps; the field is evaluated once, twice or four times in each.
    start, end : float
        Times; ``start > end`` integrates backwards.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor of shape (n, n_coordinates)
        Points at time `end`.

    Raises
    ------
    SolverError
        If a coordinate becomes infinite or NaN.
    """
    step = _STEPS[solver]
    times = torch.linspace(start, end, n_steps + 1, dtype=x.dtype, device=x.device)
    for t, t_next in tqdm(
        pairwise(times), total=n_steps, disable=not progress, desc="sample", leave=False
    ):
        x = step(field, t, t_next - t, x)
    return _check_finite(x, f"{solver} with n_steps={n_steps}")


def integrate_augmented(
    rate: Rate, state: tuple[Tensor, ...], *, solver: str, n_steps: int, start: float, end: float
) -> tuple[Tensor, ...]:
    """Integrate a tuple of tensors with torchdiffeq and return its value at `end`.

    Fixed steps, so that no row depends on which others are in the batch.
    """
    grid = torch.linspace(start, end, n_steps + 1, dtype=state[0].dtype, device=state[0].device)
    ends = grid[[0, -1]]
    trajectory = torchdiffeq.odeint(
        rate, state, ends, method=solver, options={"grid_constructor": lambda f, y, t: grid}
    )
    final = tuple(part[-1] for part in trajectory)
    for part in final:
        _check_finite(part, f"{solver} with n_steps={n_steps}")
    return final


def _euler_step(field: FlowField, t: Tensor, h: Tensor, x: Tensor) -> Tensor:
    return field.path.manifold.expmap(x, h * field(t, x))


def _midpoint_step(field: FlowField, t: Tensor, h: Tensor, x: Tensor) -> Tensor:
    k_1 = field(t, x)
    k_2 = field.extended(t + h / 2, x + h / 2 * k_1)
    return field.path.manifold.projx(x + h * k_2)


def _rk4_step(field: FlowField, t: Tensor, h: Tensor, x: Tensor) -> Tensor:
    k_1 = field(t, x)
    k_2 = field.extended(t + h / 2, x + h / 2 * k_1)
    k_3 = field.extended(t + h / 2, x + h / 2 * k_2)
    k_4 = field.extended(t + h, x + h * k_3)
    return field.path.manifold.projx(x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4))


_STEPS = {"euler": _euler_step, "midpoint": _midpoint_step, "rk4": _rk4_step}


def _check_finite(x: Tensor, what: str) -> Tensor:
    finite = torch.isfinite(x).flatten(1).all(1) if x.ndim > 1 else torch.isfinite(x)
    if finite.all():
        return x
    rows = torch.nonzero(~finite).flatten().tolist()
    raise SolverError(
        f"solver={what} gave non-finite values in {len(rows)} of the {len(x)} rows integrated "
        f"together, first in row {rows[0]} of them; take more steps (n_steps) or check that these "
        f"points are near the data"
    )
