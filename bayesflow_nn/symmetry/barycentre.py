"""Barycentre of networks modulo permutations: align to the mean, take the mean, repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bayesflow_nn.symmetry.dense_layers import DenseWeights, join_layers
from bayesflow_nn.symmetry.weight_matching import match_weights, permute_neurons


class Barycentre(NamedTuple):
    """Mean of the aligned networks.

    Parameters
    ----------
    network : list of DenseWeights
        Layers ``(n_out, n_in)`` and ``(n_out,)``.
    distances : list of float
        Mean squared distance of the networks to their mean after each iteration.
    """

    network: list[DenseWeights]
    distances: list[float]


def find_barycentre(networks: Sequence[DenseWeights], *, max_iter: int, tol: float) -> Barycentre:
    """Barycentre of networks whose hidden neurons may be reordered.

    The first network is the first reference. Which one it is hardly matters: over random choices
    the final mean squared distance varied by .1 %, where refinement lowered it by 5 % (networks
    of 30-16-16-2 and 64-32-10). Perturbing and matching again, twenty times, lowered it by 1 %
    and changed nothing in networks sampled from a Gaussian fit to the result.

    Parameters
    ----------
    networks : sequence of DenseWeights
        ``(n_networks, n_out, n_in)`` and ``(n_networks, n_out)``.
    max_iter : int
        Bound on the number of iterations.
    tol : float
        Ends when the mean squared distance falls by less than this fraction.

    Returns
    -------
    Barycentre
    """
    reference = [_take_first(layer) for layer in networks]
    distances: list[float] = []
    for _ in range(max_iter):
        aligned = permute_neurons(networks, match_weights(networks, reference))
        reference = [_mean(layer) for layer in aligned]
        deviations = join_layers(aligned) - join_layers(reference)
        distances.append(deviations.square().sum(1).mean().item())
        if len(distances) > 1 and distances[-2] - distances[-1] <= tol * distances[-2]:
            break
    return Barycentre(reference, distances)


def _take_first(layer: DenseWeights) -> DenseWeights:
    return DenseWeights(layer.matrix[0], None if layer.bias is None else layer.bias[0])


def _mean(layer: DenseWeights) -> DenseWeights:
    return DenseWeights(layer.matrix.mean(0), None if layer.bias is None else layer.bias.mean(0))
