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
ends elsewhere is rejected, so that no order is counted twice. Global moves need no gradients: after
every few local ones there may be many, whose densities are found together.
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

    @torch.no_grad()
    def value(self, points: Tensor) -> Tensor:
        """Log density ``(n,)`` alone."""
        weights = self.chart.to_weights(points)
        log_prior = self.log_prior(points, weights)
        return self.log_likelihood(weights) + log_prior + self._log_volume


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
    n_local, n_proposals : int
        Trajectories, and proposals after them, of every round.
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
        n_proposals: int,
        **options: float,
    ) -> None:
        self._target, self._proposer, self._generator = target, proposer, generator
        self._n_local, self._n_proposals = n_local, n_proposals
        self._local = GeodesicHMC(
            target, start, generator, target.chart.manifold, proposer.is_aligned, **options
        )
        if not self._local.position.value.isfinite().any():
            raise ValueError(
                f"prior and likelihood must give finite log densities, got none for the "
                f"{len(start)} networks at which the chains would start."
            )

    def tune(self, n_steps: int, report: Callable[[int], object]) -> None:
        """Tune step sizes and masses."""
        self._local.tune(n_steps, report)

    def run(self, n_draws: int, report: Callable[[int], object]) -> Refined:
        """Record one network per chain after every round of local moves and proposals."""
        draws, columns = [], []
        for _ in range(n_draws):
            local = [self._local.step() for _ in range(self._n_local)]
            proposed = self._move_globally() if self._n_proposals else {}
            draws.append(self._target.chart.to_weights(self._local.position.weights))
            columns.append(self._describe(local, proposed))
            report(1)
        metrics = {name: torch.stack([c[name] for c in columns], 1) for name in columns[0]}
        return Refined(torch.stack(draws, 1), metrics)

    def _move_globally(self) -> dict[str, Tensor]:
        """Metropolis tests of the proposals of all chains; what became of them, ``(n_chains,)``."""
        current = self._local.position
        x, ratio = current.weights, current.value - self._proposer.log_density(current.weights)
        # From where the posterior vanishes any network of positive density is welcome.
        ratio = torch.where(current.value.isfinite(), ratio, -torch.inf)
        points, ratios = self._propose(len(x))
        moved, probabilities = torch.zeros_like(ratio, dtype=torch.bool), []
        for new, new_ratio in zip(points, ratios, strict=True):
            probability = (new_ratio - ratio).clamp(max=0).exp()
            probabilities.append(torch.where(new_ratio > -torch.inf, probability, 0.0))
            accepted = self._draw_uniform(ratio) < probabilities[-1]
            x = torch.where(accepted[:, None], new, x)
            ratio = torch.where(accepted, new_ratio, ratio)
            moved |= accepted
        if moved.any():
            weights, value, gradient = (part.clone() for part in current)
            weights[moved], value[moved], gradient[moved] = Position.at(self._target, x[moved])
            self._local.position = Position(weights, value, gradient)
        acceptance = torch.stack(probabilities).mean(0)
        return {"proposal_acceptance": acceptance, "proposal_accepted": moved}

    def _propose(self, n_chains: int) -> tuple[Tensor, Tensor]:
        """Points ``(n_proposals, n_chains, ...)`` and log of posterior over flow, for each chain.

        The logarithm is minus infinity where the posterior vanishes or a point is not aligned.
        """
        points, log_q = self._proposer.draw(self._n_proposals * n_chains)
        log_ratio = self._target.value(points) - log_q
        usable = log_ratio.isfinite() & self._proposer.is_aligned(points)
        log_ratio = torch.where(usable, log_ratio, -torch.inf)
        shape = self._n_proposals, n_chains
        return points.unflatten(0, shape), log_ratio.unflatten(0, shape)

    def _draw_uniform(self, like: Tensor) -> Tensor:
        return torch.rand(
            like.shape, generator=self._generator, dtype=like.dtype, device=like.device
        )

    def _describe(self, local: list[Transition], proposed: dict[str, Tensor]) -> dict[str, Tensor]:
        value = self._local.position.value
        n_gradients = torch.full_like(value, sum(t.n_gradients for t in local), dtype=torch.long)
        if proposed:
            n_gradients += proposed["proposal_accepted"]
        return {
            "lp": value,
            "energy_error": local[-1].energy_error,
            "acceptance": torch.stack([t.acceptance for t in local]).mean(0),
            "diverging": torch.stack([t.diverging for t in local]).any(0),
            "n_gradients": n_gradients,
            "step_size": self._local.step_size,
            **proposed,
        }
