r"""How far apart two sets of networks are in weight space, modulo symmetry.

.. math::
    W_1(A, B) = \min_\pi \frac{1}{n} \sum_i |a_i - b_{\pi(i)}|

is the Wasserstein distance of two sets of n points; pi is an assignment, found exactly. Beside it
stand the measures of [DWF] Table 17: distances to nearest neighbours, mean distances and cosine
similarities of all pairs. All take canonical points, since weights of equal functions may lie far
apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bayesflow_nn.diversity.inputs import check_points
from bayesflow_nn.diversity.neighbours import nearest_neighbours
from bayesflow_nn.weights.training_data import spread_rows
from bayesflow_nn.weights.validation import check_integer


class SetDistances(NamedTuple):
    """Distances between two sets of points.

    Attributes
    ----------
    wasserstein : float
        Mean distance under the best assignment of points to reference points.
    nearest : float
        Mean distance to the nearest reference point.
    l2 : float
        Mean distance of all pairs.
    cosine : float
        Mean cosine of the angle between all pairs.
    """

    wasserstein: float
    nearest: float
    l2: float
    cosine: float


def set_distances(
    points: ArrayLike | Tensor, reference: ArrayLike | Tensor, *, most: int = 1000
) -> SetDistances:
    """Measure how far a set of networks is from a reference set.

    Parameters
    ----------
    points : array or Tensor of shape (n_points, n_coordinates)
        Canonical points, for example ``posterior.to_points(posterior.sample(200))``.
    reference : array or Tensor of shape (n_references, n_coordinates)
    most : int
        Points of either set in the Wasserstein distance and the means over pairs. Larger sets are
        thinned evenly, and for the assignment to the size of the smaller one: finite samples of
        high-dimensional sets are far from each other, and only distances at equal numbers of points
        can be compared. Nearest neighbours are sought in the whole reference.

    Returns
    -------
    SetDistances

    Raises
    ------
    TypeError, ValueError
        If points are no finite floating numbers of one length, or `most` is no positive integer.

    Examples
    --------
    >>> distances = set_distances([[0.0, 1.0], [0.0, 2.0]], [[0.0, 2.0], [0.0, 4.0]])
    >>> distances.wasserstein, distances.nearest, distances.l2, distances.cosine
    (1.5, 0.5, 1.5, 1.0)
    """
    most = check_integer("most", most)
    a = check_points("points", points).double()
    b = check_points("reference", reference, n_coordinates=a.shape[1]).double()
    nearest = nearest_neighbours(a, b).distances.mean().item()
    a, b = spread_rows(a, most), spread_rows(b, most)
    pairs = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    n = min(len(a), len(b))
    square = spread_rows(spread_rows(pairs, n).T, n).T.numpy(force=True)
    wasserstein = square[linear_sum_assignment(square)].mean()
    cosine = (_directions(a) @ _directions(b).T).mean().item()
    return SetDistances(float(wasserstein), nearest, pairs.mean().item(), cosine)


def _directions(points: Tensor) -> Tensor:
    return points / points.norm(dim=1, keepdim=True)
