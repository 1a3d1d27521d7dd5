r"""Stochastic gradient Langevin dynamics, with constant or cyclical steps, for many chains at once.

With the log likelihood of a minibatch B of n of the N data, scaled to all (Welling & Teh 2011,
equation 4),

.. math::
    \theta \leftarrow \theta + \frac{\epsilon_k}2 \nabla \Big(
        \log p(\theta) + \frac N n \sum_{i \in B} \log p(y_i | f(\theta, x_i)) \Big)
        + \sqrt{\epsilon_k} \, z, \quad z \sim N(0, I).

A cycle of K steps begins with large ones that carry a chain to another mode, without the noise z,
and ends with small ones that sample it (Zhang et al. 2020, arXiv 1902.03932, equation 1):

.. math::
    \epsilon_k = \frac{\epsilon_0}2 \Big( \cos \frac{\pi k}K + 1 \Big), \quad k = 0, ..., K - 1.

There is no Metropolis test. The steps and the noise of the minibatches widen the posterior, the
less the smaller the steps; for data that fit in memory the other samplers are better.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bayesflow_nn.weights.chains import Position, Transition, normal_like
from bayesflow_nn.weights.log_posterior import LogPosterior
from bayesflow_nn.weights.validation import check_integer, check_real


class SGLD:
    """Chains of stochastic gradient Langevin dynamics.

    Parameters
    ----------
    target : LogPosterior
    weights : Tensor of shape (n_chains, n_weights)
        Where the chains start.
    generator : torch.Generator
        Source of all randomness.
    batch_size : int
        Data of a gradient, the same for all chains; at most all. Every datum comes once before one
        comes again, but for a remainder smaller than a minibatch.
    step_size : float, optional
        The largest step; by default 0.1 over the total weight of the data (N, without weights),
        where a datum curves the log posterior by about one.
    cycle_length : int
        Gradients of a cycle, which is one step of the chains. 1 is a constant step size.
    exploration : float in [0, 1)
        Share of a cycle, at its beginning, that has no noise.

    Attributes
    ----------
    position : Position
        Where the chains are. Log density and gradient are those of the last minibatch, one gradient
        before that.
    step_size : Tensor of shape (n_chains,)

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> from bayesflow_nn.weights import Architecture
    >>> X = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> target = LogPosterior(Architecture.mlp([2, 2]), X, (X[:, 0] > 0).long())
    >>> chains = SGLD(target, torch.zeros(8, 6), torch.Generator().manual_seed(0), cycle_length=50)
    >>> chains.step().n_gradients
    50
    """

    def __init__(
        self,
        target: LogPosterior,
        weights: Tensor,
        generator: torch.Generator,
        *,
        batch_size: int = 128,
        step_size: float | None = None,
        cycle_length: int = 1,
        exploration: float = 0.0,
    ) -> None:
        self._target, self._generator = target, generator
        self._batch_size = min(check_integer("batch_size", batch_size), target.n_inputs)
        self._cycle_length = check_integer("cycle_length", cycle_length)
        if not check_real("exploration", exploration, 0) < 1:
            raise ValueError(
                f"exploration must lie in [0, 1), got {exploration}: some of a cycle has to sample."
            )
        self._n_exploring = math.floor(exploration * cycle_length)
        size = 0.1 / target.total_weight if step_size is None else step_size
        check_real("step_size", size, 0, strict=True)
        self._order = torch.empty(0, dtype=torch.long)
        self.position = Position.at(target, weights)
        self.step_size = torch.full_like(self.position.value, size)

    def tune(self, n_steps: int, report: Callable[[int], object] = lambda n: None) -> None:
        """Move `n_steps` times to forget the start; there is nothing to tune."""
        for _ in range(n_steps):
            self.step()
            report(1)

    def step(self) -> Transition:
        """Move every chain through one cycle; one that diverged on the way stays where it was."""
        start, weights = self.position, self.position.weights
        for k in range(self._cycle_length):
            value, gradient = self._target.value_and_gradient(weights, self._draw_rows())
            size = self.step_size[:, None] * (math.cos(math.pi * k / self._cycle_length) + 1) / 2
            weights = weights + size / 2 * gradient
            if k >= self._n_exploring:
                weights = weights + size.sqrt() * normal_like(weights, self._generator)
        failed = ~(weights.isfinite().all(1) & value.isfinite())
        self.position = start.where(failed, Position(weights, value, gradient))
        unknown = torch.full_like(value, torch.nan)
        return Transition(unknown, (~failed).to(value), failed, self._cycle_length)

    def _draw_rows(self) -> Tensor | None:
        """The next minibatch; None for all data."""
        n, device = self._target.n_inputs, self._generator.device
        if self._batch_size == n:
            return None
        if len(self._order) < self._batch_size:
            self._order = torch.randperm(n, generator=self._generator, device=device)
        rows, self._order = self._order.split(
            [self._batch_size, len(self._order) - self._batch_size]
        )
        return rows
