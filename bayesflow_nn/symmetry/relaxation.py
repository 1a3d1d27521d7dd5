r"""Relaxed permutations: doubly stochastic matrices, found by Sinkhorn's iteration.

The iteration finds the potentials u and v with which the matrix

.. math:: P = e^{M + u 1^T + 1 v^T}

of scores M has rows and columns that sum to one. Its gradients come from the implicit function
theorem [E22], not from unrolling the iteration: for a gradient G with respect to P, that with
respect to M is

.. math:: P \circ (G - \alpha 1^T - 1 \beta^T) , \qquad
   \begin{pmatrix} \mathrm{diag}(P 1) & P \\ P^T & \mathrm{diag}(P^T 1) \end{pmatrix}
   \begin{pmatrix} \alpha \\ \beta \end{pmatrix} =
   \begin{pmatrix} (P \circ G) 1 \\ (P \circ G)^T 1 \end{pmatrix} .

- [E22] M. Eisenberger et al., *A Unified Framework for Implicit Sinkhorn Differentiation*,
  CVPR 2022, arXiv 2205.06688.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from bayesflow_nn.symmetry.groups import PermutationGroup, Slot


def sinkhorn(scores: Tensor, n_iterations: int = 20) -> Tensor:
    """Doubly stochastic matrix of scores, differentiated implicitly [E22].

    Parameters
    ----------
    scores : Tensor of shape (..., size, size)
        Logarithms of a matrix, to which any constant of a row or column may be added.
    n_iterations : int
        Normalisations of the rows, then of the columns: columns sum to one, rows in the limit.
        0 if the scores are normalised already. The gradient is that of the limit.

    Returns
    -------
    Tensor of shape (..., size, size)
    """
    return _ImplicitSinkhorn.apply(normalise(scores.detach(), n_iterations), scores)


def normalise(scores: Tensor, n_iterations: int) -> Tensor:
    """Scores of the same relaxed permutation that are its logarithm; see `sinkhorn`."""
    for _ in range(n_iterations):
        scores = scores.log_softmax(-1).log_softmax(-2)
    return scores


def permute_softly(
    groups: Sequence[PermutationGroup], networks: Mapping[str, Tensor], softs: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Mix the elements of all groups, as `permute_all` reorders them.

    Parameters
    ----------
    groups : sequence of PermutationGroup
    networks : mapping of str to Tensor of shape (n_networks, ...)
        Tensors of the groups that are missing are left out.
    softs : sequence of Tensor of shape (n_networks, size, size)
        One per group; element i of the result is the sum over j of ``soft[:, i, j]`` times
        element j.

    Returns
    -------
    dict
        All networks.
    """
    mixed = dict(networks)
    for group, soft in zip(groups, softs, strict=True):
        for slot in group.slots:
            if slot.parameter in mixed:
                mixed[slot.parameter] = _mix(mixed[slot.parameter], slot, soft)
    return mixed


class _ImplicitSinkhorn(torch.autograd.Function):
    """From scores, and the logarithm of their doubly stochastic matrix, to the matrix."""

    @staticmethod
    def forward(ctx: FunctionCtx, normalised: Tensor, scores: Tensor) -> Tensor:
        soft = normalised.exp()
        ctx.save_for_backward(soft)
        return soft

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[None, Tensor]:
        (soft,) = ctx.saved_tensors
        rows = soft.sum(-1, keepdim=True)
        alpha = (soft * gradient).sum(-1, keepdim=True) / rows
        # With alpha eliminated, the matrix of beta is the Laplacian of a graph of the columns. Its
        # diagonal, as the sum of the others, keeps its digits where the permutation is almost hard.
        links = soft.mT @ (soft / rows)
        links.diagonal(dim1=-2, dim2=-1).zero_()
        size = soft.shape[-1]
        # The Laplacian leaves constants free, which 1/size pins to zero; the rest is for rounding.
        laplacian = torch.diag_embed(links.sum(-1) + 4 * size * torch.finfo(soft.dtype).eps) - links
        centred = gradient - alpha
        beta, _ = torch.linalg.solve_ex(
            laplacian + 1 / size, (soft * centred).sum(-2).unsqueeze(-1)
        )
        return None, soft * (centred + soft @ beta / rows - beta.mT)


def _mix(tensor: Tensor, slot: Slot, soft: Tensor) -> Tensor:
    """Mix the elements along one axis; see `permute_softly`."""
    moved = tensor.movedim(slot.axis + 1, 1)
    places = slot.positions.flatten()
    in_order = np.array_equal(places, np.arange(moved.shape[1]))
    index = torch.as_tensor(places, device=tensor.device)
    elements = moved if in_order else moved.index_select(1, index)
    mixed = (soft @ elements.flatten(1).unflatten(1, (len(slot.positions), -1))).view(
        elements.shape
    )
    if not in_order:
        mixed = moved.index_copy(1, index, mixed)
    return mixed.movedim(1, slot.axis + 1)
