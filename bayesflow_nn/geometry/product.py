r"""Product of spheres and Euclidean blocks on one flat vector ([E25] 6.2).

A point is the concatenation of its blocks. A :class:`SphereBlock` holds the neurons of one layer,
``(n_spheres, dim)``, so that a network is a handful of blocks and no loop runs over neurons. The
metric is the product metric: squared distances and inner products add over blocks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from bayesflow_nn.geometry.sphere import Sphere, safe_sqrt

_SPHERE = Sphere()


@dataclass(frozen=True)
class SphereBlock:
    """``n_spheres`` unit spheres of *ambient* dimension ``dim`` (at least 2)."""

    n_spheres: int
    dim: int

    def __post_init__(self) -> None:
        _check_count("SphereBlock", "n_spheres", self.n_spheres, minimum=1)
        _check_count("SphereBlock", "dim", self.dim, minimum=2)

    @property
    def n_coordinates(self) -> int:
        """Length of the block in the flat vector."""
        return self.n_spheres * self.dim

    @property
    def dimension(self) -> int:
        """Intrinsic dimension."""
        return self.n_spheres * (self.dim - 1)


@dataclass(frozen=True)
class EuclideanBlock:
    """``dim`` Euclidean coordinates."""

    dim: int

    def __post_init__(self) -> None:
        _check_count("EuclideanBlock", "dim", self.dim, minimum=1)

    @property
    def n_coordinates(self) -> int:
        """Length of the block in the flat vector."""
        return self.dim

    @property
    def dimension(self) -> int:
        """Intrinsic dimension."""
        return self.dim


class ProductManifold:
    """Product of :class:`SphereBlock` and :class:`EuclideanBlock` factors.

    Parameters
    ----------
    blocks : sequence of SphereBlock or EuclideanBlock
        In the order in which they lie in the flat vector.

    Attributes
    ----------
    blocks : tuple
        The given blocks.
    slices : tuple of slice
        Where each block lies in the flat vector.

    Notes
    -----
    Points and tangent vectors are ``(..., n_coordinates)``; leading dimensions broadcast. Angles
    are in radians. For antipodes and other singular points see :class:`Sphere`.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
    >>> manifold = ProductManifold([SphereBlock(16, 30), EuclideanBlock(16)])
    >>> manifold.n_coordinates, manifold.dimension
    (496, 480)
    >>> x = manifold.random_source(5, generator=torch.Generator().manual_seed(0))
    >>> x.shape, manifold.dist(x, x)
    (torch.Size([5, 496]), tensor([0., 0., 0., 0., 0.]))
    """

    def __init__(self, blocks: Sequence[SphereBlock | EuclideanBlock]) -> None:
        self.blocks = _check_blocks(blocks)
        bounds = accumulate((block.n_coordinates for block in self.blocks), initial=0)
        self.slices = tuple(slice(*bound) for bound in pairwise(bounds))

    @property
    def n_coordinates(self) -> int:
        """Length of the flat vector."""
        return self.slices[-1].stop

    @property
    def dimension(self) -> int:
        """Intrinsic dimension."""
        return sum(block.dimension for block in self.blocks)

    @property
    def n_spheres(self) -> int:
        """Number of spheres over all blocks."""
        return sum(block.n_spheres for block in self._sphere_blocks())

    @property
    def sphere_mask(self) -> Tensor:
        """Coordinates on spheres, bool ``(n_coordinates,)``."""
        is_sphere = torch.tensor([isinstance(block, SphereBlock) for block in self.blocks])
        lengths = torch.tensor([block.n_coordinates for block in self.blocks])
        return is_sphere.repeat_interleave(lengths)

    @property
    def euclidean_mask(self) -> Tensor:
        """Euclidean coordinates, bool ``(n_coordinates,)``."""
        return ~self.sphere_mask

    @property
    def unit_scale(self) -> Tensor:
        """Factor ``(n_coordinates,)`` to unit variance, float64; on spheres root of dimension."""
        lengths = [
            block.dim**0.5 if isinstance(block, SphereBlock) else 1.0 for block in self.blocks
        ]
        counts = torch.tensor([block.n_coordinates for block in self.blocks])
        return torch.tensor(lengths, dtype=torch.float64).repeat_interleave(counts)

    def check_points(self, *points: Tensor) -> None:
        """Raise a ValueError unless all shapes are ``(..., n_coordinates)``."""
        for point in points:
            if point.ndim == 0 or point.shape[-1] != self.n_coordinates:
                raise ValueError(
                    f"points must have shape (..., {self.n_coordinates}), the number of "
                    f"coordinates of the manifold, got {tuple(point.shape)}; encode network "
                    f"weights with the chart that belongs to this manifold."
                )

    def projx(self, x: Tensor) -> Tensor:
        """Nearest points of the manifold, ``(..., n_coordinates)``."""
        return self._blockwise(_SPHERE.projx, lambda x: x, x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Projection of ambient vectors ``u`` to the tangent spaces at ``x``."""
        return self._blockwise(_SPHERE.proju, lambda x, u: u, x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Points reached from ``x`` along ``u`` after unit time."""
        return self._blockwise(_SPHERE.expmap, torch.add, x, u)

    def end_velocity(self, x: Tensor, u: Tensor) -> Tensor:
        """Velocities at ``expmap(x, u)`` of the geodesics that left ``x`` with ``u``."""
        return self._blockwise(_SPHERE.end_velocity, lambda x, u: u, x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Tangent vectors at ``x`` with ``expmap(x, logmap(x, y)) == y``."""
        return self._blockwise(_SPHERE.logmap, lambda x, y: y - x, x, y)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distances ``(...,)``, the root of the summed squares over factors."""
        lengths = self._blockwise(lambda x, y: _SPHERE.dist(x, y, keepdim=True), torch.sub, x, y)
        return safe_sqrt((lengths * lengths).sum(-1))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Inner products ``(...,)`` of tangent vectors ``u`` and ``v`` (default ``u``) at ``x``."""
        x, u, v = self._broadcast(x, u, u if v is None else v)
        return (u * v).sum(-1)

    def norm(self, x: Tensor, u: Tensor) -> Tensor:
        """Lengths ``(...,)`` of tangent vectors ``u`` at ``x``."""
        return safe_sqrt(self.inner(x, u))

    def random_source(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Points ``(n, n_coordinates)``: uniform on spheres, standard normal elsewhere."""
        noise = torch.randn(n, self.n_coordinates, generator=generator, dtype=dtype, device=device)
        return self.projx(noise)

    def log_volume(self) -> float:
        r"""Sum of the log areas of the spheres, in nats.

        The area of :math:`S^{d-1}` is :math:`2 \pi^{d/2} / \Gamma(d/2)`. The density of
        ``random_source`` is minus this value plus the standard normal of the Euclidean blocks.
        """
        return sum(block.n_spheres * _log_sphere_area(block.dim) for block in self._sphere_blocks())

    def __repr__(self) -> str:
        return f"ProductManifold({list(self.blocks)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProductManifold) and self.blocks == other.blocks

    def __hash__(self) -> int:
        return hash(self.blocks)

    def _sphere_blocks(self) -> list[SphereBlock]:
        return [block for block in self.blocks if isinstance(block, SphereBlock)]

    def _blockwise(
        self,
        on_sphere: Callable[..., Tensor],
        on_euclidean: Callable[..., Tensor],
        *points: Tensor,
    ) -> Tensor:
        """Apply one function per kind of block and put the results side by side."""
        points = self._broadcast(*points)
        results = []
        for block, part in zip(self.blocks, self.slices, strict=True):
            pieces = [point[..., part] for point in points]
            if isinstance(block, SphereBlock):
                shape = (block.n_spheres, block.dim)
                pieces = [piece.unflatten(-1, shape) for piece in pieces]
                results.append(on_sphere(*pieces).flatten(-2))
            else:
                results.append(on_euclidean(*pieces))
        return torch.cat(results, dim=-1)

    def _broadcast(self, *points: Tensor) -> tuple[Tensor, ...]:
        self.check_points(*points)
        return torch.broadcast_tensors(*points)


def _log_sphere_area(dim: int) -> float:
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def _check_count(owner: str, name: str, value: int, *, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(
            f"{owner}: {name} must be at least {minimum}, got {value}; drop empty blocks, and use "
            "a EuclideanBlock for one-dimensional factors (S^0 is two isolated points)"
        )


def _check_blocks(
    blocks: Sequence[SphereBlock | EuclideanBlock],
) -> tuple[SphereBlock | EuclideanBlock, ...]:
    blocks = tuple(blocks)
    if not blocks:
        raise ValueError("blocks must hold at least one block, got none")
    for block in blocks:
        if not isinstance(block, SphereBlock | EuclideanBlock):
            raise TypeError(
                "blocks must be SphereBlock or EuclideanBlock instances, got "
                f"{type(block).__name__}; wrap the dimensions in one of the two"
            )
    return blocks
