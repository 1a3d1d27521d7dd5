r"""Conditional flow matching ([L23] eq. 9, [CL23] eq. 6): regression on conditional velocities.

.. math::
    L(\phi) = E_{t, x_0, x_1} \left\| u_\phi(t, x_t) - u_t(x_t | x_1) \right\|^2

or, with ``prediction="target"``, on the target itself: the same error times :math:`\kappa^2`.
Source noise is drawn anew at every step; validation uses other chains, with times and noise drawn
once, so that its loss is comparable from check to check.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesflow_nn.flow.coupling import Coupling
from bayesflow_nn.flow.path import GeodesicPath, PathSample
from bayesflow_nn.flow.regression import Regression, TrainingHistory
from bayesflow_nn.flow.source import StandardSource

_N_VALIDATION_DRAWS = 512


class Targets(NamedTuple):
    """Points that a flow is to reach.

    Attributes
    ----------
    x : Tensor of shape (n, n_coordinates)
    condition : Tensor of shape (n, n_features) or None
        What is known of each.
    """

    x: Tensor
    condition: Tensor | None = None

    def rows(self, index: Tensor | slice) -> Targets:
        """Some of the points."""
        return Targets(self.x[index], None if self.condition is None else self.condition[index])


@dataclass
class FlowTrainer:
    """Fits the predictor of a field by conditional flow matching.

    Parameters
    ----------
    path : GeodesicPath
    source : StandardSource
    coupling : callable
        Re-pairs the source points of a minibatch with its targets.
    metric : Tensor of shape (n_coordinates,)
        Weight of each squared coordinate of the error.
    regression : Regression
        How the predictor is fitted.
    generator : torch.Generator
        Source of all randomness.
    prediction : {"target", "velocity"}
        What the error is measured on.
    time_distribution : {"uniform", "beta", "late"}
        Law of t: uniform; Beta(1, 2), which dwells on early times ([E25] 6.4); or Beta(3, 1).
    condition_dropout : float
        Fraction of the conditions that training withholds, so that the flow without a condition is
        learned as well (Ho & Salimans 2022).
    """

    path: GeodesicPath
    source: StandardSource
    coupling: Coupling
    metric: Tensor
    regression: Regression
    generator: torch.Generator
    _: KW_ONLY
    prediction: str = "velocity"
    time_distribution: str = "uniform"
    condition_dropout: float = 0.0

    def fit(
        self, predictor: nn.Module, data: Targets, validation: Targets | None
    ) -> tuple[nn.Module, TrainingHistory]:
        """Train on points of networks, and validate on others; see :meth:`Regression.fit`."""
        return self.regression.fit(
            predictor,
            self.loss,
            lambda: self._draw(data),
            None if validation is None else lambda: self._draw_validation(validation),
            self.generator,
        )

    def _draw_validation(self, validation: Targets) -> PathSample:
        n = len(validation.x)
        rows = torch.arange(max(_N_VALIDATION_DRAWS, n), device=validation.x.device) % n
        return self.draw_paths(validation.rows(rows))

    def _draw(self, data: Targets) -> PathSample:
        x, n, generator = data.x, self.regression.batch_size, self.generator
        rows = torch.randint(len(x), (n,), generator=generator, device=x.device)
        batch = data.rows(rows)
        if batch.condition is not None:
            kept = torch.rand(n, 1, generator=generator, device=x.device) >= self.condition_dropout
            batch = Targets(batch.x, batch.condition * kept)
        return self.draw_paths(batch)

    def draw_paths(self, targets: Targets) -> PathSample:
        """Draw times and source points for targets."""
        x_1 = targets.x
        n, generator = len(x_1), self.generator
        t = torch.rand(n, generator=generator, dtype=x_1.dtype, device=x_1.device)
        if self.time_distribution == "beta":
            t = 1 - torch.sqrt(t)  # inverse distribution function of Beta(1, 2)
        elif self.time_distribution == "late":
            t = t ** (1 / 3)  # of Beta(3, 1)
        x_0 = self.source.sample(n, generator=generator, like=x_1)
        draw = self.path.sample(t, self.coupling(self.path.manifold, x_0, x_1), x_1)
        return draw._replace(condition=targets.condition)

    def loss(self, predictor: nn.Module, draw: PathSample) -> Tensor:
        """Mean squared error per coordinate, in the metric, over the paths drawn."""
        given = () if draw.condition is None else (draw.condition,)
        prediction = predictor(draw.t, draw.x_t, *given)
        error = self.path.velocity(draw.t, draw.x_t, prediction) - draw.u_t
        squared = (error.square() * self.metric).mean(1)
        if self.prediction == "target":
            squared = squared * self.path.kappa(draw.t) ** 2
        return squared.mean()
