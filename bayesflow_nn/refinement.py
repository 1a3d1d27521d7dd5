r"""Markov chains that turn the networks of a flow into a sample of the posterior.

Chains start at networks of the flow. Local moves, Hamiltonian trajectories on the canonical
manifold, alternate with global ones: a network :math:`x'` that the flow proposes, of density q, is
accepted by the Metropolis rule for independent proposals (Tierney 1994, section 2.3.3)

.. math::
    \alpha(x, x') = \min\Big(1, \frac{\pi(x') \, q(x)}{\pi(x) \, q(x')}\Big), \quad
    \pi(x) \propto p(D | \theta(x)) \, p(x).

Both leave the posterior :math:`\pi` invariant whatever the flow is; a good one moves chains between
modes in a single step, a bad one is only rejected. Hidden neurons may trade places, and alignment
chooses one order. The posterior is restricted to networks that are aligned as they are: a move that
ends elsewhere is rejected, so that no order is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesflow_nn.geodesic_hmc import GeodesicHMC
from bayesflow_nn.symmetry.chart import WeightChart
from bayesflow_nn.weights.chains import Position, Transition
from bayesflow_nn.weights.log_posterior import LogPosterior


class Proposal(NamedTuple):
    """Points ``(n, n_coordinates)`` of the flow, and their log densities ``(n,)`` in nats."""

    points: Tensor
    log_density: Tensor


@dataclass(frozen=True)
class Proposer:
    """What the chains need to know of a flow.

    Parameters
    ----------
    draw : callable
        A number n to n independent points with their densities, a `Proposal`.
    log_density : callable
        Points ``(n, n_coordinates)`` to log densities ``(n,)``, with respect to volume.
    align : callable
        Points to points of the same networks, hidden neurons in the order of the flow.
    """

    draw: Callable[[int], Proposal]
    log_density: Callable[[Tensor], Tensor]
    align: Callable[[Tensor], Tensor]

    def is_aligned(self, points: Tensor) -> Tensor:
        """Whether alignment leaves a point where it is, ``(n,)``."""
        moved = (self.align(points) - points).abs().amax(1)
        return moved < 1e-6 * (1 + points.abs().amax(1))


class ChartPosterior:
    """Log posterior of points of a chart, with respect to volume on its manifold, in nats.

    Parameters
    ----------
    chart : WeightChart
        Without a reducer.
    log_likelihood : LogPosterior
        With a prior that is constant.
    log_prior : callable
        Points ``(n, n_coordinates)`` and their weights ``(n, n_weights)`` to log densities ``(n,)``
        with respect to volume on the canonical manifold; differentiable.
    """

    def __init__(
        self,
        chart: WeightChart,
        log_likelihood: LogPosterior,
        log_prior: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.chart, self.log_likelihood, self.log_prior = chart, log_likelihood, log_prior
        self._log_volume = chart.log_abs_det()

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Log density ``(n,)`` and its gradient ``(n, n_coordinates)`` in all coordinates."""
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            weights = self.chart.to_weights(leaf)
            log_prior = self.log_prior(leaf, weights)
        value, slope = self.log_likelihood.value_and_gradient(weights.detach())
        (gradient,) = torch.autograd.grad(
            [weights, log_prior], leaf, [slope, torch.ones_like(log_prior)]
        )
        return value + log_prior.detach() + self._log_volume, gradient


@dataclass(frozen=True)
class Refined:
    """What the chains recorded.

    Attributes
    ----------
    weights : Tensor of shape (n_chains, n_draws, n_weights)
    metrics : dict from name to Tensor of shape (n_chains, n_draws)
    """

    weights: Tensor
    metrics: dict[str, Tensor]


class Refinement:
    """Chains that alternate local moves and proposals of the flow.

    Parameters
    ----------
    target : ChartPosterior
    proposer : Proposer
    start : Tensor of shape (n_chains, n_coordinates)
    generator : torch.Generator
    n_local : int
        Trajectories between two proposals.
    **options
        Of `GeodesicHMC`.
    """

    def __init__(
        self,
        target: ChartPosterior,
        proposer: Proposer,
        start: Tensor,
        generator: torch.Generator,
        n_local: int,
        **options: float,
    ) -> None:
        self._target, self._proposer = target, proposer
        self._generator, self._n_local = generator, n_local
        manifold = target.chart.manifold
        self._local = GeodesicHMC(target, start, generator, manifold, **options)
        if not self._local.position.value.isfinite().any():
            raise ValueError(
                f"prior and likelihood must give finite log densities, got none for the "
                f"{len(start)} networks at which the chains would start."
            )

    def tune(self, n_steps: int, report: Callable[[int], object]) -> None:
        """Tune step sizes and masses; after that hidden neurons are in the order of the flow."""
        self._local.tune(n_steps, report)
        points = self._proposer.align(self._local.position.weights)
        self._local.position = Position.at(self._target, points)

    def run(self, n_draws: int, report: Callable[[int], object]) -> Refined:
        """Record one network per chain after every round of local moves and a proposal."""
        draws, columns = [], []
        for _ in range(n_draws):
            local = [self._move_locally() for _ in range(self._n_local)]
            proposed = self._move_globally()
            draws.append(self._target.chart.to_weights(self._local.position.weights))
            columns.append(self._describe(local, proposed))
            report(1)
        metrics = {name: torch.stack([c[name] for c in columns], 1) for name in columns[0]}
        return Refined(torch.stack(draws, 1), metrics)

    def _move_locally(self) -> Transition:
        start = self._local.position
        transition = self._local.step()
        inside = self._proposer.is_aligned(self._local.position.weights)
        self._local.position = self._local.position.where(inside, start)
        return transition._replace(acceptance=transition.acceptance * inside)

    def _move_globally(self) -> dict[str, Tensor]:
        """Metropolis test of a proposal; log densities and the probability of acceptance."""
        current = self._local.position
        points, log_q_new = self._proposer.draw(len(current.weights))
        new = Position.at(self._target, points)
        log_q = self._proposer.log_density(current.weights)
        log_ratio = new.value - current.value + log_q - log_q_new
        # From where the posterior vanishes any network of positive density is welcome.
        log_ratio = torch.where(current.value.isfinite(), log_ratio, 0.0)
        usable = new.value.isfinite() & log_ratio.isfinite() & self._proposer.is_aligned(points)
        probability = torch.where(usable, log_ratio.clamp(max=0).exp(), 0.0)
        uniform = torch.rand(
            probability.shape,
            generator=self._generator,
            dtype=probability.dtype,
            device=probability.device,
        )
        accepted = uniform < probability
        self._local.position = new.where(accepted, current)
        return {"proposal_acceptance": probability, "proposal_accepted": accepted}

    def _describe(self, local: list[Transition], proposed: dict[str, Tensor]) -> dict[str, Tensor]:
        value = self._local.position.value
        n_gradients = 1 + sum(transition.n_gradients for transition in local)
        return {
            "lp": value,
            "energy_error": local[-1].energy_error,
            "acceptance": torch.stack([t.acceptance for t in local]).mean(0),
            "diverging": torch.stack([t.diverging for t in local]).any(0),
            "n_gradients": torch.full_like(value, n_gradients, dtype=torch.long),
            "step_size": self._local.step_size,
            **proposed,
        }
