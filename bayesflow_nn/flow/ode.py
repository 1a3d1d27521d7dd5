r"""Integrators of dx/dt = u(t, x) between t = 0 and t = 1.

Sampling uses explicit one-step methods on the manifold. An Euler step follows the geodesic of the
velocity, an exponential one the flow of a Gaussian (:mod:`bayesflow_nn.flow.exponential`).
Midpoint and rk4 evaluate their stages off the manifold through the radially extended field and
project the end of each step, which keeps their order (Hairer, Lubich & Wanner 2006, IV.4). The
adaptive dopri5 integrates the extended field, whose solutions stay on the manifold, and projects
what is returned. Densities use the state augmented by the integral of the divergence.
"""

import functools
from collections.abc import Callable
from itertools import pairwise

import torch
import torchdiffeq
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint
from tqdm import tqdm

from bayesflow_nn.flow.exponential import GaussianFlow
from bayesflow_nn.flow.field import FlowField

Rate = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
Step = Callable[[FlowField, Tensor, Tensor, Tensor], Tensor]
"""Moves points: field, time ``()``, length of the step ``()``, points to points."""

_MOST_EVALUATIONS = 10_000  # of the field by the adaptive solver


class SolverError(RuntimeError):
    """The integration of the flow failed; the message says where and what to try."""


class NonFiniteError(SolverError):
    """A coordinate became infinite or NaN."""


class StepLimitError(SolverError):
    """The adaptive solver took too many steps."""


class StepUnderflowError(SolverError):
    """The steps of the adaptive solver became too small to move time."""


def integrate(
    field: FlowField,
    x: Tensor,
    *,
    solver: str = "midpoint",
    n_steps: int = 32,
    start: float = 0.0,
    end: float = 1.0,
    grid: Tensor | None = None,
    gaussian: GaussianFlow | None = None,
    perturb: Step | None = None,
    tolerance: float = 1e-5,
    return_trajectory: bool = False,
    checkpoint: bool = False,
    progress: bool = False,
) -> Tensor:
    """Carry points along the flow.

    Parameters
    ----------
    field : FlowField
    x : Tensor of shape (n, n_coordinates)
        Points at time `start`.
    solver : {"exponential_euler", "euler", "midpoint", "rk4", "dopri5"}
        Both Euler methods evaluate the field once per step, midpoint twice and rk4 four times;
        "dopri5" chooses its steps itself.
    n_steps : int
        Number of equal steps.
    start, end : float
        Times; ``start > end`` integrates backwards.
    grid : Tensor of shape (n_steps + 1,), optional
        Times of the steps, instead of `n_steps`, `start` and `end`.
    gaussian : GaussianFlow, optional
        Needed by "exponential_euler", which solves it.
    perturb : callable, optional
        ``perturb(field, t, h, x) -> x``, applied before every step; not with "dopri5".
    tolerance : float
        Relative and absolute error per step of "dopri5".
    return_trajectory : bool
        Return the points at all times of the grid.
    checkpoint : bool
        Compute every step anew when the result is differentiated (by ``backward``), so that memory
        does not grow with the activations of all steps; not with "dopri5".
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor of shape (n, n_coordinates), or (n_steps + 1, n, n_coordinates)
        Points at the last time, or at all times.

    Raises
    ------
    NonFiniteError
        If a coordinate becomes infinite or NaN.
    StepUnderflowError, StepLimitError
        If the steps of "dopri5" become too small or too many.
    ValueError
        If "exponential_euler" is not given its Gaussian.
    """
    times = torch.linspace(start, end, n_steps + 1) if grid is None else grid
    times = times.to(x)
    if solver == "dopri5":
        points = _integrate_adaptively(field, x, times, tolerance)
        return points if return_trajectory else points[-1]
    step, points = _step_of(solver, gaussian), [x]
    if checkpoint:
        # The other kind of checkpoint stores through hooks, which torch.func refuses.
        step = functools.partial(torch_checkpoint, step, use_reentrant=True)
    for t, t_next in tqdm(
        pairwise(times), total=len(times) - 1, disable=not progress, desc="sample", leave=False
    ):
        x = x if perturb is None else perturb(field, t, t_next - t, x)
        x = step(field, t, t_next - t, x)
        if return_trajectory:
            points.append(x)
    check_finite(x, f"solver={solver} with n_steps={len(times) - 1}", _MORE_STEPS)
    return torch.stack(points) if return_trajectory else x


