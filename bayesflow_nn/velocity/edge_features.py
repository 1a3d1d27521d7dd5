"""Edges with their features first, ``(width, n, n_edges)``: few features, of very many edges.

What is computed feature by feature then runs over long rows, and a linear layer is one product of
a small matrix with a wide one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EdgeNorm(nn.LayerNorm):
    """Layer norm over features that lie first.

    Examples
    --------
    >>> edges = torch.tensor([[3.0, 0.0], [5.0, 4.0]]).unsqueeze(1)
    >>> EdgeNorm(2)(edges).detach().squeeze(1).round(decimals=3)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normed features, of the same shape ``(width, n, n_edges)``."""
        centred = x - x.mean(0)
        normed = centred * (centred.square().mean(0) + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], normed, self.weight[:, None, None])


def project(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer to features that lie first.

    Parameters
    ----------
    layer : nn.Linear
    x : Tensor of shape (in_features, ...)

    Returns
    -------
    Tensor of shape (out_features, ...)
    """
    wide = x.flatten(1)
    if layer.bias is None:
        product = layer.weight @ wide
    else:
        product = torch.addmm(layer.bias[:, None], layer.weight, wide)
    return product.unflatten(1, x.shape[1:])


def quadratic_forms(matrices: Tensor, x: Tensor) -> Tensor:
    """Forms x A x of features that lie first.

    One form after the other: what is held for it then stays in the processor's cache.

    Parameters
    ----------
    matrices : Tensor of shape (n_forms, width, width)
        They need not be symmetric.
    x : Tensor of shape (width, ...)

    Returns
    -------
    Tensor of shape (n_forms, ...)

    Examples
    --------
    >>> quadratic_forms(torch.tensor([[[1.0, 2.0], [0.0, 3.0]]]), torch.tensor([[1.0], [10.0]]))
    tensor([[321.]])
    """
    wide = x.flatten(1)
    forms = [((matrix @ wide) * wide).sum(0) for matrix in matrices.unbind()]
    return torch.stack(forms).unflatten(1, x.shape[1:])
