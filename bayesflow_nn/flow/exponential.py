r"""Exponential Euler steps, which follow the Gaussian part of a flow exactly.

Most of the velocity is that of the Gaussian approximation, whose flow is known in closed form. An
Euler step errs in it all the same, and shortens what it carries: with few steps networks come out
less dispersed than the flow makes them. An exponential integrator (Hochbruck & Ostermann 2010)
solves the linear part of an equation exactly, and of the rest an Euler step takes what is known at
its start. Here the rest is what the network predicts beyond the Gaussian posterior mean. Counted in
posterior standard deviations it changes little in the course of a step, and is taken as constant.

On spheres the velocity is tangent, and its Gaussian part is not. What leaves the sphere belongs to
the rest, and the end of a step is projected.
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
        prediction = field.path.prediction(times, x, field(t, x))
        end = self.denoiser.advance(
            times, h, x * self.scale, prediction * self.scale, field.active_condition
        )
        return field.path.manifold.projx(end / self.scale)
