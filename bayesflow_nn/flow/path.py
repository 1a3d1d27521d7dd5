r"""Conditional probability paths with a width floor, on products of spheres and Euclidean blocks.

With :math:`\kappa(t) = 1 - (1 - \sigma) t`, t = 0 the source and t = 1 the weights,

.. math::
    x_t &= \kappa x_0 + t x_1, &
    u_t(x_t | x_1) &= (x_1 - (1 - \sigma) x_t) / \kappa
    && \text{(Euclidean, [L23] eq. 22)} \\
    x_t &= \exp_{x_1}(\kappa \log_{x_1} x_0), &
    u_t(x_t | x_1) &= \tfrac{1 - \sigma}{\kappa} \log_{x_t} x_1
    && \text{(sphere, [CL23] eq. 13-14)}

The floor :math:`\sigma > 0` keeps every field finite up to t = 1. Both fields are affine in what a
network predicts: the target :math:`E[x_1 | x_t]`, or on a sphere an ambient vector whose tangent
part, times a fixed function of t, is :math:`E[\log_{x_t} x_1 | x_t]`. (The log of a mean point
would be biased.)
"""

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
    """

    t: Tensor
    x_0: Tensor
    x_1: Tensor
    x_t: Tensor
    u_t: Tensor


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
        kappa, manifold = self.kappa(t)[:, None], self.manifold
        flat = kappa * x_0 + t[:, None] * x_1
        if not manifold.n_spheres:
            return PathSample(t, x_0, x_1, flat, (x_1 - (1 - self.sigma) * flat) / kappa)
        geodesic = manifold.expmap(x_1, kappa * manifold.logmap(x_1, x_0))
        x_t = torch.where(self._mask(x_1), geodesic, flat)
        reached = manifold.logmap(x_t, x_1) * (1 - self.sigma)
        u_t = torch.where(self._mask(x_1), reached, x_1 - (1 - self.sigma) * x_t) / kappa
        return PathSample(t, x_0, x_1, x_t, u_t)

    def velocity(self, t: Tensor, x: Tensor, prediction: Tensor) -> Tensor:
        r"""Tangent velocity ``(n, n_coordinates)`` from an ambient prediction of the target.

        On spheres the prediction is scaled by :math:`\varphi / \sin\varphi` with
        :math:`\varphi = \kappa \pi / 2`, the ratio between the log map and the tangent part of its
        target at the typical distance, so that a predictor of :math:`E[x_1 | x_t]` serves there
        too.
        """
        kappa = self.kappa(t)[:, None]
        euclidean = prediction - (1 - self.sigma) * x
        if not self.manifold.n_spheres:
            return euclidean / kappa
        angle = kappa * (math.pi / 2)
        tangent = (1 - self.sigma) * angle / torch.sin(angle) * prediction
        ambient = torch.where(self._mask(x), tangent, euclidean) / kappa
        return self.manifold.proju(x, ambient)

    def denoise(self, t: Tensor, x: Tensor, prediction: Tensor) -> Tensor:
        """Move `x` to where the prediction says its target lies (no noise is left at t = 1)."""
        remaining = self.kappa(t)[:, None] / (1 - self.sigma)
        step = remaining * self.velocity(t, x, prediction)
        moved = self.manifold.expmap(x, step)
        return torch.where(self._mask(x), moved, prediction)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Weights of signal and noise in ``x_t``, each ``(n, 2)``: Euclidean blocks, spheres.

        Exact in Euclidean blocks, :math:`(t, \kappa)`; on spheres
        :math:`(\cos \kappa \pi/2, \sin \kappa \pi/2)`, which holds where source and target are
        orthogonal, as nearly all pairs on a sphere of high dimension are.
        """
        kappa = self.kappa(t)
        angle = kappa * (math.pi / 2)
        signal = torch.stack([t, torch.cos(angle)], dim=1)
        return signal, torch.stack([kappa, torch.sin(angle)], dim=1)

    @property
    def schedule_group(self) -> Tensor:
        """Column of `schedule` for each coordinate, ``(n_coordinates,)``."""
        return self.manifold.sphere_mask.long()

    def _mask(self, like: Tensor) -> Tensor:
        if self._on_sphere.device != like.device:
            self._on_sphere = self._on_sphere.to(like.device)
        return self._on_sphere
