r"""The standard prior on the canonical chart.

Directions of hidden neurons are uniform on their spheres; all other weights are normal: biases (per
norm of their neuron), and the output layer, in the zero-sum basis if the logit shift is removed. An
output layer in polar coordinates has the law of its weights in these coordinates: a uniform
direction, and a norm with the density :math:`r^m e^{-r^2 / 2 s^2}` with respect to log r. In the
geometry "euclidean" all weights are normal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesflow_nn.geometry import ProductManifold, SphereBlock
from bayesflow_nn.symmetry.chart import WeightChart


def log_prior(
    chart: WeightChart, weights: Tensor, scale: float, points: Tensor | None = None
) -> Tensor:
    """Log density of the standard prior, with respect to volume on the canonical manifold.

    Parameters
    ----------
    chart : WeightChart
        Fitted, of the geometry "product_sphere" or "euclidean".
    weights : Tensor of shape (n_networks, n_weights)
        Canonical, as ``chart.to_weights`` and ``chart.draw_weights`` give them.
    scale : float
        Standard deviation of the normal weights.
    points : Tensor of shape (n_networks, n_coordinates), optional
        Those of the weights, if they are known.

    Returns
    -------
    Tensor of shape (n_networks,)
        Nats.

    Raises
    ------
    ValueError
        If the geometry of the chart is "normalized".
    """
    if chart.geometry == "normalized":
        raise ValueError(
            "geometry must be 'product_sphere' or 'euclidean' for a density of networks, got "
            "'normalized', whose points become networks only by a projection."
        )
    manifold = chart.canonical_manifold
    spheres = [block for block in manifold.blocks if isinstance(block, SphereBlock)]
    is_mlp = chart.architecture is not None and chart.architecture.is_mlp
    if is_mlp and chart.geometry == "product_sphere" and chart.output_layer == "polar":
        spheres.pop()  # direction and norm of the output layer are normal together
    uniform = ProductManifold(spheres) if spheres else None
    n_normal, n_unit, log_volume = manifold.dimension, 0, 0.0
    if uniform is not None:
        n_normal -= uniform.dimension
        n_unit, log_volume = uniform.n_spheres, uniform.log_volume()
    square = weights.square().sum(-1) - n_unit
    log_normal = -square / (2 * scale**2) - n_normal * math.log(scale * math.sqrt(2 * math.pi))
    log_jacobian = chart.log_polar_jacobian(chart.to_point(weights) if points is None else points)
    return log_normal + log_jacobian - torch.as_tensor(log_volume).to(weights)