def integrate_augmented(
    rate: Rate,
    state: tuple[Tensor, ...],
    *,
    solver: str,
    n_steps: int,
    start: float,
    end: float,
    tolerance: float = 1e-5,
) -> tuple[Tensor, ...]:
    """Integrate a tuple of tensors with torchdiffeq and return its value at `end`.

    With fixed steps no row depends on which others are in the batch. The steps of "dopri5" are
    those that the worst row needs.

    Raises
    ------
    NonFiniteError
        If a value becomes infinite or NaN.
    StepUnderflowError, StepLimitError
        If the steps of "dopri5" become too small or too many.
    """
    options = {"dtype": state[0].dtype, "device": state[0].device}
    if solver == "dopri5":
        times = torch.tensor([start, end], **options)
        return tuple(part[-1] for part in _odeint_adaptively(rate, state, times, tolerance))
    grid = torch.linspace(start, end, n_steps + 1, **options)
    fixed = {"grid_constructor": lambda f, y, t: grid}
    trajectory = torchdiffeq.odeint(rate, state, grid[[0, -1]], method=solver, options=fixed)
    final = tuple(part[-1] for part in trajectory)
    for part in final:
        check_finite(part, f"solver={solver} with n_steps={n_steps}", _MORE_STEPS)
    return final


def _integrate_adaptively(field: FlowField, x: Tensor, times: Tensor, tolerance: float) -> Tensor:
    def rate(t: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        return (field.extended(t, state[0]),)

    return field.path.manifold.projx(_odeint_adaptively(rate, (x,), times, tolerance)[0])


def _odeint_adaptively(
    rate: Rate, state: tuple[Tensor, ...], times: Tensor, tolerance: float
) -> tuple[Tensor, ...]:
    n_evaluations = 0
    what = f"solver=dopri5 with tolerance={tolerance:g}"

    def guarded(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal n_evaluations
        n_evaluations += 1
        # torchdiffeq guards its steps with assert statements alone, which python -O removes.
        if n_evaluations > _MOST_EVALUATIONS:
            raise StepLimitError(
                f"{what} evaluated the velocity {_MOST_EVALUATIONS} times and came to t={t:.4g}; "
                f"{_FIXED_STEPS}"
            )
        return tuple(check_finite(part, what, _FIXED_STEPS) for part in rate(t, state))

    try:
        return torchdiffeq.odeint(
            guarded, state, times, method="dopri5", rtol=tolerance, atol=tolerance
        )
    except AssertionError as error:
        raise StepUnderflowError(f"{what} could not go on: {error}; {_FIXED_STEPS}") from error


def _step_of(solver: str, gaussian: GaussianFlow | None) -> Step:
    if solver != "exponential_euler":
        return _STEPS[solver]
    if gaussian is None:
        raise ValueError(
            "gaussian must be a GaussianFlow for solver='exponential_euler', got None; pass the "
            "one that the field refines, or use solver='euler'."
        )
    return gaussian.step


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
DENSITY_SOLVERS = (*_STEPS, "dopri5")
SOLVERS = ("exponential_euler", *DENSITY_SOLVERS)
_FIXED_STEPS = "raise the tolerance or use fixed steps (solver='midpoint' or 'rk4')"
_MORE_STEPS = "take more steps (n_steps) or check that these points are near the data"


def check_finite(x: Tensor, what: str, advice: str) -> Tensor:
    """Return `x (n, ...)`, or raise a NonFiniteError that names the first row with others."""
    finite = torch.isfinite(x).flatten(1).all(1) if x.ndim > 1 else torch.isfinite(x)
    if finite.all():
        return x
    rows = torch.nonzero(~finite).flatten().tolist()
    raise NonFiniteError(
        f"{what} gave non-finite values in {len(rows)} of the {len(x)} rows integrated together, "
        f"first in row {rows[0]} of them; {advice}"
    )
