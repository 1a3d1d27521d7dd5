r"""Neuron scale of homogeneous units ([Pi22], [E25] 4.4).

A hidden unit with fan-in w, bias b, outgoing column v and f(s a) = s f(a) computes the same after

.. math:: (w, b, v) \to (w / s, b / s, s v), \qquad s = |w|,

done from the input side to the output side, so that the outgoing columns are in place before their
own rows are normalised. A dead row (w = 0) puts out the constant f(b), which moves to the next
bias exactly: c += v f(b), v = 0, b = 0, w = e_1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bayesflow_nn.geometry.sphere import safe_sqrt
from bayesflow_nn.symmetry.dense_layers import DenseWeights


def normalise_rows(
    layers: Sequence[DenseWeights], activation: Callable[[Tensor], Tensor]
) -> tuple[list[DenseWeights], Tensor]:
    """Give every incoming row of the hidden layers norm 1.

    Parameters
    ----------
    layers : sequence of DenseWeights
        All layers, input side first.
    activation : callable
        The homogeneous hidden activation, elementwise.

    Returns
    -------
    layers : list of DenseWeights
        Networks that compute the same function.
    n_dead : Tensor of shape (n_networks,)
        Number of dead hidden neurons found in every network.

    Raises
    ------
    ValueError
        If a dead neuron puts out a constant and the next layer has no bias to take it.
    """
    layers = list(layers)
    n_dead = torch.zeros(layers[0].matrix.shape[:-2], dtype=torch.long)
    for index in range(len(layers) - 1):
        norm = row_norms(layers[index].matrix)
        dead = _is_dead(norm, layers[index].bias)
        if dead.any():
            layers[index + 1] = _take_constant(layers[index], layers[index + 1], dead, activation)
            layers[index] = _replace_dead_rows(layers[index], dead)
            norm = torch.where(dead, 1, norm)
            n_dead += dead.sum(-1).cpu()
        layers[index], layers[index + 1] = _move_scale(layers[index], layers[index + 1], norm)
    return layers, n_dead


def row_norms(matrix: Tensor) -> Tensor:
    """Norms ``(...)`` of rows ``(..., n)``, without underflow and with gradients at zero."""
    # Weight decay shrinks the rows of silent neurons until their squares underflow.
    largest = matrix.detach().abs().amax(-1, keepdim=True)
    unit = matrix / torch.where(largest == 0, 1, largest)
    return largest.squeeze(-1) * safe_sqrt((unit * unit).sum(-1))


def _is_dead(norm: Tensor, bias: Tensor | None) -> Tensor:
    """Rows that are zero, or so far below their bias that no input can move the sum by rounding."""
    if bias is None:
        return norm == 0
    return norm <= torch.finfo(norm.dtype).eps ** 2 * bias.abs()


def _take_constant(
    layer: DenseWeights,
    following: DenseWeights,
    dead: Tensor,
    activation: Callable[[Tensor], Tensor],
) -> DenseWeights:
    """Move the constant output of dead neurons to the next bias and cut their outgoing columns."""
    outgoing = torch.where(dead.unsqueeze(-2), 0, following.matrix)
    if layer.bias is None:
        return DenseWeights(outgoing, following.bias)
    constant = torch.where(dead, activation(layer.bias), 0)
    moved = (following.matrix @ constant.unsqueeze(-1)).squeeze(-1)
    if following.bias is None and (moved != 0).any():
        raise ValueError(
            "weights hold hidden neurons with zero incoming weights whose constant output has no "
            "bias to go to, since the next layer has none; use geometry='euclidean'."
        )
    return DenseWeights(outgoing, None if following.bias is None else following.bias + moved)


def _replace_dead_rows(layer: DenseWeights, dead: Tensor) -> DenseWeights:
    first_axis = torch.zeros_like(layer.matrix[..., :1, :])
    first_axis[..., 0] = 1
    matrix = torch.where(dead.unsqueeze(-1), first_axis, layer.matrix)
    return DenseWeights(matrix, None if layer.bias is None else torch.where(dead, 0, layer.bias))


def _move_scale(
    layer: DenseWeights, following: DenseWeights, norm: Tensor
) -> tuple[DenseWeights, DenseWeights]:
    bias = None if layer.bias is None else layer.bias / norm
    unit = DenseWeights(layer.matrix / norm.unsqueeze(-1), bias)
    return unit, DenseWeights(following.matrix * norm.unsqueeze(-2), following.bias)
