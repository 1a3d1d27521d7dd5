"""Exact posterior samples from a posterior that was learned."""

from __future__ import annotations

import warnings

import torch
from numpy.typing import ArrayLike
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from tqdm.auto import tqdm

from bayesflow_nn.flow import StudentSource
from bayesflow_nn.posterior_densities import Prior
from bayesflow_nn.posterior_input import predicts
from bayesflow_nn.refinement import ChartPosterior, Proposal, Proposer, Refinement
from bayesflow_nn.weights import Likelihood, LogPosterior, WeightPopulation
from bayesflow_nn.weights.population import TASKS
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.training_data import MOST_INPUTS, spread_rows
from bayesflow_nn.weights.validation import check_integer

_DOF = 5.0
"""Degrees of freedom of the source of proposals. For a perceptron of 16 weights, whose flow learned
from draws of the posterior, .27 of them are accepted (.30 from the normal source), and the ratio of
posterior to proposal density has the mean 21 over the posterior (158)."""


class RefinementMethods:
    """The part of :class:`bayesflow_nn.FlowPosterior` that samples the posterior of data."""

    @available_if(predicts(*TASKS))
    def refine(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        prior: float | Prior = 1.0,
        likelihood: float | Likelihood | None = None,
        n_chains: int = 64,
        n_draws: int = 50,
        n_tune: int = 100,
        n_local: int = 1,
        n_proposals: int = 1,
        n_leapfrog: int = 16,
        target_acceptance: float = 0.8,
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> WeightPopulation:
        """Draw networks from the posterior of a prior and a likelihood, by chains from the flow.

        Chains start at networks of the flow and alternate Hamiltonian trajectories with proposals,
        which are accepted or not; see :mod:`bayesflow_nn.refinement`. The flow draws proposals from
        a source with heavier tails than its own, a Student law, so that chains are not held where
        the flow is too narrow. Fit a posterior to the result, ``FlowPosterior().fit(population)``,
        for more networks from this posterior, or to refine again with better proposals.

        Parameters
        ----------
        X : array of shape (n_inputs, ...)
        y : array of shape (n_inputs,) or (n_inputs, n_targets)
            The data of the likelihood.
        prior : float or callable
            As in `importance_weights`: a density on the canonical manifold. A callable has to be
            differentiable.
        likelihood : Likelihood or float, optional
            By default that of the posterior.
        n_chains : int
            Chains, run together.
        n_draws : int
            Networks that each chain records, one after every round.
        n_tune : int
            Trajectories before that, which tune step size and masses and are not recorded.
        n_local, n_proposals : int
            Trajectories, and proposals after them, of every round. Proposals need no gradients, but
            densities of the flow. Without any the flow only gives chains their starts: a first
            step from a flow whose networks are far from the posterior.
        n_leapfrog : int
            Mean number of gradients of a trajectory.
        target_acceptance : float in (0, 1)
            To which the step size is tuned.
        random_state : int, RandomState or None
        verbose : bool
            Whether to show a progress bar.

        Returns
        -------
        WeightPopulation
            Sorted by chain, then draw. Its metrics are those of `sample_population`, and with
            proposals "proposal_acceptance" and "proposal_accepted": the mean probability that one
            of the round was accepted, and whether any was. "acceptance" is that of energies;
            besides, trajectories that would leave the aligned order are rejected.

        Raises
        ------
        ValueError
            If a parameter is out of range, the geometry is "normalized" or the posterior has a
            reducer, whose points stand for no network, or no chain starts at a finite density.
        SolverError
            As in `log_prob`.

        Warns
        -----
        UserWarning
            If densities of the flow are estimates (``trace="hutchinson"``): proposals are then
            accepted with errors, and the sample is not exact.

        Examples
        --------
        >>> import numpy as np
        >>> from bayesflow_nn import Architecture, FlowPosterior
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(50, 1))
        >>> y = (X[:, 0] + rng.normal(size=50) > 0).astype(int)
        >>> slopes = 0.5 + 0.3 * rng.normal(size=(500, 1))
        >>> posterior = FlowPosterior(
        ...     architecture=Architecture.mlp([1, 2], bias=False), task="classification",
        ...     geometry="euclidean", velocity="mlp", max_iter=20, n_steps=4, random_state=0,
        ... ).fit(np.hstack([-slopes, slopes]))
        >>> population = posterior.refine(X, y, n_chains=32, n_draws=3, n_tune=20, random_state=0)
        >>> len(population), population.metrics["proposal_accepted"].float().mean() > 0.2
        (96, tensor(True))
        """
        check_is_fitted(self)
        for name, value, low in (
            ("n_chains", n_chains, 1),
            ("n_draws", n_draws, 1),
            ("n_tune", n_tune, 0),
            ("n_local", n_local, 1),
            ("n_proposals", n_proposals, 0),
        ):
            check_integer(name, value, low)
        self._check_can_refine()
        generator = torch.Generator(self.device).manual_seed(draw_seed(random_state))
        target = self._chart_posterior(X, y, prior, likelihood)
        proposer = self._make_proposer(generator)
        start = self._align_points(self._draw_points_with_density(n_chains, None, generator)[0])
        chains = Refinement(
            target,
            proposer,
            start,
            generator,
            n_local,
            n_proposals,
            n_leapfrog=n_leapfrog,
            target_acceptance=target_acceptance,
        )
        with tqdm(total=n_tune + n_draws, unit="round", disable=not verbose) as bar:
            chains.tune(n_tune, bar.update)
            refined = chains.run(n_draws, bar.update)
        return WeightPopulation(
            refined.weights.detach().flatten(0, 1).to(self.training_points_.dtype),
            architecture=self.architecture_,
            chain=torch.arange(n_chains).repeat_interleave(n_draws),
            draw=torch.arange(n_draws).repeat(n_chains),
            task=self.task_,
            likelihood=target.log_likelihood.likelihood,
            metrics={name: values.flatten() for name, values in refined.metrics.items()},
            inputs=spread_rows(target.log_likelihood.X, MOST_INPUTS),
        )

    def _check_can_refine(self) -> None:
        if self.geometry == "normalized" or self.reducer is not None:
            raise ValueError(
                f"refine needs points that are networks: geometry 'product_sphere' or 'euclidean' "
                f"and reducer=None, got {self.geometry!r} and reducer={self.reducer!r}."
            )
        if self._density_method(self.training_points_).trace != "exact":
            warnings.warn(
                "Log densities of the flow are estimates, so that its proposals are accepted with "
                "errors and the sample is not exact; for exact ones pass "
                "FlowPosterior(trace='exact').",
                UserWarning,
                stacklevel=3,
            )

    def _chart_posterior(
        self,
        X: ArrayLike,
        y: ArrayLike,
        prior: float | Prior,
        likelihood: float | Likelihood | None,
    ) -> ChartPosterior:
        log_likelihood = LogPosterior(
            self.architecture_,
            torch.as_tensor(X, device=self.device).double(),
            y,
            prior=_flat,
            likelihood=self.likelihood_ if likelihood is None else likelihood,
        )

        def log_prior(points: Tensor, weights: Tensor) -> Tensor:
            return self._log_prior(prior, weights, points)

        return ChartPosterior(self.chart_, log_likelihood, log_prior)

    def _make_proposer(self, generator: torch.Generator) -> Proposer:
        """The flow of a source with heavier tails than the one it was learned from."""
        field, source = self._precise_field(None), StudentSource(self.chart_.manifold, _DOF)
        method = self._density_method(self.training_points_)

        @torch.no_grad()
        def draw(n: int) -> Proposal:
            like = self.training_points_[:1].double()
            x_0 = source.sample(n, generator=generator, like=like)
            points, density = method.sample(field, source, x_0)
            return Proposal(points, density.value)

        @torch.no_grad()
        def log_density(points: Tensor) -> Tensor:
            return method.log_density(field, source, points).value

        return Proposer(draw, log_density, self._align_points)

    def _align_points(self, points: Tensor) -> Tensor:
        return self.chart_.to_point(self._align(self.chart_.to_weights(points)))


def _flat(weights: Tensor) -> Tensor:
    return weights.new_zeros(len(weights))
