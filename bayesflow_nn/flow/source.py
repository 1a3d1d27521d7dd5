r"""Base distributions at t = 0.

The source is a product, as the manifold is: standard normal coordinates in Euclidean blocks and the
uniform law on every sphere. Both are invariant under permutations of the neurons of a layer, so
that a permutation-equivariant velocity gives a permutation-invariant density.

A flow that was learned from the standard source also carries other laws. Proposals from one with
heavier tails leave no network far behind: under the density q of the flow itself the ratio p / q
grows where the flow is too narrow, and chains stand still there (as in importance sampling,
Hesterberg 1995).
"""

import math

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from bayesflow_nn.geometry import ProductManifold


class StandardSource:
    """Standard normal on Euclidean blocks, uniform on spheres.

    Parameters
    ----------
    manifold : ProductManifold

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.geometry import EuclideanBlock, ProductManifold
    >>> source = StandardSource(ProductManifold([EuclideanBlock(2)]))
    >>> source.log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """

    def __init__(self, manifold: ProductManifold) -> None:
        self.manifold = manifold

    def sample(self, n: int, *, generator: torch.Generator, like: Tensor) -> Tensor:
        """Draw points of shape ``(n, n_coordinates)`` with the dtype and device of `like`."""
        return self.manifold.random_source(
            n, generator=generator, dtype=like.dtype, device=like.device
        )

    def log_prob(self, x_0: Tensor) -> Tensor:
        """Log density in nats, ``(n,)``, with respect to the volume of the manifold."""
        normal = x_0[..., self.manifold.euclidean_mask.to(x_0.device)]
        log_normalizer = 0.5 * normal.shape[-1] * math.log(2 * math.pi)
        return -0.5 * (normal**2).sum(-1) - log_normalizer - self.manifold.log_volume()


class StudentSource(StandardSource):
    r"""Standard normal of a random width, common to all Euclidean coordinates; uniform on spheres.

    With :math:`x = \sqrt{\nu / \chi^2_\nu} \, z` of a normal z the Euclidean coordinates are
    multivariate Student t with :math:`\nu` degrees of freedom.

    Parameters
    ----------
    manifold : ProductManifold
    dof : float
        Degrees of freedom; the standard source is the limit of many.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.geometry import EuclideanBlock, ProductManifold
    >>> source = StudentSource(ProductManifold([EuclideanBlock(2)]), dof=4.0)
    >>> source.log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """

    def __init__(self, manifold: ProductManifold, dof: float) -> None:
        super().__init__(manifold)
        self.dof = dof

    def sample(self, n: int, *, generator: torch.Generator, like: Tensor) -> Tensor:
        """Draw points of shape ``(n, n_coordinates)`` with the dtype and device of `like`."""
        x_0 = super().sample(n, generator=generator, like=like)
        # Gamma variates of torch.distributions know no generator.
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        rng = np.random.default_rng(seed.item())
        width = torch.from_numpy(np.sqrt(self.dof / rng.chisquare(self.dof, (n, 1)))).to(x_0)
        return torch.where(self.manifold.euclidean_mask.to(x_0.device), width * x_0, x_0)

    def log_prob(self, x_0: Tensor) -> Tensor:
        """Log density in nats, ``(n,)``, with respect to the volume of the manifold."""
        normal = x_0[..., self.manifold.euclidean_mask.to(x_0.device)]
        n, dof = normal.shape[-1], self.dof
        log_normalizer = gammaln(dof / 2) - gammaln((dof + n) / 2) + n / 2 * math.log(dof * math.pi)
        log_kernel = -(dof + n) / 2 * torch.log1p((normal**2).sum(-1) / dof)
        return log_kernel - float(log_normalizer) - self.manifold.log_volume()


def contract(manifold: ProductManifold, x_0: Tensor, centre: Tensor, temperature: float) -> Tensor:
    r"""Pull source points towards where the data lie: the source at another temperature.

    Euclidean coordinates are multiplied by the temperature. A point on a sphere moves along the
    geodesic to the mean direction, to the fraction `temperature` of its angle.

    Parameters
    ----------
    manifold : ProductManifold
    x_0 : Tensor of shape (n, n_coordinates)
    centre : Tensor of shape (n_coordinates,)
        Mean direction of the data on every sphere; its Euclidean coordinates are not used.
    temperature : float
        1 leaves the points where they are, 0 moves all of them into one.

    Returns
    -------
    Tensor of shape (n, n_coordinates)
    """
    if temperature == 1:
        return x_0
    on_sphere = manifold.sphere_mask.to(x_0.device)
    base = manifold.projx(torch.where(on_sphere, centre, torch.zeros_like(centre))).expand_as(x_0)
    return manifold.expmap(base, temperature * manifold.logmap(base, x_0))
