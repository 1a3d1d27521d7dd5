"""The velocity field u(t, x) that a trained predictor and its path define."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesflow_nn.flow.path import GeodesicPath


class FlowField:
    r"""Velocity ``u(t, x)``: a function of time and point only, tangent to the manifold.

    Under a condition c it is that of the networks to which c belongs. Classifier-free guidance (Ho
    & Salimans 2022, eq. 6; Zheng et al. 2023 for flows) goes beyond: the prediction is
    :math:`\hat x(t, x) + w (\hat x(t, x, c) - \hat x(t, x))`, with the strength w.

    Parameters
    ----------
    path : GeodesicPath
    predictor : nn.Module
        Called as ``predictor(t, x)`` with ``t (n,)`` and ``x (n, n_coordinates)``, or with a third
        argument, the condition; returns the ambient prediction of the target,
        ``(n, n_coordinates)``.
    condition : Tensor of shape (n, n_features), optional
        One row for each of the n points that the field will see.
    condition_strength : float
        w; 1 is the conditional flow, 0 the unconditional one.
    """

    def __init__(
        self,
        path: GeodesicPath,
        predictor: nn.Module,
        condition: Tensor | None = None,
        condition_strength: float = 1.0,
    ) -> None:
        self.path = path
        self.predictor = predictor
        self.condition = condition
        self.condition_strength = condition_strength

    @property
    def gaussian_condition(self) -> Tensor | None:
        """Condition whose Gaussian law is nearest to the flow: none at strengths below 1/2."""
        return self.condition if self.condition_strength >= 0.5 else None

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Velocity ``(n, n_coordinates)`` at one time ``()`` for all points."""
        times = t.expand(len(x))
        return self.path.velocity(times, x, self.target(times, x))

    def target(self, t: Tensor, x: Tensor) -> Tensor:
        """Ambient prediction that the velocity follows, ``(n, n_coordinates)``, at ``t (n,)``."""
        return self.predict(t, x)

    def predict(self, t: Tensor, x: Tensor) -> Tensor:
        """Ambient prediction of the target ``(n, n_coordinates)`` at times ``t (n,)``."""
        if self.condition is None:
            return self.predictor(t, x)
        conditional = self.predictor(t, x, self.condition)
        if self.condition_strength == 1:
            return conditional
        return torch.lerp(self.predictor(t, x), conditional, self.condition_strength)

    def extended(self, t: Tensor, x: Tensor) -> Tensor:
        """The field off the manifold, constant along the radii of the spheres.

        At points of the manifold the ambient trace of its Jacobian is the intrinsic divergence.
        """
        return self(t, self.path.manifold.projx(x))

    def denoise(self, x: Tensor) -> Tensor:
        """Remove the width-floor blur from points at t = 1."""
        t = torch.ones(len(x), dtype=x.dtype, device=x.device)
        return self.path.denoise(t, x, self.predict(t, x))

    def given(self, condition: Tensor | None, strength: float = 1.0) -> FlowField:
        """The same field under a condition, or without."""
        return FlowField(self.path, self.predictor, condition, strength)

    def rows(self, part: slice) -> FlowField:
        """The field for a part of the points."""
        if self.condition is None:
            return self
        return self.given(self.condition[part], self.condition_strength)
