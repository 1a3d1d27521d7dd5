r"""Conditional probability paths with a width floor, on products of spheres and Euclidean blocks.

With :math:`\kappa(t) = 1 - (1 - \sigma) t`, the angle :math:`\varphi = \kappa \pi / 2`, t = 0 the
source and t = 1 the weights,

.. math::
    x_t &= \exp_{x_1}(\kappa \log_{x_1} x_0), &
    u_t(x_t | x_1) &= \tfrac{1 - \sigma}{\kappa} \log_{x_t} x_1
    && \text{(sphere, [CL23] eq. 13-14)} \\
    x_t &= \cos\varphi \, x_1 + \sin\varphi \, x_0, &
    u_t(x_t | x_1) &= \frac{(1 - \sigma) \pi / 2}{\sin\varphi} (x_1 - \cos\varphi \, x_t)
    && \text{(Euclidean block beside spheres)} \\
    x_t &= \kappa x_0 + t x_1, &
    u_t(x_t | x_1) &= (x_1 - (1 - \sigma) x_t) / \kappa
    && \text{(Euclidean space, [L23] eq. 22)}

The second line is what the first becomes on a sphere of high dimension, where source and target are
orthogonal. Euclidean blocks follow it beside spheres, so that all coordinates of a network have the
same ratio of signal to noise at every time, and one set of principal axes serves all times. The
straight line of the third is noisier before t = 1/2 and less noisy after it.

The floor :math:`\sigma > 0` keeps every field finite up to t = 1. All fields are affine in what a
network predicts: the target :math:`E[x_1 | x_t]`, or on a sphere an ambient vector whose tangent
part, times a fixed function of t, is :math:`E[\log_{x_t} x_1 | x_t]`. (The log of a mean point
would be biased.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayesflow_nn.geometry import ProductManifold

Predictor = Callable[[Tensor, Tensor], Tensor]


class PathSample(NamedTuple):
    """One draw of a conditional path.

    Attributes
    ----------
    t : Tensor of shape (n,)
        Times in [0, 1].
    x_0, x_1, x_t : Tensor of shape (n, n_coordinates)
        Source, target and intermediate points.
    u_t : Tensor of shape (n, n_coordinates)
        Conditional velocity at `x_t`, tangent to the manifold.
    condition : Tensor of shape (n, n_features) or None
        What is known of each target, for a predictor that takes conditions.
    """

    t: Tensor
    x_0: Tensor
    x_1: Tensor
    x_t: Tensor
    u_t: Tensor
    condition: Tensor | None = None

    @property
    def n_rows(self) -> int:
        """Number of draws."""
        return len(self.t)

    def split(self, size: int) -> list[PathSample]:
        """Parts of at most `size` draws."""
        parts = [[None] * -(-len(self.t) // size) if p is None else p.split(size) for p in self]
        return [PathSample(*part) for part in zip(*parts, strict=True)]


class GeodesicPath:
    """The path of the module's equations on a product manifold.

    Parameters
    ----------
    manifold : ProductManifold
    sigma : float
        Width floor, 0 < sigma < 1: the fraction of the source noise that is left at t = 1.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.geometry import EuclideanBlock, ProductManifold
    >>> path = GeodesicPath(ProductManifold([EuclideanBlock(1)]), sigma=0.5)
    >>> draw = path.sample(torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([[10.0]]))
    >>> draw.x_t
    tensor([[12.]])
    """

    def __init__(self, manifold: ProductManifold, sigma: float) -> None:
        self.manifold = manifold
        self.sigma = sigma
        self._on_sphere = manifold.sphere_mask

    def kappa(self, t: Tensor) -> Tensor:
        """Width of the source noise at time `t`, from 1 down to sigma."""
        return 1 - (1 - self.sigma) * t

    def sample(self, t: Tensor, x_0: Tensor, x_1: Tensor) -> PathSample:
        """Draw ``x_t`` and its conditional velocity for pairs of source and target points."""
        signal, noise = self.schedule(t)
        rate, pull = self._rate_and_pull(t)
        x_t = signal * x_1 + noise * x_0
        if not self.manifold.n_spheres:
            return PathSample(t, x_0, x_1, x_t, rate * (x_1 - pull * x_t))
        kappa, manifold, on_sphere = self.kappa(t)[:, None], self.manifold, self._mask(x_1)
        x_t = torch.where(on_sphere, manifold.expmap(x_1, kappa * manifold.logmap(x_1, x_0)), x_t)
        along_geodesic = manifold.logmap(x_t, x_1) * (1 - self.sigma) / kappa
        u_t = torch.where(on_sphere, along_geodesic, rate * (x_1 - pull * x_t))
        return PathSample(t, x_0, x_1, x_t, u_t)

    def velocity(self, t: Tensor, x: Tensor, prediction: Tensor) -> Tensor:
        r"""Tangent velocity ``(n, n_coordinates)`` from an ambient prediction of the target.

        On spheres the tangent part of the prediction is scaled as in a Euclidean block:
        by :math:`\varphi / \sin\varphi` against the log map, the ratio of the two where source and
        target are orthogonal, so that a predictor of :math:`E[x_1 | x_t]` serves there too.
        """
        rate, pull = self._rate_and_pull(t)
        return self.manifold.proju(x, rate * (prediction - pull * x))

    def shift(self, t: Tensor, change: Tensor) -> Tensor:
        """Change of the prediction that changes the velocity by this, ``(n, n_coordinates)``."""
        return change / self._rate_and_pull(t)[0]

    def denoise(self, t: Tensor, x: Tensor, prediction: Tensor) -> Tensor:
        """Move `x` to where the prediction says its target lies (no noise is left at t = 1)."""
        if not self.manifold.n_spheres:
            return prediction
        remaining = self.kappa(t)[:, None] / (1 - self.sigma)
        moved = self.manifold.expmap(x, remaining * self.velocity(t, x, prediction))
        return torch.where(self._mask(x), moved, prediction)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Weights of target and source in ``x_t``, each ``(n, 1)``.

        Exact in Euclidean blocks; on spheres where source and target are orthogonal, as nearly all
        pairs on a sphere of high dimension are.
        """
        kappa = self.kappa(t)[:, None]
        if not self.manifold.n_spheres:
            return t[:, None], kappa
        angle = kappa * (math.pi / 2)
        return torch.cos(angle), torch.sin(angle)

    def _rate_and_pull(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients ``(n, 1)`` of the velocity: rate (prediction - pull x)."""
        signal, noise = self.schedule(t)
        if not self.manifold.n_spheres:
            return 1 / noise, torch.full_like(noise, 1 - self.sigma)
        return (1 - self.sigma) * (math.pi / 2) / noise, signal

    def _mask(self, like: Tensor) -> Tensor:
        if self._on_sphere.device != like.device:
            self._on_sphere = self._on_sphere.to(like.device)
        return self._on_sphere
