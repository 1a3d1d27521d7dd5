"""Which source point travels to which target point.

``independent`` pairs them as they come. ``optimal_transport`` re-pairs a minibatch so that the sum
of squared geodesic distances is least ([T23] 3.2). With equal weights the optimal plan is an
assignment: every sample is used exactly once, none is duplicated or dropped.
"""

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bayesflow_nn.geometry import ProductManifold, SphereBlock

Coupling = Callable[[ProductManifold, Tensor, Tensor], Tensor]


def independent(manifold: ProductManifold, x_0: Tensor, x_1: Tensor) -> Tensor:
    """Return the source points ``(n, n_coordinates)`` in the order in which they were drawn."""
    return x_0


def optimal_transport(manifold: ProductManifold, x_0: Tensor, x_1: Tensor) -> Tensor:
    """Return the source points reordered to the minibatch-optimal partners of `x_1`.

    Parameters
    ----------
    manifold : ProductManifold
    x_0, x_1 : Tensor of shape (n, n_coordinates)
        Source and target points of one minibatch.

    Returns
    -------
    Tensor of shape (n, n_coordinates)
        A permutation of the rows of `x_0`.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.geometry import EuclideanBlock, ProductManifold
    >>> line = ProductManifold([EuclideanBlock(1)])
    >>> optimal_transport(line, torch.tensor([[3.0], [1.0]]), torch.tensor([[0.9], [2.8]])).ravel()
    tensor([1., 3.])
    """
    cost = squared_distances(manifold, x_1, x_0)
    _, partner = linear_sum_assignment(cost.double().cpu().numpy())
    return x_0[torch.as_tensor(partner, device=x_0.device)]


def squared_distances(manifold: ProductManifold, x: Tensor, y: Tensor) -> Tensor:
    """Squared geodesic distances of all pairs, ``(n, m)``, by one matrix product per sphere."""
    total = x.new_zeros(len(x), len(y))
    for block, part in zip(manifold.blocks, manifold.slices, strict=True):
        if isinstance(block, SphereBlock):
            shape = (-1, block.n_spheres, block.dim)
            cosine = torch.einsum("isd,jsd->ijs", x[:, part].view(shape), y[:, part].view(shape))
            total += torch.arccos(cosine.clamp(-1, 1)).square().sum(-1)
        else:
            total += torch.cdist(x[:, part], y[:, part]).square()
    return total


COUPLINGS: dict[str, Coupling] = {"independent": independent, "ot": optimal_transport}
