r"""Hamiltonian Monte Carlo for many chains at once.

With momenta :math:`p \sim N(0, M)` and the energy :math:`H = -\log \pi(\theta) + p^T M^{-1} p / 2`,
a leapfrog step of size :math:`\epsilon` is

.. math::
    p \leftarrow p + \tfrac\epsilon2 \nabla \log \pi(\theta), \quad
    \theta \leftarrow \theta + \epsilon M^{-1} p, \quad
    p \leftarrow p + \tfrac\epsilon2 \nabla \log \pi(\theta),

and the end of a trajectory is accepted with probability :math:`\min(1, e^{-\Delta H})` (Neal 2011,
arXiv 1206.1901, sections 2.3 and 3.2). The number of leapfrog steps is drawn anew for every
trajectory, so that no direction stays in resonance. While tuning, every chain learns its own step
size by dual averaging (Hoffman & Gelman 2014, arXiv 1111.4246, section 3.2) and its own diagonal
:math:`M^{-1}`, the variances of its weights over windows that double in length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayesflow_nn.weights.adaptation import DualAveraging, RunningMoments
from bayesflow_nn.weights.chains import Position, Target, Transition, normal_like
from bayesflow_nn.weights.validation import check_integer, check_real

_LARGEST_ERROR = 1000.0
"""Energy error in nats beyond which a trajectory counts as divergent."""

_FIRST_WINDOW = 25


class Trajectory(NamedTuple):
    """End of an integration: position and momentum ``(n_chains, n_weights)``."""

    position: Position
    momentum: Tensor


def leapfrog(
    target: Target,
    start: Position,
    momentum: Tensor,
    *,
    step_size: Tensor,
    inverse_mass: Tensor,
    n_steps: int,
) -> Trajectory:
    """Integrate Hamilton's equations; reversible, volume-preserving, of second order.

    Parameters
    ----------
    target : Target
    start : Position
    momentum : Tensor of shape (n_chains, n_weights)
    step_size : Tensor of shape (n_chains,)
        Negative sizes go back in time.
    inverse_mass : Tensor of shape (n_chains, n_weights)
        Diagonal of the inverse mass matrix.
    n_steps : int
        Gradient evaluations.

    Returns
    -------
    Trajectory
    """
    step = step_size[:, None]
    drift = step * inverse_mass
    position = start
    momentum = torch.addcmul(momentum, step, position.gradient, value=0.5)
    for i in range(n_steps):
        position = Position.at(target, torch.addcmul(position.weights, drift, momentum))
        last = i == n_steps - 1
        momentum = torch.addcmul(momentum, step, position.gradient, value=0.5 if last else 1.0)
    return Trajectory(position, momentum)


class HMC:
    """Chains of Hamiltonian Monte Carlo.

    Parameters
    ----------
    target : Target
        Log density with gradient, for example a `LogPosterior`.
    weights : Tensor of shape (n_chains, n_weights)
        Where the chains start.
    generator : torch.Generator
        Source of all randomness.
    n_leapfrog : int
        Mean number of leapfrog steps; each trajectory has between a half and one and a half of it,
        the same for all chains.
    target_acceptance : float in (0, 1)
        Mean acceptance probability to which step sizes are tuned.
    step_size : float
        First guess; kept if the chains are not tuned.

    Attributes
    ----------
    position : Position
        Where the chains are.
    step_size : Tensor of shape (n_chains,)
    inverse_mass : Tensor of shape (n_chains, n_weights)

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> class Normal:
    ...     def value_and_gradient(self, x):
    ...         return -x.square().sum(1) / 2, -x
    >>> chains = HMC(Normal(), torch.zeros(100, 3), torch.Generator().manual_seed(0))
    >>> chains.tune(100)
    >>> bool((chains.step().acceptance.mean() - 0.8).abs() < 0.15)
    True
    """

    def __init__(
        self,
        target: Target,
        weights: Tensor,
        generator: torch.Generator,
        *,
        n_leapfrog: int = 32,
        target_acceptance: float = 0.8,
        step_size: float = 0.1,
    ) -> None:
        self._target, self._generator = target, generator
        self._n_leapfrog = check_integer("n_leapfrog", n_leapfrog)
        if not 0 < check_real("target_acceptance", target_acceptance, 0) < 1:
            raise ValueError(
                f"target_acceptance must lie between 0 and 1, got {target_acceptance}."
            )
        self._target_acceptance = target_acceptance
        check_real("step_size", step_size, 0, strict=True)
        self.position = Position.at(target, weights)
        self.step_size = torch.full_like(self.position.value, step_size)
        self.inverse_mass = torch.ones_like(weights)

    def tune(self, n_steps: int, report: Callable[[int], object] = lambda n: None) -> None:
        """Adapt the step size and the inverse mass of every chain, while it moves.

        Parameters
        ----------
        n_steps : int
            Trajectories.
        report : callable
            Called with 1 after every trajectory.
        """
        if n_steps == 0:
            return
        ends = _window_ends(n_steps)
        averaging = DualAveraging(self._find_step_size(), self._target_acceptance)
        moments = RunningMoments(self.position.weights)
        for i in range(n_steps):
            self.step_size = averaging.step_size
            averaging.update(self._pool(self.step().acceptance))
            if ends and ends[0] <= i < ends[-1]:
                moments.update(self.position.weights)
            if i in ends[1:]:
                self.inverse_mass = self._learn_inverse_mass(moments)
                averaging = DualAveraging(self._find_step_size(), self._target_acceptance)
                moments = RunningMoments(self.position.weights)
            report(1)
        self.step_size = averaging.averaged_step_size

    def step(self) -> Transition:
        """Move every chain by one trajectory and a Metropolis test."""
        low = max(1, self._n_leapfrog // 2)
        high = max(low, self._n_leapfrog + self._n_leapfrog // 2)
        n_steps = int(self._draw_integer(low, high))
        start, momentum = self.position, self._draw_momentum()
        end = self._integrate(start, momentum, self.step_size, n_steps)
        error = self._energy(*end) - self._energy(start, momentum)
        error = torch.where(error.isfinite(), error, torch.inf)
        acceptance = (-error).clamp(max=0).exp()
        uniform = torch.rand(
            error.shape, generator=self._generator, dtype=error.dtype, device=error.device
        )
        accepted = self._admitted(uniform < acceptance, end.position.weights)
        self.position = end.position.where(accepted, start)
        return Transition(error, acceptance, error > _LARGEST_ERROR, n_steps)

    def _integrate(
        self, start: Position, momentum: Tensor, step_size: Tensor, n_steps: int
    ) -> Trajectory:
        return leapfrog(
            self._target,
            start,
            momentum,
            step_size=step_size,
            inverse_mass=self.inverse_mass,
            n_steps=n_steps,
        )

    def _admitted(self, accepted: Tensor, weights: Tensor) -> Tensor:
        """Which of the accepted ends of trajectories lie where the chains may go."""
        return accepted

    def _pool(self, acceptance: Tensor) -> Tensor:
        """Acceptance probabilities from which the step size of every chain learns."""
        return acceptance

    def _learn_inverse_mass(self, moments: RunningMoments) -> Tensor:
        return moments.shrunken_variance()

    def _energy(self, position: Position, momentum: Tensor) -> Tensor:
        kinetic = (momentum.square() * self.inverse_mass).sum(1) / 2
        return kinetic - position.value

    def _draw_momentum(self) -> Tensor:
        return normal_like(self.position.weights, self._generator) / self.inverse_mass.sqrt()

    def _draw_integer(self, low: int, high: int) -> Tensor:
        device = self._generator.device
        return torch.randint(low, high + 1, (), generator=self._generator, device=device)

    def _find_step_size(self, most: int = 30) -> Tensor:
        """Double or halve step sizes until one leapfrog step is accepted about every other time."""
        step_size, momentum = self.step_size.clone(), self._draw_momentum()
        direction = torch.zeros_like(step_size)
        before = self._energy(self.position, momentum)
        for _ in range(most):
            end = self._integrate(self.position, momentum, step_size, 1)
            error = self._energy(*end) - before
            now = torch.where(error < 0.6931, 1.0, -1.0).to(step_size)
            direction = torch.where(direction == 0, now, direction)
            searching = now == direction
            if not searching.any():
                break
            step_size = torch.where(searching, step_size * 2**direction, step_size)
        return step_size


def _window_ends(n_steps: int) -> list[int]:
    """Ends of the windows of mass adaptation; the first entry is where they begin.

    The first 15 % of the steps, and the last 10 % or ten, tune the step size alone. Too few steps
    tune no masses.
    """
    first, last = round(0.15 * n_steps), min(round(0.9 * n_steps), n_steps - 10)
    if last - first < 10:
        return []
    lengths = (_FIRST_WINDOW * 2**i for i in itertools.count())
    ends = [first]
    for length in lengths:
        # A window that left less than twice its length would be followed by a shorter one.
        if ends[-1] + 3 * length > last:
            return [*ends, last]
        ends.append(ends[-1] + length)
