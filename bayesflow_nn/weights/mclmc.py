r"""Microcanonical Langevin Monte Carlo, unadjusted, for many chains at once.

With d weights, a velocity u of unit length and :math:`S = -\log \pi`, the dynamics (Robnik et al.
2022, arXiv 2212.08549; Robnik & Seljak 2023, arXiv 2303.18221)

.. math::
    \dot\theta = u, \quad
    \dot u = -\frac{(1 - u u^T) \nabla S(\theta)}{d - 1} + \text{noise normal to } u

leave the density :math:`\pi` invariant. Both parts of the drift are solved exactly: the position
moves along u, and with the direction e of :math:`\nabla \log \pi` and
:math:`\delta = \epsilon |\nabla \log \pi| / (d - 1)`

.. math::
    u \leftarrow \frac{u + (\sinh \delta + (e \cdot u)(\cosh \delta - 1)) e}{c}, \quad
    c = \cosh \delta + (e \cdot u) \sinh \delta.

What a step fails to conserve is :math:`\Delta E = \Delta S + (d - 1) \sum \log c`. There is no
Metropolis test, so the step size sets the bias: it is tuned until the variance of :math:`\Delta E`
per weight meets a target. Noise turns the velocity about once per length L,

.. math::
    u \leftarrow \frac{u + \nu z}{|u + \nu z|}, \quad z \sim N(0, I), \quad
    \nu = \sqrt{(e^{2 \epsilon / L} - 1) / d},

half of it before and half after the deterministic step. Used for Bayesian networks in Sommer et al.
2025 (MILE, arXiv 2502.06335).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayesflow_nn.weights.adaptation import RunningMoments, StepSizes, correlation_time
from bayesflow_nn.weights.chains import Position, Target, Transition, normal_like
from bayesflow_nn.weights.validation import check_integer, check_option, check_real

_MINIMAL_NORM = 0.1931833275037836
"""Length of the outer velocity updates that makes the leading error smallest (McLachlan 1995)."""

INTEGRATORS = {
    "leapfrog": ((0.5, 0.5), (1.0,)),
    "minimal_norm": ((_MINIMAL_NORM, 1 - 2 * _MINIMAL_NORM, _MINIMAL_NORM), (0.5, 0.5)),
}
"""Fractions of a step for the velocity updates, and for the moves between them."""

_N_TRACKED = 32  # weights of a chain from which its correlation length is learnt
_LONGEST_SERIES = 1000  # positions remembered for it
_LARGEST_ERROR = 1000.0  # energy error in nats beyond which a step is taken back


class Flight(NamedTuple):
    """End of a deterministic step; velocity ``(n_chains, n_weights)``, error ``(n_chains,)``."""

    position: Position
    velocity: Tensor
    energy_error: Tensor


def fly(
    target: Target, start: Position, velocity: Tensor, *, step_size: Tensor, integrator: str
) -> Flight:
    """One step of the isokinetic dynamics without noise; reversible, of second order.

    Parameters
    ----------
    target : Target
    start : Position
    velocity : Tensor of shape (n_chains, n_weights)
        Of unit length.
    step_size : Tensor of shape (n_chains,)
        Distance travelled.
    integrator : {"leapfrog", "minimal_norm"}
        One gradient evaluation, or two and a smaller error.

    Returns
    -------
    Flight
        With the energy error in nats.
    """
    turns, moves = INTEGRATORS[integrator]
    position = start
    velocity, work = _turn(velocity, position.gradient, step_size * turns[0])
    for turn, move in zip(turns[1:], moves, strict=True):
        weights = torch.addcmul(position.weights, step_size[:, None], velocity, value=move)
        position = Position.at(target, weights)
        velocity, more = _turn(velocity, position.gradient, step_size * turn)
        work = work + more
    return Flight(position, velocity, start.value - position.value + work)


class MCLMC:
    """Chains of microcanonical Langevin Monte Carlo.

    Parameters
    ----------
    target : Target
        Log density with gradient, for example a `LogPosterior`.
    weights : Tensor of shape (n_chains, n_weights)
        Where the chains start; two weights or more.
    generator : torch.Generator
        Source of all randomness.
    energy_variance : float
        Variance of the energy error per weight, in nats squared, to which step sizes are tuned.
        Smaller is less biased and slower. On networks rare, large errors can put the mean square
        of a few chains well above it, see ``metrics["energy_error"]``.
    integrator : {"leapfrog", "minimal_norm"}
        One gradient evaluation per step, or two and a smaller error. Tuned to the same target on
        13-16-16-2, both travel about as far per gradient, and the errors of the leapfrog had
        lighter tails.
    step_size, length : float, optional
        First guesses, kept if the chains are not tuned: distance per step, and distance L over
        which noise turns the velocity; by default 0.1 and the root of the number of weights.

    Attributes
    ----------
    position : Position
        Where the chains are.
    velocity : Tensor of shape (n_chains, n_weights)
    step_size, length : Tensor of shape (n_chains,)

    Raises
    ------
    ValueError
        If a parameter is out of range, or there is only one weight.

    Examples
    --------
    >>> class Normal:
    ...     def value_and_gradient(self, x):
    ...         return -x.square().sum(1) / 2, -x
    >>> chains = MCLMC(Normal(), torch.zeros(100, 10), torch.Generator().manual_seed(0))
    >>> chains.tune(400)
    >>> bool(0.5 < chains.position.weights.var() < 2)
    True
    """

    def __init__(
        self,
        target: Target,
        weights: Tensor,
        generator: torch.Generator,
        *,
        energy_variance: float = 5e-4,
        integrator: str = "leapfrog",
        step_size: float = 0.1,
        length: float | None = None,
    ) -> None:
        n_weights = weights.shape[1]
        if n_weights < 2:
            raise ValueError("weights must be at least two per network, got 1; use sampler='hmc'.")
        check_option("integrator", integrator, tuple(INTEGRATORS))
        check_real("energy_variance", energy_variance, 0, strict=True)
        check_real("step_size", step_size, 0, strict=True)
        length = n_weights**0.5 if length is None else length
        check_real("length", length, 0, strict=True)
        self._target, self._generator = target, generator
        self._integrator, self._energy_variance = integrator, energy_variance
        self.position = Position.at(target, weights)
        self.velocity = _normalise(normal_like(weights, generator))
        self.step_size = torch.full_like(self.position.value, step_size)
        self.length = torch.full_like(self.step_size, length)

    def tune(self, n_steps: int, report: Callable[[int], object] = lambda n: None) -> None:
        """Learn the step size, then the length L, of every chain, while it moves.

        The first two thirds of the steps tune the step size, and twice set L to the root of the
        total variance of the weights; the last third measures over how many
        steps n positions are correlated, and sets L to 0.4 n step sizes (2212.08549, section 4.2).

        Parameters
        ----------
        n_steps : int
            Steps; three or more.
        report : callable
            Called with 1 after every step.
        """
        if check_integer("n_steps", n_steps, 0) < 3:
            return
        n_first, n_last = n_steps - n_steps // 3, n_steps // 3
        sizes = StepSizes(self.step_size, self._energy_variance * self.velocity.shape[1])
        moments = RunningMoments(self.position.weights)
        for i in range(n_first):
            transition = self.step()
            sizes.update(transition.energy_error, transition.diverging)
            self.step_size = sizes.step_size
            if i >= n_first // 3:
                moments.update(self.position.weights)
            if i == n_first // 2 or i == n_first - 1:
                total = moments.variance().sum(1).sqrt()
                self.length = torch.where(total > 0, total, self.length)
                moments = RunningMoments(self.position.weights)
            report(1)
        self._tune_length(n_last, report)

    def _tune_length(self, n_steps: int, report: Callable[[int], object]) -> None:
        columns = _spread(self.velocity.shape[1], _N_TRACKED).to(self.velocity.device)
        stride = -(-n_steps // _LONGEST_SERIES)
        series = []
        for i in range(n_steps):
            self.step()
            if i % stride == 0:
                series.append(self.position.weights[:, columns])
            report(1)
        if len(series) >= 10:
            n_correlated = stride * correlation_time(torch.stack(series, 1)).mean(1)
            self.length = 0.4 * n_correlated * self.step_size

    def step(self) -> Transition:
        """Move every chain by one step; a chain whose step failed stays and turns around."""
        start = self.position
        velocity = self._refresh(self.velocity)
        end = fly(
            self._target,
            start,
            velocity,
            step_size=self.step_size,
            integrator=self._integrator,
        )
        error = torch.where(end.energy_error.isfinite(), end.energy_error, torch.inf)
        failed = error.abs() > _LARGEST_ERROR
        self.position = start.where(failed, end.position)
        velocity = torch.where(failed[:, None], -velocity, end.velocity)
        self.velocity = self._refresh(velocity)
        n_gradients = len(INTEGRATORS[self._integrator][1])
        return Transition(error, (~failed).to(error), failed, n_gradients)

    def _refresh(self, velocity: Tensor) -> Tensor:
        """Noise of half a step."""
        nu = (torch.expm1(self.step_size / self.length) / velocity.shape[1]).sqrt()
        noise = normal_like(velocity, self._generator)
        return _normalise(torch.addcmul(velocity, nu[:, None], noise))


def _turn(velocity: Tensor, gradient: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Exact velocity update over `distance`; the velocity and ``(d - 1) log c``.

    All is divided by e^delta, so that large gradients do not overflow.
    """
    n_free = velocity.shape[1] - 1
    norm = gradient.norm(dim=1)
    e = gradient / norm.clamp(min=torch.finfo(norm.dtype).tiny)[:, None]
    delta = distance * norm / n_free
    cosine = (e * velocity).sum(1)
    shrunk = torch.exp(-delta)
    # sinh, cosh - 1 and c, each times 2 e^-delta
    sinh, cosh_less_1 = 1 - shrunk.square(), (1 - shrunk).square()
    c = 1 + shrunk.square() + cosine * sinh
    along = (sinh + cosine * cosh_less_1)[:, None]
    velocity = _normalise(2 * shrunk[:, None] * velocity + along * e)
    return velocity, n_free * (delta + (c / 2).log())


def _normalise(velocity: Tensor) -> Tensor:
    return velocity / velocity.norm(dim=1, keepdim=True)


def _spread(n: int, most: int) -> Tensor:
    return torch.linspace(0, n - 1, min(n, most)).round().long()
