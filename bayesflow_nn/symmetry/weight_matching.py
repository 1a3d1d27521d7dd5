r"""Weight matching [A23, algorithm 1], for all networks at once.

Given a reference network, find for every network the permutations P_l of its hidden layers that
maximise the inner product with the reference,

.. math:: \sum_l \langle W^{ref}_l, P_l W_l P_{l-1}^T \rangle + \langle b^{ref}_l, P_l b_l \rangle .

Coordinate descent: with its neighbours fixed, P_l is a linear assignment with the similarity
:math:`W^{ref}_l (W_l P_{l-1}^T)^T + b^{ref}_l b_l^T + (W^{ref}_{l+1})^T P_{l+1} W_{l+1}`, one batch
of matrix products for all networks. A layer is solved again only in the networks where a neighbour
moved, so converged networks cost nothing. The start takes the layers from the input on, each by
what is already known of it; it does not look at the order the neurons come in, hence permuting
them does not change the result (up to ties).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bayesflow_nn.symmetry.dense_layers import (
    HOMOGENEOUS_ACTIVATIONS,
    DenseWeights,
    hidden_activation,
    split_layers,
)
from bayesflow_nn.symmetry.logit_shift import remove_logit_shift
from bayesflow_nn.symmetry.row_scale import normalise_rows
from bayesflow_nn.weights import Architecture

_OUTPUT_COLUMN_NORM = 0.5
"""Root-mean-square norm of the output columns, where incoming rows have norm 1 (see below)."""

_CHUNK_BYTES = 64 * 2**20
"""Similarities and copied weights held at a time."""


def matching_layers(
    architecture: Architecture, weights: Tensor, *, logit_shift: bool
) -> list[DenseWeights]:
    """Layers in the scale in which they are compared.

    Homogeneous networks are compared on canonical scale: every incoming row has norm 1. The
    output layer then carries the scale of the whole network, which says nothing about *which*
    neuron is which; it is normalised per network so that its columns have norm 1/2 (rms). Measured
    on digits (64-32-10) and breast cancer (30-16-16-2): between 1/3 and 1, a Gaussian fit to the
    aligned networks generates the best networks (digits, sampled NLL .75 against .89 with the
    scale left in), within 1 % of the least squared distance to the barycentre in the chart.

    Parameters
    ----------
    architecture : Architecture
        A multilayer perceptron. Activations without scale symmetry are compared as they are.
    weights : Tensor of shape (n_networks, n_weights)
    logit_shift : bool
        Whether the mean over classes of the output layer is left out of the comparison.

    Returns
    -------
    list of DenseWeights
    """
    layers = split_layers(architecture, weights)
    if logit_shift:
        layers[-1] = remove_logit_shift(layers[-1])
    if architecture.activation not in HOMOGENEOUS_ACTIVATIONS:
        return layers
    layers, _ = normalise_rows(layers, hidden_activation(architecture))
    output = layers[-1].matrix
    norm = torch.linalg.matrix_norm(output, keepdim=True)
    target = _OUTPUT_COLUMN_NORM * output.shape[-1] ** 0.5
    scale = target / torch.where(norm == 0, 1, norm)
    return [*layers[:-1], DenseWeights(output * scale, layers[-1].bias)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch on one core.

    Assignments run one after the other, and the products between them are small: a second thread
    gains nothing, and its waiting costs a factor of ten on a busy machine.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@_one_thread()
def match_weights(
    layers: Sequence[DenseWeights], reference: Sequence[DenseWeights]
) -> list[Tensor]:
    """Permutations of the hidden neurons that bring every network close to the reference.

    Parameters
    ----------
    layers : sequence of DenseWeights
        Networks, ``(n_networks, n_out, n_in)`` and ``(n_networks, n_out)``.
    reference : sequence of DenseWeights
        One network, ``(n_out, n_in)`` and ``(n_out,)``.

    Returns
    -------
    list of Tensor of shape (n_networks, n_hidden)
        One per hidden layer; neuron ``i`` of the aligned network is neuron ``permutation[:, i]``
        of the given one. No single layer can be permuted further with gain.
    """
    n_networks = len(layers[0].matrix)
    chunk_size = _chunk_size(layers)
    chunks = []
    for start in range(0, n_networks, chunk_size):
        rows = slice(start, start + chunk_size)
        descent = _CoordinateDescent([_select(layer, rows) for layer in layers], reference)
        descent.run()
        chunks.append(descent.permutations)
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]


def permute_neurons(
    layers: Sequence[DenseWeights], permutations: Sequence[Tensor]
) -> list[DenseWeights]:
    """Reorder the hidden neurons: rows and bias of their own layer, columns of the next.

    Parameters
    ----------
    layers : sequence of DenseWeights
        Networks, ``(n_networks, n_out, n_in)`` and ``(n_networks, n_out)``.
    permutations : sequence of Tensor of shape (n_networks, n_hidden)
        One per hidden layer.

    Returns
    -------
    list of DenseWeights
        Networks that compute the same function.
    """
    layers = list(layers)
    for index, permutation in enumerate(permutations):
        layers[index : index + 2] = _permute_layer(layers[index], layers[index + 1], permutation)
    return layers


def _chunk_size(layers: Sequence[DenseWeights]) -> int:
    """Networks whose similarities and copied weights fit into the bound together."""
    n_weights = sum(layer.matrix[0].numel() for layer in layers)
    n_similarities = max((layer.matrix.shape[1] ** 2 for layer in layers[:-1]), default=0)
    bytes_per_network = (n_weights + n_similarities) * layers[0].matrix.element_size()
    return max(1, _CHUNK_BYTES // bytes_per_network)


class _CoordinateDescent:
    """Networks on their way to the reference, and which of their layers are still to be solved."""

    def __init__(self, layers: Sequence[DenseWeights], reference: Sequence[DenseWeights]) -> None:
        # Copies, since networks that move are overwritten row by row.
        self.layers = [_map(torch.clone, layer) for layer in layers]
        self.reference = reference
        n_networks, device = len(layers[0].matrix), layers[0].matrix.device
        self.permutations = [
            torch.arange(layer.matrix.shape[1], device=device).repeat(n_networks, 1)
            for layer in layers[:-1]
        ]
        self.stale = torch.ones(n_networks, len(layers) - 1, dtype=torch.bool, device=device)

    def run(self) -> None:
        """Solve stale layers until none is left; ends because every move gains."""
        self._start()
        while self.stale.any():
            for index in range(len(self.permutations)):
                rows = self.stale[:, index].nonzero().squeeze(-1)
                if len(rows) > 0:
                    self._solve(index, rows)

    def _start(self) -> None:
        """Match every layer by its incoming weights, the last hidden one by its output as well."""
        last = len(self.permutations) - 1
        rows = torch.arange(len(self.stale), device=self.stale.device)
        for index in range(len(self.permutations)):
            similarity = _incoming_similarity(self.layers[index], self.reference[index])
            if index == last:
                similarity += _outgoing_similarity(self.layers[-1], self.reference[-1])
                self.stale[:, last] = False
            self._permute(index, rows, _assign(similarity))

    def _solve(self, index: int, rows: Tensor) -> None:
        similarity = self._similarity(index, rows)
        permutation = _assign(similarity)
        gains = _gains(similarity, permutation)
        moved = rows[gains]
        self._permute(index, moved, permutation[gains])
        self.stale[rows, index] = False
        for neighbour in {index - 1, index + 1} & set(range(len(self.permutations))):
            self.stale[moved, neighbour] = True

    def _similarity(self, index: int, rows: Tensor) -> Tensor:
        own, following = (_select(layer, rows) for layer in self.layers[index : index + 2])
        return _incoming_similarity(own, self.reference[index]) + _outgoing_similarity(
            following, self.reference[index + 1]
        )

    def _permute(self, index: int, rows: Tensor, permutation: Tensor) -> None:
        own, following = self.layers[index : index + 2]
        new, new_following = _permute_layer(
            _select(own, rows), _select(following, rows), permutation
        )
        own.matrix[rows], following.matrix[rows] = new.matrix, new_following.matrix
        if own.bias is not None and new.bias is not None:
            own.bias[rows] = new.bias
        so_far = self.permutations[index]
        so_far[rows] = so_far[rows].gather(1, permutation)


def _permute_layer(
    layer: DenseWeights, following: DenseWeights, permutation: Tensor
) -> tuple[DenseWeights, DenseWeights]:
    rows = layer.matrix.gather(-2, permutation.unsqueeze(-1).expand_as(layer.matrix))
    bias = None if layer.bias is None else layer.bias.gather(-1, permutation)
    columns = following.matrix.gather(-1, permutation.unsqueeze(-2).expand_as(following.matrix))
    return DenseWeights(rows, bias), DenseWeights(columns, following.bias)


def _map(function: Callable[[Tensor], Tensor], layer: DenseWeights) -> DenseWeights:
    return DenseWeights(
        function(layer.matrix), None if layer.bias is None else function(layer.bias)
    )


def _select(layer: DenseWeights, rows: Tensor | slice) -> DenseWeights:
    return _map(lambda tensor: tensor[rows], layer)


def _incoming_similarity(layer: DenseWeights, reference: DenseWeights) -> Tensor:
    """Similarity ``(n_networks, n_reference, n_out)`` of incoming rows and biases."""
    similarity = reference.matrix @ layer.matrix.mT
    if layer.bias is not None and reference.bias is not None:
        similarity = similarity + reference.bias.unsqueeze(-1) * layer.bias.unsqueeze(-2)
    return similarity


def _outgoing_similarity(following: DenseWeights, reference: DenseWeights) -> Tensor:
    """Similarity ``(n_networks, n_reference, n_in)`` of the columns of the next layer."""
    return reference.matrix.mT @ following.matrix


def _assign(similarity: Tensor) -> Tensor:
    """Optimal assignments ``(n_networks, n)``: reference neuron i gets ``result[:, i]``."""
    matrices = similarity.cpu().numpy()
    columns = [linear_sum_assignment(matrix, maximize=True)[1] for matrix in matrices]
    return torch.from_numpy(np.array(columns)).to(similarity.device)


def _gains(similarity: Tensor, permutation: Tensor) -> Tensor:
    """Networks whose similarity grows by more than rounding, so that ties cannot cycle."""
    before = similarity.diagonal(dim1=-2, dim2=-1)
    after = similarity.gather(-1, permutation.unsqueeze(-1)).squeeze(-1)
    rounding = 64 * torch.finfo(similarity.dtype).eps * similarity.abs().amax((-2, -1))
    return (after - before).sum(-1) > rounding
