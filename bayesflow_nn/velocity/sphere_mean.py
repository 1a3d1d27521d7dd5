r"""Means of Gaussians that are known to lie on spheres.

A flat space does not know that a direction has length one: between two directions its Gaussian
posterior mean is too short, and along them its variance is too large. N(m, v I) in :math:`R^d`,
given that it lies on the sphere of radius R, is the von Mises-Fisher law of concentration
:math:`\kappa = R |m| / v` (Mardia & Jupp 2000, 9.3), with the mean

.. math::
    R \, A_d(\kappa) \frac{m}{|m|}, \qquad A_d = \frac{I_{d/2}}{I_{d/2 - 1}} \approx
    \frac{\kappa}{\frac{d - 1}{2} + \sqrt{\kappa^2 + \left(\frac{d + 1}{2}\right)^2}},

a lower bound (Amos 1974), exact without evidence and with much, and elsewhere too low by less than
the share 0.1 / d.
"""

import torch
from torch import Tensor

from bayesflow_nn.geometry import ProductManifold, SphereBlock


def condition_on_spheres(manifold: ProductManifold, mean: Tensor, variance: Tensor) -> Tensor:
    """Means of Gaussians, given that their spherical coordinates lie on spheres.

    Parameters
    ----------
    manifold : ProductManifold
        What is a sphere; what is Euclidean stays as it is.
    mean : Tensor of shape (n, n_coordinates)
        In coordinates of unit variance, where a sphere in R^d has the radius sqrt(d).
    variance : Tensor of shape (n, 1)
        Of every coordinate.

    Returns
    -------
    Tensor of shape (n, n_coordinates)

    Examples
    --------
    >>> from bayesflow_nn.geometry import EuclideanBlock
    >>> manifold = ProductManifold([SphereBlock(1, 4), EuclideanBlock(1)])
    >>> mean = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.5]])
    >>> condition_on_spheres(manifold, mean, torch.tensor([[0.01]])).round(decimals=2)
    tensor([[1.9700, 0.0000, 0.0000, 0.0000, 0.5000]])
    """
    parts = []
    for block, place in zip(manifold.blocks, manifold.slices, strict=True):
        part = mean[:, place]
        if isinstance(block, SphereBlock):
            rows = part.unflatten(1, (block.n_spheres, block.dim))
            part = (_shrinkage(rows, variance.unsqueeze(-1)) * rows).flatten(1)
        parts.append(part)
    return torch.cat(parts, dim=1)


def _shrinkage(rows: Tensor, variance: Tensor) -> Tensor:
    """R A_d(kappa) / |m| of rows ``(n, n_spheres, d)``, finite at m = 0: ``(n, n_spheres, 1)``."""
    d = rows.shape[-1]
    square = rows.square().sum(-1, keepdim=True)
    root = (d * square + (variance * (d + 1) / 2).square()).sqrt()
    return d / (variance * (d - 1) / 2 + root)
