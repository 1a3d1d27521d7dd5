"""What every velocity model is built from, and the coordinates in which it works."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity.affine import AffineDenoiser
from bayesflow_nn.velocity.conditional import ConditionalDenoiser
from bayesflow_nn.velocity.exchangeable import ExchangeableDenoiser
from bayesflow_nn.velocity.features import N_TIME_FEATURES
from bayesflow_nn.velocity.gaussian import GaussianDenoiser, Schedule
from bayesflow_nn.velocity.labelled import LabelledDenoiser
from bayesflow_nn.velocity.neural_graph import NeuralGraph

_FEWEST_OF_A_LABEL = 20  # networks for a law of their own


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

    def make_denoiser(self) -> AffineDenoiser | ConditionalDenoiser:
        """Closed-form affine prediction in coordinates of unit variance."""
        x, held_out = self._scaled_points()
        if self.condition is None:
            return AffineDenoiser(x, held_out, self.schedule)
        return ConditionalDenoiser(
            x, held_out, self.condition, self.held_out_condition, self.schedule
        )

    def make_exchangeable_denoiser(self) -> ExchangeableDenoiser | LabelledDenoiser:
        """Closed-form affine prediction that no permutation of hidden neurons changes.

        Conditions that many networks share have laws of their own; the mean depends on others.
        """
        graph, (x, held_out) = NeuralGraph(self.chart), self._scaled_points()
        overall = ExchangeableDenoiser(graph, x, held_out, self.schedule)
        if self.condition is None:
            return overall
        labels, place, counts = self.condition.unique(
            dim=0, return_inverse=True, return_counts=True
        )
        if counts.min() < _FEWEST_OF_A_LABEL:
            given = self.condition, self.held_out_condition
            return ExchangeableDenoiser(graph, x, held_out, self.schedule, *given)
        laws = []
        for index, label in enumerate(labels):
            others = held_out
            if held_out is not None:
                others = held_out[(self.held_out_condition == label).all(1)]
                others = others if len(others) > 1 else None
            laws.append(ExchangeableDenoiser(graph, x[place == index], others, self.schedule))
        return LabelledDenoiser(labels, laws, overall)

    def make_gaussian(self) -> GaussianDenoiser:
        """Closed-form prediction that suits the chart: exchangeable where it pools neurons."""
        return self.make_exchangeable_denoiser() if self.chart.pooled else self.make_denoiser()

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
