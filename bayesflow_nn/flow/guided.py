"""The field of a flow under guidance, and the gradients that guidance takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.guidance import Guidance, Objective
from bayesflow_nn.flow.ode import check_finite
from bayesflow_nn.velocity import GaussianDenoiser


@dataclass(frozen=True)
class Setting:
    """What guidance and noise need to know of the space of networks.

    Attributes
    ----------
    to_weights : callable
        Points ``(n, n_coordinates)`` to weights ``(n, n_weights)``, differentiable.
    project : callable
        Points to the nearest ones that are networks, differentiable.
    move : callable
        Points of networks and steps to the networks at their ends.
    gaussian : GaussianDenoiser
        Gaussian approximation of the flow, in coordinates of unit variance.
    scale : Tensor of shape (n_coordinates,)
        Factor from points to these coordinates.
    generator : torch.Generator
    """

    to_weights: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    move: Callable[[Tensor, Tensor], Tensor]
    gaussian: GaussianDenoiser
    scale: Tensor
    generator: torch.Generator


class GuidedField(FlowField):
    """A field whose velocity also lowers an objective.

    Parameters
    ----------
    field : FlowField
    guidance : Guidance
    objective : callable
        That of the guidance, bound to an architecture.
    setting : Setting
    """

    def __init__(
        self, field: FlowField, guidance: Guidance, objective: Objective, setting: Setting
    ) -> None:
        super().__init__(field.path, field.predictor, field.condition, field.condition_strength)
        self.guidance, self.objective, self.setting = guidance, objective, setting

    def target(self, t: Tensor, x: Tensor) -> Tensor:
        """Ambient prediction that the velocity follows; all times ``t (n,)`` are the same."""
        strength, prediction = self.guidance.strength_at(t[0].item()), self.predict(t, x)
        if not strength:
            return prediction
        scale, condition = self.setting.scale, self.gaussian_condition
        if self.guidance.at == "point":
            return prediction - self.path.shift(t, strength * self._gradient(x) / scale)
        gaussian, gradient = self.setting.gaussian, self._gradient(prediction)
        shift = strength * gaussian.apply_covariance(t, gradient, condition)
        variance = gaussian(t, x * scale, condition).variance
        shift = shift * (variance / (variance + shift.square().mean(1, keepdim=True))).sqrt()
        return prediction - shift / scale

    def rows(self, part: slice) -> GuidedField:
        """The field for a part of the points."""
        return GuidedField(super().rows(part), self.guidance, self.objective, self.setting)

    def _gradient(self, x: Tensor) -> Tensor:
        advice = f"lower strength (now {self.guidance.strength:g})"
        return objective_gradient(self.objective, self.setting, x, advice)


def objective_gradient(objective: Objective, setting: Setting, x: Tensor, advice: str) -> Tensor:
    """Gradient ``(n, n_coordinates)`` at points, in coordinates of unit variance.

    Taken through the projection to the manifold, so that it is tangent at points of it.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(value_sum(objective, setting, leaf), leaf)
    return check_finite(gradient, "the gradient of the guidance objective", advice) / setting.scale


def value_sum(objective: Objective, setting: Setting, x: Tensor) -> Tensor:
    """Sum over networks of the objective at the projections of points ``(n, n_coordinates)``."""
    values = objective(setting.to_weights(setting.project(x)))
    if values.shape != (len(x),):
        raise ValueError(
            f"objective must return one value per network, shape ({len(x)},), got "
            f"{tuple(values.shape)}; reduce over inputs, not over networks."
        )
    return values.sum()
