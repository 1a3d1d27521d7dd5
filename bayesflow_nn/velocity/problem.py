"""What every velocity model is built from, and the coordinates in which it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity.affine import AffineDenoiser
from bayesflow_nn.velocity.conditional import ConditionalDenoiser
from bayesflow_nn.velocity.exchangeable import ExchangeableDenoiser
from bayesflow_nn.velocity.features import N_TIME_FEATURES
from bayesflow_nn.velocity.gaussian import GaussianDenoiser, Schedule
from bayesflow_nn.velocity.labelled import ConditionedPoints, with_laws_of_labels
from bayesflow_nn.velocity.neural_graph import NeuralGraph


@dataclass(frozen=True)
class VelocityProblem:
    """Training points and the setting they live in.

    Attributes
    ----------
    points : Tensor of shape (n, n_coordinates)
        Training points on the manifold of the chart.
    held_out : Tensor of shape (m, n_coordinates) or None
        Points of other chains.
    chart : WeightChart
        Between points and network weights.
    inputs : Tensor of shape (n_inputs, ...) or None
        Unlabelled inputs of the networks.
    scale : Tensor of shape (n_coordinates,)
        Factor from points to coordinates of about unit variance, in which models work.
    schedule : callable
        ``t (n,) -> (signal, noise)``, each ``(n, 1)``, the weights of target and source.
    generator : torch.Generator
        Source of initial parameters, on the CPU.
    condition, held_out_condition : Tensor of shape (n, n_features) and (m, n_features), or None
        Features of the condition of every point; the first is 1 where it is known, and a row of
        zeros means that it is not.
    """

    points: Tensor
    held_out: Tensor | None
    chart: WeightChart
    inputs: Tensor | None
    scale: Tensor
    schedule: Schedule
    generator: torch.Generator
    condition: Tensor | None = None
    held_out_condition: Tensor | None = None

    @property
    def n_condition_features(self) -> int:
        """Number of features of a condition, 0 without conditions."""
        return 0 if self.condition is None else self.condition.shape[1]

    @property
    def n_features(self) -> int:
        """Number of features of time and condition."""
        return N_TIME_FEATURES + self.n_condition_features

    def having(self, label: Tensor) -> VelocityProblem:
        """That of the training points whose condition has these features, without conditions."""
        points = self.points[(self.condition == label).all(1)]
        return replace(self, points=points, held_out=None, condition=None, held_out_condition=None)

    def make_denoiser(self) -> GaussianDenoiser:
        """Closed-form affine prediction in coordinates of unit variance.

        Its mean depends on the condition, and labels have laws of their own where that tells more.
        """
        fit = partial(AffineDenoiser, schedule=self.schedule)
        x, held_out = self._scaled_points()
        if self.condition is None:
            return fit(x, held_out)
        given = self.condition, self.held_out_condition
        shared = ConditionalDenoiser(x, held_out, *given, self.schedule)
        return self._with_laws_of_labels(shared, fit, x, held_out)

    def make_exchangeable_denoiser(self) -> GaussianDenoiser:
        """Closed-form affine prediction that no permutation of hidden neurons changes.

        Its symmetric mean depends on the condition, and labels may have laws of their own.
        """
        fit = partial(ExchangeableDenoiser, NeuralGraph(self.chart), schedule=self.schedule)
        x, held_out = self._scaled_points()
        if self.condition is None:
            return fit(x, held_out)
        given = {"condition": self.condition, "held_out_condition": self.held_out_condition}
        return self._with_laws_of_labels(fit(x, held_out, **given), fit, x, held_out)

    def make_gaussian(self) -> GaussianDenoiser:
        """Closed-form prediction that suits the chart: exchangeable where it pools neurons."""
        return self.make_exchangeable_denoiser() if self.chart.pooled else self.make_denoiser()

    def _with_laws_of_labels(
        self,
        shared: GaussianDenoiser,
        fit: Callable[[Tensor, Tensor], GaussianDenoiser],
        x: Tensor,
        held_out: Tensor | None,
    ) -> GaussianDenoiser:
        training, others = ConditionedPoints(x, self.condition), None
        if held_out is not None:
            others = ConditionedPoints(held_out, self.held_out_condition)
        return with_laws_of_labels(shared, fit, self.schedule, training, others)

    def _scaled_points(self) -> tuple[Tensor, Tensor | None]:
        held_out = None if self.held_out is None else self.held_out * self.scale
        return self.points * self.scale, held_out


class UnitVariance(nn.Module):
    """Run a model that works in coordinates of unit variance on points of the manifold.

    Parameters
    ----------
    model : nn.Module
        Maps times ``(n,)`` and scaled points, and a condition if there is one, to scaled
        predictions, ``(n, n_coordinates)``.
    scale : Tensor of shape (n_coordinates,)
    """

    def __init__(self, model: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale", scale)

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict the target of ``x (n, n_coordinates)`` at times ``t (n,)``."""
        given = () if condition is None else (condition,)
        return self.model(t, x * self.scale, *given) / self.scale
