"""How uncertain predicted classes are, and why: noise in the data, or networks that disagree.

    H[p] = - sum_c p_c log p_c                                     entropy, nats
    H[sum_k w_k p_k] = sum_k w_k H[p_k] + I                        total = aleatoric + epistemic

with the class probabilities p_k of network k and its weight w_k, of sum one [D18].
The expected entropy, the aleatoric part, is what each network takes for noise, and more data do not
remove it. The rest I >= 0 is the mutual information of the class and the network [G16]: what the
posterior leaves open.

[D18] S. Depeweg et al., Decomposition of uncertainty in Bayesian deep learning for efficient and
risk-sensitive learning, ICML 2018, arXiv 1710.07283.
[G16] Y. Gal, Uncertainty in deep learning, PhD thesis, University of Cambridge 2016.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.predictive.tiles import (
    CHUNK_SIZE,
    Tiles,
    class_probabilities,
    like,
    normalised,
)
from bayesflow_nn.weights import Architecture


class Uncertainty(NamedTuple):
    """Entropies of the predicted class in nats, ``(n_inputs,)`` each.

    Attributes
    ----------
    total : array or Tensor of shape (n_inputs,)
        Entropy of the model average, up to the log of the number of classes.
    aleatoric : array or Tensor of shape (n_inputs,)
        Mean entropy of the networks.
    epistemic : array or Tensor of shape (n_inputs,)
        Mutual information of class and network, the difference of the two.
    """

    total: Tensor | np.ndarray
    aleatoric: Tensor | np.ndarray
    epistemic: Tensor | np.ndarray


class ClassAverages(NamedTuple):
    """Class probabilities and entropies averaged over networks, float64.

    Attributes
    ----------
    proba : Tensor of shape (n_classes, n_inputs)
    entropy : Tensor of shape (n_inputs,)
        Mean entropy of the networks, in nats.
    """

    proba: Tensor
    entropy: Tensor

    def uncertainty(self) -> Uncertainty:
        """Parts of the uncertainty, float64."""
        total = torch.special.entr(self.proba).sum(0)
        # Rounding may leave networks that agree just below zero.
        return Uncertainty(total, self.entropy, (total - self.entropy).clamp_min(0))


def predict_uncertainty(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Uncertainty:
    """Uncertainty about the class of every input, split into noise and disagreement.

    Parameters and errors are those of `predict_proba`.

    Returns
    -------
    Uncertainty
        `total`, `aleatoric` and `epistemic`, ``(n_inputs,)`` each, in nats, of the kind of `X` and
        in the dtype of `weights`.

    Examples
    --------
    Two networks are sure of different classes: log 2, and none of it noise.

    >>> linear = Architecture.mlp([1, 2], bias=False)
    >>> uncertainty = predict_uncertainty(linear, [[9.0, -9.0], [-9.0, 9.0]], [[1.0]])
    >>> uncertainty.total.round(4), uncertainty.aleatoric.round(4)
    (array([0.6931]), array([0.]))
    """
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    averages = average_classes(tiles, normalised(network_weights, tiles.weights))
    return Uncertainty(*(like(X, h.to(tiles.weights.dtype)) for h in averages.uncertainty()))


def network_proba(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    *,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor | np.ndarray:
    """Class probabilities of every network alone.

    They take ``n_networks * n_inputs * n_classes`` numbers of memory; averages do not need them.
    Parameters and errors are those of `predict_proba`.

    Returns
    -------
    array or Tensor (as `X`) of shape (n_networks, n_inputs, n_classes)
        In the dtype of `weights`.

    Examples
    --------
    >>> linear = Architecture.mlp([1, 2], bias=False)
    >>> network_proba(linear, [[0.0, 0.0], [1.0, -1.0]], [[1.0]]).round(3)
    array([[[0.5  , 0.5  ]],
           [[0.881, 0.119]]])
    """
    tiles = Tiles(architecture, weights, X, buffers, chunk_size).for_classification()
    proba = tiles.weights.new_empty(len(tiles.weights), len(tiles.X), tiles.n_outputs)
    for networks, inputs, logits in tiles:
        proba[networks, inputs] = class_probabilities(logits).mT.to(proba.dtype)
    return like(X, proba)


def average_classes(tiles: Tiles, importance: Tensor) -> ClassAverages:
    """Average probabilities and entropies over networks, with the weights `importance`."""
    tiles = tiles.for_classification()
    proba, entropy = tiles.zeros(tiles.n_outputs, len(tiles.X)), tiles.zeros(len(tiles.X))
    for networks, inputs, logits in tiles:
        p = class_probabilities(logits)
        proba[:, inputs] += torch.tensordot(importance[networks], p, 1)
        entropy[inputs] += importance[networks] @ torch.special.entr(p).sum(1)
    return ClassAverages(proba, entropy)
