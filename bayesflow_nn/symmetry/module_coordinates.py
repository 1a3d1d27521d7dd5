"""Canonical coordinates of any module: directions of its units on spheres, all else as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.symmetry.module_scaling import (
    ModuleScaleCanonicalizer,
    find_scales,
    unit_rows,
)
from bayesflow_nn.symmetry.scale_groups import settled_weights
from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.validation import name_rows

_UNIT = 1e-3  # deviation of a norm from one beyond all rounding


class ModuleCoordinates:
    """Bijection between modules up to the scales of their units and a product manifold.

    The incoming weights of every homogeneous and every batch-normalised unit are a point of a
    sphere (see `ModuleScaleCanonicalizer`), one block of spheres per group; biases, what no scale
    moves, and the output layer are Euclidean.

    Parameters
    ----------
    architecture : Architecture
    inputs : Tensor of shape (n_inputs, ...), optional
        On which the module is run to find its scales; by default the example of the architecture.

    Attributes
    ----------
    manifold : ProductManifold
        Where the coordinates live.
    weight_order : Tensor of int64, shape (n_coordinates,)
        Flat index of the weight that each coordinate is.

    Raises
    ------
    ValueError
        If the module has no units with a scale.
    """

    def __init__(self, architecture: Architecture, inputs: Tensor | None = None) -> None:
        self.architecture = architecture
        groups = find_scales(architecture, inputs)
        self._canonicalizer = ModuleScaleCanonicalizer(architecture, groups=groups)
        own = torch.arange(architecture.n_weights)[None]
        places = architecture.unflatten(own)
        spheres = [
            torch.cat([unit_rows(places[slot.parameter], slot)[0] for slot in measured], dim=-1)
            for group, measured in zip(groups, settled_weights(groups), strict=True)
            if group.kind != "odd" and measured
        ]
        spheres = [rows for rows in spheres if rows.shape[1] > 1]  # else two points, not a sphere
        if not spheres:
            raise ValueError(
                f"architecture must have units whose scale is free (ReLU, batch norm) for this "
                f"geometry, got {architecture!r}; use geometry='euclidean'."
            )
        rest = own[0][~torch.isin(own[0], torch.cat([rows.flatten() for rows in spheres]))]
        self.weight_order = torch.cat([*(rows.flatten() for rows in spheres), rest])
        blocks = [SphereBlock(*rows.shape) for rows in spheres]
        flat = [EuclideanBlock(len(rest))] if len(rest) else []
        self.manifold = ProductManifold([*blocks, *flat])

    def encode(self, weights: Tensor) -> Tensor:
        """Coordinates ``(n_networks, n_coordinates)`` of weights ``(n_networks, n_weights)``."""
        canonical = self._canonicalizer.fit(weights).transform(weights)
        point = canonical[:, self.weight_order.to(weights.device)]
        self._check_norms(point)
        return point

    def decode(self, coordinates: Tensor) -> Tensor:
        """Weights ``(..., n_weights)`` of coordinates ``(..., n_coordinates)``; no projection."""
        return coordinates[..., self.weight_order.argsort().to(coordinates.device)]

    def log_polar_jacobian(self, coordinates: Tensor) -> Tensor:
        """Zero ``(...,)``; nothing is polar."""
        return coordinates.new_zeros(coordinates.shape[:-1])

    def _check_norms(self, point: Tensor) -> None:
        projected = self.manifold.projx(point)
        dead = ((projected - point).abs() > _UNIT).any(1)
        if dead.any():
            raise ValueError(
                f"weights of networks {name_rows(dead)} have units without incoming weights, which "
                f"have no direction; drop these networks or use geometry='euclidean'."
            )
