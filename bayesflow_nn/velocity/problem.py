"""What every velocity model is built from, and the coordinates in which it works."""

from collections.abc import Callable
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
_LATEST_TIME = 0.9  # at which laws are compared: later ones say little that x_t does not


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

    def make_denoiser(self) -> AffineDenoiser | ConditionalDenoiser | LabelledDenoiser:
        """Closed-form affine prediction in coordinates of unit variance.

        Labels share a covariance, or have laws of their own where those predict held-out networks
        better: they tell more of a task, and are learned from fewer networks.
        """
        x, held_out = self._scaled_points()
        if self.condition is None:
            return AffineDenoiser(x, held_out, self.schedule)
        shared = ConditionalDenoiser(
            x, held_out, self.condition, self.held_out_condition, self.schedule
        )
        if held_out is None or not self._has_labels:
            return shared
        laws = self._laws(lambda *points: AffineDenoiser(*points, self.schedule))
        return min(shared, LabelledDenoiser(*laws, shared.overall), key=self._held_out_error)

    def make_exchangeable_denoiser(self) -> ExchangeableDenoiser | LabelledDenoiser:
        """Closed-form affine prediction that no permutation of hidden neurons changes.

        Conditions that many networks share have laws of their own; the mean depends on others.
        """
        graph, points = NeuralGraph(self.chart), self._scaled_points()
        if self.condition is None:
            return ExchangeableDenoiser(graph, *points, self.schedule)
        if not self._has_labels:
            given = self.condition, self.held_out_condition
            return ExchangeableDenoiser(graph, *points, self.schedule, *given)
        laws = self._laws(lambda *points: ExchangeableDenoiser(graph, *points, self.schedule))
        overall = ExchangeableDenoiser(graph, *points, self.schedule)
        return LabelledDenoiser(*laws, overall)

    def make_gaussian(self) -> GaussianDenoiser:
        """Closed-form prediction that suits the chart: exchangeable where it pools neurons."""
        return self.make_exchangeable_denoiser() if self.chart.pooled else self.make_denoiser()

    @property
    def _has_labels(self) -> bool:
        """Whether every condition is that of many networks."""
        counts = self.condition.unique(dim=0, return_counts=True)[1]
        return counts.min().item() >= _FEWEST_OF_A_LABEL

    def _laws(
        self, fit: Callable[[Tensor, Tensor | None], GaussianDenoiser]
    ) -> tuple[Tensor, list[GaussianDenoiser]]:
        """All labels, and the law that is fitted to the networks of each."""
        labels, place = self.condition.unique(dim=0, return_inverse=True)
        x, held_out = self._scaled_points()
        laws = []
        for index, label in enumerate(labels):
            others = held_out
            if held_out is not None:
                others = held_out[(self.held_out_condition == label).all(1)]
                others = others if len(others) > 1 else None
            laws.append(fit(x[place == index], others))
        return labels, laws

    def _held_out_error(self, denoiser: GaussianDenoiser) -> float:
        """Mean squared error of the velocity that predictions of held-out networks mean."""
        x, generator = self._scaled_points()[1], torch.Generator().manual_seed(0)
        t = _LATEST_TIME * torch.rand(len(x), generator=generator, dtype=torch.float64).to(x)
        signal, width = self.schedule(t)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        predicted = denoiser(t, signal * x + width * noise, self.held_out_condition).mean
        return ((predicted - x) / width).square().mean().item()

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
