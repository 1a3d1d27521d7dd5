"""Densities of a posterior over networks, and what they are good for."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import gammaln
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from bayesflow_nn.flow import DensityMethod, FlowField, LogDensity, StandardSource
from bayesflow_nn.importance import ImportanceWeights, JointLikelihood, log_likelihood, weigh
from bayesflow_nn.posterior_input import Weights, read_weights
from bayesflow_nn.symmetry import log_prior
from bayesflow_nn.weights import Likelihood
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_integer, check_real

Prior = Callable[[Tensor], Tensor]
"""Weights ``(n_networks, n_weights)`` to log densities ``(n_networks,)`` on the chart."""

_EXACT_TRACE_LIMIT = 128  # coordinates up to which trace="auto" is exact


class DensityMethods:
    """The part of :class:`bayesflow_nn.FlowPosterior` that has to do with its density."""

    def log_prob(
        self,
        weights: Weights,
        *,
        return_std: bool = False,
        condition: ArrayLike | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Log density of networks after symmetry removal.

        Parameters
        ----------
        weights : WeightPopulation, or array or Tensor of shape (n_networks, n_weights)
        return_std : bool
            Also return the standard error of the trace estimate: zero where the trace is exact,
            NaN with a single probe. A 95 % interval takes the t distribution with one degree of
            freedom less than there are probes (three quarters of them for ``trace="hutch++"``).
        condition : label, value or array, optional
            Density of networks of this condition, one for all or one for each; see `sample`.

        Returns
        -------
        ndarray of shape (n_networks,), or a pair of them
            Nats, with respect to volume on the canonical manifold; with a reducer, of networks
            with a Gaussian residual beside its components. Computed in float64; no row depends on
            the others.

        Raises
        ------
        SolverError
            If the integration gives non-finite values or, with dopri5, its steps become too small
            or too many.
        """
        check_is_fitted(self)
        aligned = self._align(read_weights(self, weights, self.architecture_, reset=False))
        density = self._point_density(self.chart_.to_point(aligned), condition)
        log_residual = self.chart_.log_residual(aligned)
        value = (density.value + log_residual - self.chart_.log_abs_det()).cpu().numpy()
        return (value, density.standard_error.cpu().numpy()) if return_std else value

    def score_samples(self, X: Weights) -> np.ndarray:
        """Log density of each row in nats, as `log_prob`."""
        return self.log_prob(X)

    def score(self, X: Weights, y: None = None) -> float:
        """Mean log density of the rows, in nats."""
        return float(self.log_prob(X).mean())

    def round_trip_error(
        self, weights: Weights, *, condition: ArrayLike | None = None
    ) -> np.ndarray:
        """How far networks are from themselves after the flow to the source and back.

        The same solver and steps as for densities, which are as uncertain as this is large.

        Parameters
        ----------
        weights : WeightPopulation, or array or Tensor of shape (n_networks, n_weights)
        condition : label, value or array, optional
            As in `log_prob`.

        Returns
        -------
        ndarray of shape (n_networks,)
            Root mean square over coordinates of unit variance.

        Raises
        ------
        SolverError
            As in `log_prob`.
        """
        points = self.to_points(weights).double()
        field = self._precise_field(self._encode(condition, len(points)))
        with torch.no_grad():
            back = self._density_method(points).round_trip(field, points)
        return ((back - points) * self.unit_scale_).square().mean(1).sqrt().cpu().numpy()

    def importance_weights(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        prior: float | Prior = 1.0,
        likelihood: float | Likelihood | JointLikelihood | None = None,
        n_samples: int = 1000,
        condition: ArrayLike | None = None,
        random_state: RandomState = None,
    ) -> ImportanceWeights:
        """Correct the flow to the posterior of a prior and a likelihood.

        Draws networks from the flow, with its solver for densities, and weighs them by posterior
        over flow density, Pareto-smoothed; see :mod:`bayesflow_nn.importance`. The result is kept
        as `importance_` for ``predict_proba(X, weights="importance")``.

        Parameters
        ----------
        X : array of shape (n_inputs, ...)
        y : array of shape (n_inputs,) or (n_inputs, n_outputs)
            The data of the likelihood.
        prior : float or callable
            Standard deviation of the standard prior on the canonical chart: directions of hidden
            neurons uniform, all else normal (see :mod:`bayesflow_nn.symmetry.prior`). A callable
            takes weights ``(n, n_weights)``, a Tensor, and returns log densities ``(n,)`` with
            respect to volume on the canonical manifold.
        likelihood : Likelihood, float or callable, optional
            By default that of the posterior. A float is the standard deviation of normal noise on
            the targets of a regression. A callable takes outputs ``(n_networks, n_inputs,
            n_outputs)`` and `y`, as Tensors, and returns log likelihoods ``(n_networks,)``.
        n_samples : int
            Networks to draw, at least 25: k-hat is fitted to a fifth of them.
        condition : label, value or array, optional
            As in `sample`.
        random_state : int, RandomState or None

        Returns
        -------
        ImportanceWeights
            With k-hat, effective sample size, and the evidence with its standard error.

        Raises
        ------
        ValueError
            If a parameter is wrong, the posterior has no architecture and task, or its geometry is
            "normalized", which has no density of networks.
        SolverError
            As in `log_prob`.

        Warns
        -----
        UserWarning
            If k-hat exceeds 0.7: the corrected averages are not to be trusted.

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
        ...     geometry="euclidean", max_iter=20, n_steps=4, random_state=0,
        ... ).fit(np.hstack([-slopes, slopes]))
        >>> importance = posterior.importance_weights(X, y, n_samples=100, random_state=0)
        >>> importance.pareto_k < 0.7
        True
        >>> mean, error = importance.average(importance.networks)
        """
        check_is_fitted(self)
        check_integer("n_samples", n_samples, low=25)
        if self.architecture_ is None or self.task_ is None:
            raise ValueError(
                f"importance weights need an architecture and a task, got "
                f"architecture={self.architecture_!r} and task={self.task_!r}; pass them or fit a "
                f"WeightPopulation that has them."
            )
        weights, log_density = self._draw_with_density(n_samples, condition, random_state)
        log_ratios = (
            log_likelihood(
                self.architecture_,
                weights,
                X,
                y,
                task=self.task_,
                likelihood=self.likelihood_ if likelihood is None else likelihood,
            )
            + self._log_prior(prior, weights)
            - log_density
        )
        self.importance_ = weigh(
            weights.cpu().numpy(), log_ratios.cpu().numpy(), self._log_multiplicity()
        )
        return self.importance_

    @torch.no_grad()
    def _draw_with_density(
        self, n: int, condition: ArrayLike | None, random_state: RandomState
    ) -> tuple[Tensor, Tensor]:
        """Networks of the flow, not denoised, and their log densities on the canonical manifold."""
        generator = torch.Generator(self.device).manual_seed(draw_seed(random_state))
        points, log_density = self._draw_points_with_density(n, condition, generator)
        weights = self.chart_.draw_weights(points, generator)
        log_residual = self.chart_.log_residual(weights)
        return weights, log_density + log_residual - self.chart_.log_abs_det()

    @torch.no_grad()
    def _draw_points_with_density(
        self, n: int, condition: ArrayLike | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Points of the flow, and their log densities with respect to volume of their manifold."""
        x_0 = self._draw_source(n, temperature=1.0, generator=generator).double()
        field = self._precise_field(self._encode(condition, n))
        source = StandardSource(self.chart_.manifold)
        points, density = self._density_method(x_0).sample(field, source, x_0)
        return points, density.value

    def _log_prior(
        self, prior: float | Prior, weights: Tensor, points: Tensor | None = None
    ) -> Tensor:
        if not callable(prior):
            scale = check_real("prior", prior, 0, strict=True)
            return log_prior(self.chart_, weights, scale, points)
        if self.geometry == "normalized":
            log_prior(self.chart_, weights, 1.0)  # refuses
        values = torch.as_tensor(prior(weights)).to(weights)
        if values.shape != (len(weights),):
            raise ValueError(
                f"prior must return one log density per network, shape ({len(weights)},), got "
                f"{tuple(values.shape)}."
            )
        return values

    def _log_multiplicity(self) -> float:
        """Log of the number of orders, and signs, of hidden neurons, if alignment removed them."""
        if self.aligner_ is None or not self.architecture_.is_mlp:
            return 0.0
        sizes = np.array([layer.n_out for layer in self.architecture_.layers[:-1]])
        has_signs = any(group.odd for group in getattr(self.aligner_, "groups_", ()))
        return float((gammaln(sizes + 1) + has_signs * np.log(2) * sizes).sum())

    def _point_density(self, points: Tensor, condition: ArrayLike | None = None) -> LogDensity:
        """Log density of points, with respect to volume of their own manifold."""
        points = points.double()
        field = self._precise_field(self._encode(condition, len(points)))
        source = StandardSource(self.chart_.manifold)
        return self._density_method(points).log_density(field, source, points)

    def _mean_log_density(self, points: Tensor, n: int) -> float:
        """Mean over at most `n` evenly spaced rows, so that no chain is left out."""
        rows = torch.linspace(0, len(points) - 1, min(n, len(points))).round().long()
        return self._point_density(points[rows]).value.mean().item()

    def _precise_field(self, condition: Tensor | None) -> FlowField:
        """The field in float64."""
        given = None if condition is None else condition.double()
        return FlowField(self.field_.path, copy.deepcopy(self.field_.predictor).double(), given)

    def _density_method(self, points: Tensor) -> DensityMethod:
        trace = self.trace
        if trace == "auto":
            trace = "exact" if points.shape[1] <= _EXACT_TRACE_LIMIT else "hutchinson"
        return DensityMethod(
            solver=self.density_solver,
            n_steps=self.n_steps,
            tolerance=self.tolerance,
            trace=trace,
            n_probes=self.n_probes,
            probe_distribution=self.probe_distribution,
        )
