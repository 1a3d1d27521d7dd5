"""What every velocity model is built from, and the coordinates in which it works."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity.affine import AffineDenoiser, Schedule


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
    """

    points: Tensor
    held_out: Tensor | None
    chart: WeightChart
    inputs: Tensor | None
    scale: Tensor
    schedule: Schedule
    generator: torch.Generator

    def make_denoiser(self) -> AffineDenoiser:
        """Closed-form affine prediction in coordinates of unit variance."""
        held_out = None if self.held_out is None else self.held_out * self.scale
        return AffineDenoiser(self.points * self.scale, held_out, self.schedule)


class UnitVariance(nn.Module):
    """Run a model that works in coordinates of unit variance on points of the manifold.

    Parameters
    ----------
    model : nn.Module
        Maps times ``(n,)`` and scaled points to scaled predictions, ``(n, n_coordinates)``.
    scale : Tensor of shape (n_coordinates,)
    """

    def __init__(self, model: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale", scale)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Predict the target of ``x (n, n_coordinates)`` at times ``t (n,)``."""
        return self.model(t, x * self.scale) / self.scale
