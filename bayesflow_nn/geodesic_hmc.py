r"""Hamiltonian Monte Carlo on a product of spheres and Euclidean blocks.

The leapfrog of :mod:`bayesflow_nn.weights.hmc` with geodesics in the place of straight lines and
with gradients projected to the tangent space (Byrne & Girolami 2013, arXiv 1301.6064, Algorithm 1):

.. math::
    v \leftarrow v + \tfrac\epsilon2 M^{-1} P_x \nabla \log \pi(x), \quad
    (x, v) \leftarrow \mathrm{geodesic}_\epsilon(x, v), \quad
    v \leftarrow v + \tfrac\epsilon2 M^{-1} P_x \nabla \log \pi(x)

with velocities :math:`v = M^{-1} p`. Densities are with respect to volume. A mass is one number per
sphere, since others would bend the geodesics, and one per Euclidean coordinate. All chains share
the step size and the masses, and learn them together: a few trajectories of many chains are enough.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bayesflow_nn.geometry import EuclideanBlock, ProductManifold
from bayesflow_nn.weights.adaptation import RunningMoments
from bayesflow_nn.weights.chains import Position, Target, normal_like
from bayesflow_nn.weights.hmc import HMC, Trajectory


class GeodesicHMC(HMC):
    """Chains of Hamiltonian Monte Carlo on a manifold.

    Parameters
    ----------
    target : Target
        Log density of points with respect to volume, with its gradient in all coordinates.
    points : Tensor of shape (n_chains, n_coordinates)
        Where the chains start.
    generator : torch.Generator
    manifold : ProductManifold
    admits : callable, optional
        Points ``(n, n_coordinates)`` to whether they belong to the region in which the chains stay,
        ``(n,)``; a trajectory that ends elsewhere is rejected. By default all do.
    **options
        `n_leapfrog`, `target_acceptance` and `step_size`, as in `HMC`.

    Attributes
    ----------
    position, step_size, inverse_mass
        As in `HMC`.

    Examples
    --------
    Chains on a circle, drawn towards the right, spread as the von Mises law.

    >>> from bayesflow_nn.geometry import SphereBlock
    >>> class VonMises:
    ...     def value_and_gradient(self, x):
    ...         return x[:, 0], torch.tensor([1.0, 0.0]).expand_as(x)
    >>> circle = ProductManifold([SphereBlock(1, 2)])
    >>> start = torch.tensor([[0.0, 1.0]]).repeat(1000, 1)
    >>> chains = GeodesicHMC(VonMises(), start, torch.Generator().manual_seed(0), circle)
    >>> chains.tune(50)
    >>> bool((chains.position.weights[:, 0].mean() - 0.446).abs() < 0.07)  # I_1(1) / I_0(1)
    True
    """

    def __init__(
        self,
        target: Target,
        points: Tensor,
        generator: torch.Generator,
        manifold: ProductManifold,
        admits: Callable[[Tensor], Tensor] | None = None,
        **options: float,
    ) -> None:
        super().__init__(target, points, generator, **options)
        self._manifold, self._region = manifold, admits

    def _integrate(
        self, start: Position, momentum: Tensor, step_size: Tensor, n_steps: int
    ) -> Trajectory:
        step, manifold = step_size[:, None], self._manifold
        position, momentum = start, momentum + step / 2 * self._force(start)
        for i in range(n_steps):
            drift = step * self.inverse_mass * momentum
            x = manifold.expmap(position.weights, drift)
            drift = manifold.end_velocity(position.weights, drift)
            position = Position.at(self._target, x)
            kick = step / 2 if i == n_steps - 1 else step
            momentum = drift / (step * self.inverse_mass) + kick * self._force(position)
        return Trajectory(position, momentum)

    def _force(self, position: Position) -> Tensor:
        return self._manifold.proju(position.weights, position.gradient)

    def _draw_momentum(self) -> Tensor:
        x = self.position.weights
        noise = self._manifold.proju(x, normal_like(x, self._generator))
        return noise / self.inverse_mass.sqrt()

    def _admitted(self, accepted: Tensor, weights: Tensor) -> Tensor:
        if self._region is None or not accepted.any():
            return accepted
        rows = accepted.nonzero().squeeze(1)
        return torch.zeros_like(accepted).index_put((rows,), self._region(weights[rows]))

    def _pool(self, acceptance: Tensor) -> Tensor:
        return acceptance.mean().expand_as(acceptance)

    def _find_step_size(self) -> Tensor:
        own = super()._find_step_size()
        return own.median().expand_as(own)

    def _learn_inverse_mass(self, moments: RunningMoments) -> Tensor:
        variance = moments.pool().shrunken_variance()
        parts = []
        for block, part in zip(self._manifold.blocks, self._manifold.slices, strict=True):
            values = variance[:, part]
            if not isinstance(block, EuclideanBlock):
                spheres = values.unflatten(-1, (block.n_spheres, block.dim))
                values = spheres.mean(-1, keepdim=True).expand_as(spheres).flatten(-2)
            parts.append(values)
        return torch.cat(parts, -1).expand_as(self.inverse_mass)
