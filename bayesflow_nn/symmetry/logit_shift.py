r"""Logit shift: softmax(z + c 1) = softmax(z).

Adding one vector to every row of the last weight matrix, or one number to every entry of the last
bias, changes no probability. Cross-entropy never moves the mean over classes, so in a trained
population it is what the initialisation left there. An orthonormal basis of the zero-sum space
(the Helmert matrix H, with H H^T = I and H 1 = 0) holds the rest in one row less.
"""

from __future__ import annotations

import torch
from scipy.linalg import helmert
from torch import Tensor

from bayesflow_nn.symmetry.dense_layers import DenseWeights
from bayesflow_nn.symmetry.weight_input import NetworkInput
from bayesflow_nn.weights import Architecture


def resolve_logit_shift(logit_shift: str | bool, given: NetworkInput) -> bool:
    """Decide whether the shift is removed.

    Parameters
    ----------
    logit_shift : {"auto", True, False}
        "auto": when the weights are a population of classifiers with several outputs, which are
        multilayer perceptrons.
    given : NetworkInput
        The weights.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If `logit_shift` is none of the three, or True for a single output or another module.
    """
    if logit_shift == "auto":
        several = given.architecture.is_mlp and given.architecture.n_outputs != 1
        return given.is_classification and several
    if not isinstance(logit_shift, bool):
        raise ValueError(f"logit_shift must be 'auto', True or False, got {logit_shift!r}.")
    if logit_shift and not given.architecture.is_mlp:
        raise ValueError(
            f"logit_shift must be 'auto' or False for {given.architecture!r}, whose output layer "
            f"is not known, got True."
        )
    if logit_shift:
        check_shiftable(given.architecture)
    return logit_shift


def check_shiftable(architecture: Architecture) -> None:
    """Raise unless the network has several logits."""
    if architecture.n_outputs == 1:
        raise ValueError(
            "logit_shift must be False for a network with one output, got True; a single logit "
            "has no shift that leaves the probabilities alone."
        )


def remove_logit_shift(output: DenseWeights) -> DenseWeights:
    """Subtract the mean over classes from the last matrix (per column) and the last bias.

    Parameters
    ----------
    output : DenseWeights
        Last layer, ``(..., n_classes, n_in)`` and ``(..., n_classes)``.

    Returns
    -------
    DenseWeights
        Same shapes; class probabilities are unchanged.
    """
    matrix, bias = output
    return DenseWeights(
        matrix - matrix.mean(-2, keepdim=True),
        None if bias is None else bias - bias.mean(-1, keepdim=True),
    )


def to_zero_sum_basis(output: DenseWeights) -> DenseWeights:
    """Coordinates of the last layer without its shift: ``(..., n_classes - 1, n_in)``."""
    matrix, bias = output
    basis = _helmert_basis(matrix.shape[-2], matrix)
    return DenseWeights(basis @ matrix, None if bias is None else bias @ basis.mT)


def from_zero_sum_basis(coordinates: DenseWeights) -> DenseWeights:
    """Last layer with zero mean over classes, ``(..., n_classes, n_in)``."""
    matrix, bias = coordinates
    basis = _helmert_basis(matrix.shape[-2] + 1, matrix)
    return DenseWeights(basis.mT @ matrix, None if bias is None else bias @ basis)


def _helmert_basis(n_classes: int, like: Tensor) -> Tensor:
    return torch.as_tensor(helmert(n_classes), dtype=like.dtype, device=like.device)
