"""Sampling from a posterior over networks: along its flow, or by a map distilled from it."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from bayesflow_nn.distillation import TrajectoryDraw, distill, prediction_divergence, trajectories
from bayesflow_nn.flow import (
    SOLVERS,
    FlowField,
    FlowMap,
    Guidance,
    GuidedField,
    Integrator,
    Noise,
    Sampler,
    Setting,
    StandardSource,
    contract,
    equal_error_grid,
)
from bayesflow_nn.posterior_input import check_fraction
from bayesflow_nn.sampling_input import check_few_step, check_sampling, read_noise
from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_integer, check_option, check_real

_N_PILOTS = 16  # source points that a time grid is made for


class Trajectory(NamedTuple):
    """Networks on the way from noise to samples.

    Attributes
    ----------
    times : ndarray of shape (n_times,)
        From 0, the source, to 1.
    weights : ndarray of shape (n_times, n_samples, n_weights)
    """

    times: np.ndarray
    weights: np.ndarray


class SamplingMethods:
    """The part of :class:`bayesflow_nn.FlowPosterior` that draws networks."""

    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: RandomState = None,
        temperature: float = 1.0,
        solver: str | None = None,
        n_steps: int | None = None,
        noise: float | Noise | None = None,
        guidance: Guidance | None = None,
        condition: ArrayLike | None = None,
        condition_strength: float = 1.0,
        architecture: Architecture | None = None,
        return_trajectory: bool = False,
    ) -> np.ndarray | Trajectory:
        """Draw new networks.

        Parameters
        ----------
        n_samples : int
        random_state : int, RandomState or None
        temperature : float
            Factor on the source noise, in [0, 1]; below 1 the networks are less dispersed.
        solver, n_steps, noise : str, int, float or Noise, optional
            Instead of those of the estimator; ``noise=0`` follows the flow, as densities do.
        guidance : Guidance or TaskGuidance, optional
            An objective that the networks shall lower, before, on or after the way.
        condition : label, value, or array of shape (n_samples,) or (n_samples, n_columns), optional
            What the networks shall be, one for all or one for each, if `fit` had a `y`.
        condition_strength : float
            1 follows the condition, 0 ignores it, more exaggerates it (classifier-free guidance).
        architecture : Architecture, optional
            Draw multilayer perceptrons of this architecture, whose hidden layers may have other
            widths ([E25] 7.3.4). Takes a graph velocity and ``alignment=None``, so that no part of
            the flow tells hidden neurons apart; see :mod:`bayesflow_nn.symmetry.transfer` for the
            scales.
        return_trajectory : bool
            Return networks at all times.

        Returns
        -------
        ndarray of shape (n_samples, n_weights), or Trajectory
            Each row a network that runs as it is; its architecture is the given one.

        Raises
        ------
        SolverError
            If a network diverges; the message says which and what to change.
        ValueError, TypeError
            If a parameter is wrong, the flow cannot draw networks of the architecture, or a
            distilled posterior is asked for what only a solver does.
        """
        check_is_fitted(self)
        check_integer("n_samples", n_samples)
        check_fraction("temperature", temperature, zero=True, one=True)
        self._check_condition_strength(condition_strength, condition)
        generator = torch.Generator(self.device).manual_seed(draw_seed(random_state))
        flow = self if architecture is None else self._of_widths(architecture)
        source = functools.partial(flow._draw_source, temperature=temperature, generator=generator)
        x_0 = source(n_samples)
        given = flow._encode(condition, n_samples), condition_strength
        setting = flow._make_setting(generator)
        if flow.flow_map_ is not None:
            check_few_step(solver, n_steps, noise, guidance, return_trajectory)
            objective = guidance and guidance.bind(flow.architecture_, generator)
            field = flow.flow_map_.field.given(*given)
            transport = FlowMap(field, setting, source, flow.flow_map_.n_steps)
        else:
            solver = self.solver if solver is None else solver
            n_steps = self.n_steps if n_steps is None else n_steps
            check_option("solver", solver, SOLVERS)
            check_integer("n_steps", n_steps)
            check_sampling(solver, noise, guidance)
            objective = guidance and guidance.bind(flow.architecture_, generator)
            field = flow.field_.given(*given)
            noise = flow._choose_noise(noise, solver, guidance)
            transport = Integrator(
                field,
                setting,
                flow._make_grid(field, x_0, n_steps),
                solver,
                guided=guidance and GuidedField(field, guidance, objective, setting),
                noise=read_noise(noise, temperature),
                return_trajectory=return_trajectory,
                progress=self.verbose,
            )
        with torch.no_grad():
            points = Sampler(transport, guidance, objective, self.verbose)(x_0)
            weights = flow.chart_.to_weights(flow.chart_.project(points)).cpu().numpy()
        return Trajectory(transport.grid.cpu().numpy(), weights) if return_trajectory else weights

    def distill(
        self,
        n_steps: int = 1,
        *,
        n_trajectories: int = 2048,
        max_iter: int = 300,
        learning_rate: float = 2e-3,
        random_state: RandomState = None,
    ) -> SamplingMethods:
        """Fit a map that makes a network in one evaluation, or a few, to the flow's trajectories.

        Parameters
        ----------
        n_steps : int
            Evaluations per network; one is fastest, two or four are closer to the flow.
        n_trajectories : int
            Trajectories of the flow, at least 20; a tenth of them measure the error.
        max_iter : int
            Training steps, each on `batch_size` points of trajectories.
        learning_rate : float
        random_state : int, RandomState or None

        Returns
        -------
        FlowPosterior
            The same posterior, whose `sample` uses the map. ``flow_map_.error`` and
            ``flow_map_.divergence`` say what that costs. Densities remain those of the flow, and
            `solver`, `noise`, trajectories and guidance on the way remain its own.

        Raises
        ------
        TypeError
            If the velocity is a callable that does not refine a Gaussian prediction.

        Examples
        --------
        >>> import numpy as np
        >>> from bayesflow_nn import FlowPosterior
        >>> x = np.random.default_rng(0).normal(3.0, 0.5, size=(500, 2))
        >>> posterior = FlowPosterior(geometry="euclidean", max_iter=20, random_state=0).fit(x)
        >>> fast = posterior.distill(n_trajectories=200, max_iter=200, random_state=0)
        >>> fast.sample(3, random_state=0).shape
        (3, 2)
        >>> bool(fast.flow_map_.error.max() < 0.05)
        True
        """
        check_is_fitted(self)
        check_integer("n_steps", n_steps)
        check_integer("n_trajectories", n_trajectories, low=20)
        check_integer("max_iter", max_iter)
        check_real("learning_rate", learning_rate, 0, strict=True)
        generator = torch.Generator(self.device).manual_seed(draw_seed(random_state))
        regression = dataclasses.replace(
            self._make_regression(), max_iter=max_iter, learning_rate=learning_rate
        )
        n_held_out = n_trajectories // 10
        held_out, training = (
            self._draw_trajectories(n, n_steps, generator)
            for n in (n_held_out, n_trajectories - n_held_out)
        )
        discrepancy = None
        if self.inputs_ is not None and self._has_logit_shift:
            discrepancy = prediction_divergence(
                self.architecture_, self.chart_.to_weights, self.inputs_
            )
        fast = copy.copy(self)
        fast.flow_map_ = distill(
            self.field_,
            self._make_setting(generator),
            training,
            held_out,
            regression,
            discrepancy,
            n_steps=n_steps,
        )
        return fast

    def _check_condition_strength(self, strength: float, condition: ArrayLike | None) -> None:
        check_real("condition_strength", strength, 0)
        if condition is None and strength != 1:
            raise ValueError(
                f"condition_strength must be 1 without a condition, got {strength!r}; "
                f"pass condition= as well."
            )
        if self._always_has_condition and strength != 1:
            raise ValueError(
                f"condition_strength must be 1 after a fit with condition_dropout=0, got "
                f"{strength!r}; fit with a larger condition_dropout."
            )

    @property
    def _always_has_condition(self) -> bool:
        return self.condition_encoder_ is not None and not self.withholds_conditions_

    def _encode(self, condition: ArrayLike | None, n: int) -> Tensor | None:
        """Features of the conditions of `n` networks."""
        if condition is None:
            if self._always_has_condition:
                raise ValueError(
                    "condition must be given after a fit with condition_dropout=0, which saw no "
                    "network without one, got None; pass condition= (to novelty and diversity: "
                    "generated=, with samples of a condition), or fit with a larger "
                    "condition_dropout."
                )
            return None
        if self.condition_encoder_ is None:
            raise ValueError(
                f"condition must be None for a posterior fitted without y, got {condition!r}; "
                f"fit(weights, y=conditions) learns them."
            )
        features = self.condition_encoder_.transform(condition)
        if len(features) not in (1, n):
            raise ValueError(f"condition must hold 1 or {n} conditions, got {len(features)}.")
        return features.expand(n, -1).to(self.training_points_)

    def _draw_source(self, n: int, *, temperature: float, generator: torch.Generator) -> Tensor:
        manifold = self.chart_.manifold
        x_0 = StandardSource(manifold).sample(n, generator=generator, like=self.centre_)
        return contract(manifold, x_0, self.centre_, temperature)

    def _draw_trajectories(
        self, n: int, n_steps: int, generator: torch.Generator
    ) -> TrajectoryDraw:
        """Trajectories from fresh source points, under conditions as in training."""
        x_0 = self._draw_source(n, temperature=1.0, generator=generator)
        condition = self.training_condition_
        if condition is not None:
            device = condition.device
            index = torch.randint(len(condition), (n,), generator=generator, device=device)
            kept = torch.rand(n, 1, generator=generator, device=device) >= self.condition_dropout
            condition = condition[index] * kept
        return trajectories(
            self.field_.given(condition),
            self._make_setting(generator),
            x_0,
            n_steps,
            progress=self.verbose,
        )

    def _choose_noise(
        self, noise: float | Noise | None, solver: str, guidance: Guidance | None
    ) -> float | Noise | None:
        """The noise that was asked for, or the estimator's where a sample can have it."""
        if noise is not None or solver == "dopri5":
            return noise
        # A source point that was searched for would be forgotten.
        return None if guidance is not None and guidance.source_steps else self.noise

    def _make_grid(self, field: FlowField, x_0: Tensor, n_steps: int) -> Tensor:
        if self.time_grid == "error":
            pilots = slice(0, _N_PILOTS)
            return equal_error_grid(field.rows(pilots), x_0[pilots], n_steps)
        return torch.linspace(0, 1, n_steps + 1, dtype=torch.float64, device=x_0.device)

    def _make_setting(self, generator: torch.Generator) -> Setting:
        chart = self.chart_
        return Setting(
            chart.to_weights,
            chart.project,
            chart.move,
            self.gaussian_,
            self.unit_scale_,
            generator,
        )
