"""Edges with their features first, ``(width, n, n_edges)``: few features, of very many edges.

What is computed feature by feature then runs over long rows, and a linear layer is one product of
a small matrix with a wide one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SMALLEST_VARIANCE = 1e-5  # as in torch.nn.LayerNorm


class EdgeNorm(nn.Module):
    """Layer norm over features that lie first.

    Parameters
    ----------
    width : int
        Number of features.

    Examples
    --------
    >>> edges = torch.tensor([[3.0, 0.0], [5.0, 4.0]]).unsqueeze(1)
    >>> EdgeNorm(2)(edges).detach().squeeze(1).round(decimals=3)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normed features, of the same shape ``(width, n, n_edges)``."""
        centred = x - x.mean(0)
        normed = centred * (centred.square().mean(0) + _SMALLEST_VARIANCE).rsqrt()
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

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> _ = nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
    >>> project(layer, torch.tensor([[1.0, 2.0], [10.0, 20.0]])).detach()
    tensor([[11., 22.]])
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
