"""Guidance before and after the flow: steps of an optimizer, or Langevin dynamics, on all networks.

Steps are in coordinates of unit variance. After the flow they follow the geodesics of the spheres.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import trange

from bayesflow_nn.flow.guidance import Guidance, Objective
from bayesflow_nn.flow.guided import Setting, objective_gradient, value_sum
from bayesflow_nn.flow.ode import check_finite
from bayesflow_nn.geometry import ProductManifold

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's


def finish(
    x: Tensor,
    guidance: Guidance,
    objective: Objective,
    setting: Setting,
    *,
    condition: Tensor | None = None,
    progress: bool = False,
) -> Tensor:
    """Take the steps after t = 1.

    Parameters
    ----------
    x : Tensor of shape (n, n_coordinates)
        Networks.
    guidance : Guidance
    objective : callable
    setting : Setting
    condition : Tensor of shape (n, n_features), optional
        Condition of every network.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor of shape (n, n_coordinates)
        Networks on the manifold.

    Raises
    ------
    SolverError
        If a network diverges; its row and the step are named.
    """
    size, rule = guidance.finish_step_size, _RULES[guidance.finish](guidance, setting, condition)
    advice = f"lower finish_step_size (now {size:g})"
    for step in trange(guidance.finish_steps, disable=not progress, desc="finish", leave=False):
        where = f"in step {step + 1} after t = 1; {advice}"
        gradient = objective_gradient(objective, setting, x, where)
        x = setting.move(x, rule(x, gradient) / setting.scale)
    return check_finite(x, f"finish={guidance.finish!r}", advice)


def search_source(
    x_0: Tensor,
    flow: Callable[[Tensor], Tensor],
    guidance: Guidance,
    objective: Objective,
    setting: Setting,
    *,
    manifold: ProductManifold,
    progress: bool = False,
) -> Tensor:
    """Move source points so that the networks they flow to have a lower objective.

    Directions stay on their spheres, and the Euclidean part of a point keeps its length, so that it
    stays typical of the source.

    Parameters
    ----------
    x_0 : Tensor of shape (n, n_coordinates)
    flow : callable
        Source points to points of networks, differentiable.
    guidance : Guidance
    objective : callable
    setting : Setting
    manifold : ProductManifold
        That of the source.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor of shape (n, n_coordinates)
    """
    rule, flat = _Adam(guidance.source_step_size), manifold.euclidean_mask.to(x_0.device)
    length = torch.linalg.vector_norm(x_0 * flat, dim=1, keepdim=True)
    for step in trange(guidance.source_steps, disable=not progress, desc="source", leave=False):
        with torch.enable_grad():
            leaf = x_0.detach().requires_grad_()
            value_sum(objective, setting, flow(leaf)).backward()
        where = f"in step {step + 1} on the source; lower source_step_size"
        gradient = check_finite(leaf.grad, "the gradient of the guidance objective", where)
        gradient = manifold.proju(x_0, gradient) / setting.scale
        x_0 = manifold.projx(x_0 + rule(gradient) / setting.scale)
        moved = torch.linalg.vector_norm(x_0 * flat, dim=1, keepdim=True)
        x_0 = torch.where(flat, x_0 * (length / moved), x_0)
    return x_0


class _Adam:
    """Kingma & Ba (2015), on the tangent gradient; no transport of the moments."""

    def __init__(self, size: float) -> None:
        self.size, self.n_steps = size, 0
        self.mean = self.square = None

    def __call__(self, gradient: Tensor) -> Tensor:
        if self.mean is None:
            self.mean, self.square = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.n_steps += 1
        self.mean = torch.lerp(gradient, self.mean, _BETA_1)
        self.square = torch.lerp(gradient.square(), self.square, _BETA_2)
        mean = self.mean / (1 - _BETA_1**self.n_steps)
        square = self.square / (1 - _BETA_2**self.n_steps)
        return -self.size * mean / (square.sqrt() + _EPSILON)


class _AdamRule:
    def __init__(self, guidance: Guidance, setting: Setting, condition: Tensor | None) -> None:
        self.adam = _Adam(guidance.finish_step_size)

    def __call__(self, x: Tensor, gradient: Tensor) -> Tensor:
        return self.adam(gradient)


class _CovarianceRule:
    """Steps along minus the covariance times the gradient, of one root mean square for all."""

    def __init__(self, guidance: Guidance, setting: Setting, condition: Tensor | None) -> None:
        self.size, self.gaussian = guidance.finish_step_size, setting.gaussian
        self.condition = condition

    def __call__(self, x: Tensor, gradient: Tensor) -> Tensor:
        start = x.new_zeros(len(x))  # at t = 0 the covariance is that of the networks
        direction = self.gaussian.apply_covariance(start, gradient, self.condition)
        length = direction.square().mean(1, keepdim=True).sqrt()
        return -self.size * direction / length.clamp_min(torch.finfo(x.dtype).tiny)


class _LangevinRule:
    r"""Steps of :math:`dx = -C \nabla U \, dt + \sqrt{2 C} \, dW`, U = Gaussian + objective."""

    def __init__(self, guidance: Guidance, setting: Setting, condition: Tensor | None) -> None:
        self.size, self.strength = guidance.finish_step_size, guidance.strength
        self.setting, self.condition = setting, condition

    def __call__(self, x: Tensor, gradient: Tensor) -> Tensor:
        gaussian, generator = self.setting.gaussian, self.setting.generator
        start, x = x.new_zeros(len(x)), x * self.setting.scale
        # C times the gradient of the Gaussian's energy is the distance from its mean, which is what
        # the denoiser predicts at t = 0.
        drift = x - gaussian(start, x, self.condition).mean
        drift += self.strength * gaussian.apply_covariance(start, gradient, self.condition)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        noise = gaussian.apply_covariance(start, noise, self.condition, power=0.5)
        return -self.size * drift + math.sqrt(2 * self.size) * noise


_RULES = {"adam": _AdamRule, "covariance": _CovarianceRule, "langevin": _LangevinRule}
