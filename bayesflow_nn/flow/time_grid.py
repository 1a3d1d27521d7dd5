r"""Times at which a solver steps: equally spaced, or closer where the error arises.

A one-step method of order p errs per step by about a constant times :math:`h^{p+1}`. Steps that
spread the error evenly have :math:`h(t) \propto m(t)^{-1/2}` for an Euler step, with
:math:`m = |d^2 x / dt^2|` along the trajectories (equidistribution, de Boor 1973). The same density
of steps serves midpoint and rk4: their error, too, arises where the trajectories bend. Exponential
Euler steps follow what bends a Gaussian's, and gain nothing.
"""

from itertools import pairwise

import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.ode import integrate

_N_PILOT_STEPS = 64
_FLOOR = 0.05  # of the mean density of steps: no step is longer than 20 mean steps


def equal_error_grid(field: FlowField, x_0: Tensor, n_steps: int) -> Tensor:
    """Times from 0 to 1 between which trajectories bend equally.

    Parameters
    ----------
    field : FlowField
    x_0 : Tensor of shape (n, n_coordinates)
        A few source points; their trajectories are followed with 64 midpoint steps.
    n_steps : int

    Returns
    -------
    Tensor of shape (n_steps + 1,)
        Increasing, with ends 0 and 1, in float64.
    """
    times = torch.linspace(0, 1, _N_PILOT_STEPS + 1, dtype=x_0.dtype, device=x_0.device)
    points = integrate(field, x_0, grid=times, solver="midpoint", return_trajectory=True)
    manifold = field.path.manifold
    velocity = [field(t, x) * manifold.unit_scale.to(x) for t, x in zip(times, points, strict=True)]
    bend = torch.stack([(after - before).square().mean() for before, after in pairwise(velocity)])
    density = bend.double() ** 0.25  # the root of a root mean square
    density = density + _FLOOR * density.mean()
    reached = torch.cat([density.new_zeros(1), density.cumsum(0) / density.sum()]).cpu()
    levels = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    grid = torch.from_numpy(PchipInterpolator(reached, times.double().cpu())(levels))
    grid[0], grid[-1] = 0, 1
    return grid.to(x_0.device)
