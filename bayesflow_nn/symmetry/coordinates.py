r"""Canonical coordinates of a multilayer perceptron, before standardisation.

Per hidden layer a block of unit rows and a block of biases; then the output layer, whose matrix W
(in the zero-sum basis when the logit shift is removed) is

- "polar": direction W / |W| on one sphere and log |W|; exact.
- "sphere": direction alone, with the bias divided by |W| ([E25] 6.2); keeps the arg max of the
  logits, not the probabilities.
- "euclidean": the matrix as it is; exact.

In the geometry "euclidean" the hidden layers are taken as they are and so is the output layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.symmetry.dense_layers import (
    DenseWeights,
    check_mlp,
    join_layers,
    split_layers,
)
from bayesflow_nn.symmetry.logit_shift import (
    check_shiftable,
    from_zero_sum_basis,
    to_zero_sum_basis,
)
from bayesflow_nn.symmetry.scaling import canonical_layers, check_scalable
from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.validation import name_rows


class NetworkCoordinates:
    """Bijection between networks up to their scale symmetries and a product manifold.

    Parameters
    ----------
    architecture : Architecture
        A multilayer perceptron.
    on_spheres : bool
        Whether incoming rows are normalised; else all coordinates are Euclidean.
    output_layer : {"polar", "sphere", "euclidean"}
        See above.
    logit_shift : bool
        Whether the mean over classes is left out.

    Attributes
    ----------
    manifold : ProductManifold
        Where the coordinates live.

    Raises
    ------
    ValueError
        If the architecture does not allow it.
    """

    def __init__(
        self, architecture: Architecture, on_spheres: bool, output_layer: str, logit_shift: bool
    ) -> None:
        if logit_shift:
            check_shiftable(architecture)
        if on_spheres:
            check_scalable(architecture)
        check_mlp(architecture, "this chart")
        self.architecture = architecture
        self.on_spheres = on_spheres
        self.output_layer = output_layer if on_spheres else "euclidean"
        self.logit_shift = logit_shift
        self.manifold = ProductManifold(self._blocks())

    @property
    def output_shape(self) -> tuple[int, int]:
        """Shape of the output matrix in coordinates."""
        output = self.architecture.layers[-1]
        return output.n_out - self.logit_shift, output.n_in

    @property
    def orbits(self) -> Tensor:
        """Index ``(n_coordinates,)`` of the orbit of every coordinate under orders of neurons.

        Permutations of hidden neurons move a coordinate to any other of its orbit and to no other.
        Inputs and outputs keep their places, so that there are as many orbits for any widths of the
        hidden layers, in the same order.
        """
        pieces = []
        for place, (n_out, n_in) in enumerate(self._shapes):
            rows = torch.arange(n_out) * (place + 1 == len(self._shapes))
            columns = torch.arange(n_in) * (place == 0)
            matrix = rows[:, None] * (columns[-1] + 1) + columns
            pieces += self._join(place, matrix.flatten(), torch.zeros_like(rows[:1]), rows)
        starts = accumulate((int(piece[-1]) + 1 for piece in pieces), initial=0)
        return torch.cat([start + piece for start, piece in zip(starts, pieces, strict=False)])

    @property
    def fan_in(self) -> Tensor:
        """Number ``(n_coordinates,)`` of hidden neurons over which each weight's sum runs, else 1.

        It is 1 for weights of inputs, biases and norms.
        """
        pieces = []
        for place, (n_out, n_in) in enumerate(self._shapes):
            matrix = torch.full((n_out * n_in,), n_in if place else 1)
            one = torch.ones(n_out, dtype=torch.int64)
            pieces += self._join(place, matrix, one[:1], one)
        return torch.cat(pieces)

    def encode(self, weights: Tensor) -> Tensor:
        """Coordinates ``(n_networks, n_coordinates)`` of weights ``(n_networks, n_weights)``."""
        if self.on_spheres:
            layers = canonical_layers(self.architecture, weights)
        else:
            layers = split_layers(self.architecture, weights)
        output = to_zero_sum_basis(layers[-1]) if self.logit_shift else layers[-1]
        hidden = [join_layers(layers[:-1])] if len(layers) > 1 else []
        return torch.cat([*hidden, *self._encode_output(output)], dim=-1)

    def decode(self, coordinates: Tensor) -> Tensor:
        """Weights ``(..., n_weights)`` of coordinates ``(..., n_coordinates)``; no projection."""
        widths = [block.n_coordinates for block in self.manifold.blocks]
        pieces = iter(coordinates.split(widths, dim=-1))
        layers = [
            DenseWeights(
                next(pieces).unflatten(-1, (layer.n_out, layer.n_in)),
                None if layer.bias is None else next(pieces),
            )
            for layer in self.architecture.layers[:-1]
        ]
        output = self._decode_output(pieces)
        layers.append(from_zero_sum_basis(output) if self.logit_shift else output)
        return join_layers(layers)

    def log_polar_jacobian(self, coordinates: Tensor) -> Tensor:
        """m log r ``(...,)`` of the output matrix of m entries; zero unless it is polar."""
        if self.output_layer != "polar":
            return coordinates.new_zeros(coordinates.shape[:-1])
        n_out, n_in = self.output_shape
        has_bias = self.architecture.layers[-1].bias is not None
        column = -1 - (n_out if has_bias else 0)
        return n_out * n_in * coordinates[..., column]

    def _encode_output(self, output: DenseWeights) -> list[Tensor]:
        matrix, bias = output.matrix.flatten(-2), output.bias
        if self.output_layer == "euclidean":
            return [matrix] if bias is None else [matrix, bias]
        norm = torch.linalg.vector_norm(matrix, dim=-1, keepdim=True)
        _check_norms(norm.squeeze(-1))
        if self.output_layer == "polar":
            return [matrix / norm, norm.log()] + ([] if bias is None else [bias])
        return [matrix / norm] + ([] if bias is None else [bias / norm])

    def _decode_output(self, pieces: Iterator[Tensor]) -> DenseWeights:
        matrix = next(pieces).unflatten(-1, self.output_shape)
        if self.output_layer == "polar":
            matrix = next(pieces).exp().unsqueeze(-1) * matrix
        return DenseWeights(matrix, next(pieces, None))

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        """Shapes of the matrices in coordinates."""
        return [
            *((layer.n_out, layer.n_in) for layer in self.architecture.layers[:-1]),
            self.output_shape,
        ]

    def _join(self, place: int, matrix: Tensor, log_norm: Tensor, bias: Tensor) -> list[Tensor]:
        """What there is of a layer, in the order of coordinates."""
        has_norm = place + 1 == len(self._shapes) and self.output_layer == "polar"
        has_bias = self.architecture.layers[place].bias is not None
        return [matrix, *([log_norm] if has_norm else []), *([bias] if has_bias else [])]

    def _blocks(self) -> list[SphereBlock | EuclideanBlock]:
        blocks: list[SphereBlock | EuclideanBlock] = []
        for layer in self.architecture.layers[:-1]:
            blocks.append(self._matrix_block(layer.n_out, layer.n_in, self.on_spheres))
            if layer.bias is not None:
                blocks.append(EuclideanBlock(layer.n_out))
        n_out, n_in = self.output_shape
        blocks.append(self._matrix_block(1, n_out * n_in, self.output_layer != "euclidean"))
        if self.output_layer == "polar":
            blocks.append(EuclideanBlock(1))
        if self.architecture.layers[-1].bias is not None:
            blocks.append(EuclideanBlock(n_out))
        return blocks

    @staticmethod
    def _matrix_block(
        n_rows: int, n_columns: int, on_spheres: bool
    ) -> SphereBlock | EuclideanBlock:
        if not on_spheres:
            return EuclideanBlock(n_rows * n_columns)
        if n_columns == 1:
            raise ValueError(
                "architecture has a layer whose rows hold a single weight; their directions are "
                "two isolated points, on which nothing can flow; use geometry='euclidean'."
            )
        return SphereBlock(n_rows, n_columns)


class ArrayCoordinates:
    """Any array, each column one coordinate.

    Parameters
    ----------
    n_features : int
        Number of columns.

    Attributes
    ----------
    manifold : ProductManifold
        Euclidean space.
    weight_order : Tensor of int64, shape (n_features,)
        Column that each coordinate is.
    """

    def __init__(self, n_features: int) -> None:
        self.manifold = ProductManifold([EuclideanBlock(n_features)])
        self.weight_order = torch.arange(n_features)

    def encode(self, features: Tensor) -> Tensor:
        """Check the number of columns; nothing to change."""
        self.manifold.check_points(features)
        return features

    def decode(self, coordinates: Tensor) -> Tensor:
        """Return the coordinates."""
        return coordinates

    def log_polar_jacobian(self, coordinates: Tensor) -> Tensor:
        """Zero ``(...,)``; nothing is polar."""
        return coordinates.new_zeros(coordinates.shape[:-1])


def _check_norms(norm: Tensor) -> None:
    zero = norm == 0
    if zero.any():
        raise ValueError(
            f"weights of networks {name_rows(zero)} have a zero output layer, which has no "
            f"direction; drop these networks or use output_layer='euclidean'."
        )
