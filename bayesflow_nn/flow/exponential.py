"""Exponential Euler steps, which solve the Gaussian part of a flow.

Most of the velocity is that of the Gaussian approximation, whose flow is known in closed form. An
Euler step errs in it all the same, and shortens what it carries: with few steps networks come out
less dispersed than the flow makes them. An exponential integrator (Hochbruck & Ostermann 2010)
solves the linear part of an equation exactly and holds the rest at its value at the start of the
step. Here the rest is what the network predicts beyond the Gaussian posterior mean, counted in
posterior standard deviations, in which it changes little.

Steps are taken in the flat space around spheres, and their ends are projected. In flat space a step
is exact if networks are Gaussian. On spheres the projection adds an error of the first order, small
in high dimension, where hardly anything leaves them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.velocity import GaussianDenoiser


@dataclass(frozen=True)
class GaussianFlow:
    """The Gaussian part of a flow.

    Attributes
    ----------
    denoiser : GaussianDenoiser
        In coordinates of unit variance.
    scale : Tensor of shape (n_coordinates,)
        Factor from points to these coordinates.
    """

    denoiser: GaussianDenoiser
    scale: Tensor

    def step(self, field: FlowField, t: Tensor, h: Tensor, x: Tensor) -> Tensor:
        """Move points ``(n, n_coordinates)`` from time `t` to `t + h` along a field."""
        times = t.expand(len(x))
        target, condition = field.target(times, x) * self.scale, field.gaussian_condition
        end = self.denoiser.advance(times, h, x * self.scale, target, condition)
        return field.path.manifold.projx(end / self.scale)
