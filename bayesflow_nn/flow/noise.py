r"""Stochastic sampling: fresh noise on the way from the source to the networks.

Both kinds are applied between the steps of a solver, are tangent to the manifold, and follow
geodesics. Noise is given in coordinates of unit variance, so that one number fits all factors: on a
sphere in :math:`R^d` it is divided by :math:`\sqrt d`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesflow_nn.flow.field import FlowField


@dataclass(frozen=True)
class StepNoise:
    r"""White noise before every step ([E25] 6.5), :math:`\epsilon \sqrt h \, \xi`.

    It widens what the flow generates, whatever the number of steps, and does not preserve the
    distribution of the networks; :class:`Refresh` does.

    Parameters
    ----------
    scale : float
        :math:`\epsilon`, standard deviation gathered over unit time, in unit-variance coordinates.
    start, end : float
        Part of the trajectory that gets noise.

    Examples
    --------
    >>> StepNoise(0.05, end=0.8)
    StepNoise(scale=0.05, start=0.0, end=0.8)
    """

    scale: float
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("StepNoise: scale", self.scale)
        _check_interval("StepNoise", self.start, self.end)

    def perturb(
        self, field: FlowField, t: Tensor, h: Tensor, x: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Move points ``(n, n_coordinates)`` by the noise of a step `h` that starts at `t`."""
        if not self.start <= t < self.end:
            return x
        return _walk(field, x, torch.zeros_like(x), self.scale * h.abs().sqrt(), generator)


@dataclass(frozen=True)
class Refresh:
    r"""Forget the source noise and draw it anew, at a rate, keeping all marginals.

    The stochastic equation with the marginals of the flow (Song et al. 2021, section 4),

    .. math::
        dx = \left(u + \tfrac12 g^2 \nabla \log p_t(x)\right) dt + g \, dW, \qquad
        \nabla \log p_t(x) = \frac{b \, E[x_1 | x_t] - x}{a^2},

    has the score of the path :math:`x_t = b x_1 + a x_0` from the same prediction as the velocity.
    With :math:`g^2 = 2 r a^2` it draws the part :math:`a x_0` of the point anew at the rate r; its
    steps between those of the solver are exact for the prediction at their start,

    .. math::
        x \leftarrow b \hat x_1 + \rho (x - b \hat x_1) + a \sqrt{1 - \rho^2} \, \xi, \qquad
        \rho = e^{-r h} .

    On spheres the formula holds in the tangent space, up to terms of the order of 1 / dimension.

    Parameters
    ----------
    rate : float
        r, per unit time: at 1, a share 1/e of the source noise survives.
    start, end : float
        Part of the trajectory on which noise is drawn anew.

    Examples
    --------
    >>> Refresh(1.0)
    Refresh(rate=1.0, start=0.0, end=1.0)
    """

    rate: float
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("Refresh: rate", self.rate)
        _check_interval("Refresh", self.start, self.end)

    def perturb(
        self, field: FlowField, t: Tensor, h: Tensor, x: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Refresh the noise in points ``(n, n_coordinates)`` as much as belongs to a step `h`."""
        if not self.start <= t < self.end:
            return x
        times = t.expand(len(x))
        signal, width = field.path.schedule(times)
        kept = torch.exp(-self.rate * h.abs())
        towards = (1 - kept) * (signal * field.predict(times, x) - x)
        return _walk(field, x, towards, width * (1 - kept.square()).sqrt(), generator)


Noise = StepNoise | Refresh


def _walk(
    field: FlowField, x: Tensor, drift: Tensor, width: Tensor, generator: torch.Generator
) -> Tensor:
    """Follow the geodesic of the tangent part of drift + width x noise."""
    manifold = field.path.manifold
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    step = drift + width * noise / manifold.unit_scale.to(x)
    return manifold.expmap(x, manifold.proju(x, step))


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(
            f"{name} must be a positive number, got {value!r}; for none leave noise=None"
        )


def _check_interval(owner: str, start: float, end: float) -> None:
    if not 0 <= start < end <= 1:
        raise ValueError(
            f"{owner}: start and end must satisfy 0 <= start < end <= 1, got {start!r} and {end!r}"
        )
