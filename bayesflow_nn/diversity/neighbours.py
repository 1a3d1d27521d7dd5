"""The nearest of many points, in bounded memory.

For the Euclidean distance one matrix product per block finds the winners by

    |q - r|² = |q|² + |r|² - 2 q·r.

The sum cancels when q and r are close, so points are centred and the product is taken in float64;
the winner's distance is then computed again from the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.diversity.inputs import check_points
from bayesflow_nn.weights.validation import check_integer

Distance = Callable[[Tensor, Tensor], Tensor]
"""Distance of points ``(..., n_coordinates)``, with leading dimensions that broadcast."""


class Neighbours(NamedTuple):
    """Distances and indices of the nearest reference of each query, both ``(n_queries,)``."""

    distances: Tensor
    indices: Tensor


def nearest_neighbours(
    queries: ArrayLike | Tensor,
    references: ArrayLike | Tensor,
    *,
    distance: Distance | None = None,
    chunk_size: int = 1024,
) -> Neighbours:
    """Nearest reference of each query.

    Parameters
    ----------
    queries : array or Tensor of shape (n_queries, n_coordinates)
        Points to find a neighbour for.
    references : array or Tensor of shape (n_references, n_coordinates)
        Points among which to look; of equally near ones the first wins.
    distance : callable, optional
        ``distance(x, y)`` for points ``(..., n_coordinates)`` with broadcasting, for example
        ``ProductManifold.dist``; Euclidean by default.
    chunk_size : int
        References in a block, which bounds the memory: ``chunk_size * n_coordinates`` numbers.

    Returns
    -------
    Neighbours
        Euclidean distances are float64.

    Raises
    ------
    ValueError
        If points are empty, not finite or of different length, or `chunk_size` is no positive
        integer.

    Examples
    --------
    >>> nearest_neighbours([[0.0, 1.0]], [[3.0, 5.0], [0.0, 2.0]])
    Neighbours(distances=tensor([1.], dtype=torch.float64), indices=tensor([1]))
    """
    references = check_points("references", references)
    queries = check_points("queries", queries, n_coordinates=references.shape[1])
    chunk_size = check_integer("chunk_size", chunk_size)
    if distance is None:
        score, distance, rows = _squared_distance_from(references), euclidean, chunk_size
    else:
        # One query at a time: a general distance holds every pair's coordinates at once.
        score, rows = lambda q, r: distance(q[:, None], r[None]), 1
    indices = torch.cat([_argmin(q, references, score, chunk_size) for q in queries.split(rows)])
    return Neighbours(distance(queries, references[indices]), indices)


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distance of points ``(..., n_coordinates)``, in float64."""
    return (x.double() - y.double()).norm(dim=-1)


def _squared_distance_from(references: Tensor) -> Distance:
    """Score whose order over references is that of the distance: |r|² - 2 q·r, centred."""
    centre = references.mean(0, dtype=torch.float64)

    def score(q: Tensor, r: Tensor) -> Tensor:
        q, r = q.double() - centre, r.double() - centre
        return torch.addmm(r.square().sum(1), q, r.T, alpha=-2)

    return score


def _argmin(queries: Tensor, references: Tensor, score: Distance, chunk_size: int) -> Tensor:
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
    index = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, len(references), chunk_size):
        value, i = score(queries, references[start : start + chunk_size]).min(1)
        index = torch.where(value < best, i + start, index)
        best = torch.minimum(value, best)
    return index
