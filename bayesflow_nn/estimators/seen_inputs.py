r"""What remains of old data when new data come: their inputs, and what the old networks predict.

.. math::
    \log p(\theta | D_1, D_2) \approx \log p(\theta)
        + \sum_{x_j \in S} c_j \, E_{y \sim q(y | x_j)}[\log p(y | f(\theta, x_j))]
        + \sum_{(x_i, y_i) \in D_2} w_i \log p(y_i | f(\theta, x_i))

The old posterior acts through the predictions :math:`q(y | x)` of its networks at a sample S of the
old inputs, whose weights :math:`c_j` sum to the weight of all old inputs. The old targets are gone.
:mod:`bayesflow_nn.weights.soft_targets` says when this is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayesflow_nn.weights import Normal
from bayesflow_nn.weights.training_data import MOST_INPUTS


class SeenInputs(NamedTuple):
    """A sample of the scaled inputs of all fits so far.

    Attributes
    ----------
    inputs : ndarray of shape (n_kept, ...)
        At most 1,024.
    weights : ndarray of shape (n_kept,)
        Of the inputs that each of the sample stands for.
    """

    inputs: np.ndarray
    weights: np.ndarray

    @property
    def total_weight(self) -> float:
        """Sum of the weights of all inputs so far; without weights their number."""
        return float(self.weights.sum())


def remember(seen: SeenInputs | None, X: np.ndarray, weights: np.ndarray) -> SeenInputs:
    """Add new inputs; each keeps its share of the sample, by weight.

    Parameters
    ----------
    seen : SeenInputs or None
    X : ndarray of shape (n_inputs, ...)
    weights : ndarray of shape (n_inputs,)
        Positive.

    Examples
    --------
    >>> seen = remember(None, np.zeros((3000, 2)), np.ones(3000))
    >>> seen = remember(seen, np.ones((1000, 2)), np.ones(1000))
    >>> len(seen.inputs), seen.total_weight, float(seen.inputs.mean())
    (1024, 4000.0, 0.25)
    """
    if seen is not None:
        X, weights = np.concatenate([seen.inputs, X]), np.concatenate([seen.weights, weights])
    if len(X) <= MOST_INPUTS:
        return SeenInputs(X, weights)
    # Systematic sampling: evenly spaced along the sum of weights.
    edges = np.cumsum(weights)
    places = (np.arange(MOST_INPUTS) + 0.5) / MOST_INPUTS * edges[-1]
    rows, counts = np.unique(np.searchsorted(edges, places), return_counts=True)
    return SeenInputs(X[rows], counts * (edges[-1] / MOST_INPUTS))


def pool_noise(old: Normal, old_weight: float, new: Normal, new_weight: float) -> Normal:
    """Noise of two data sets together: the root mean square of theirs, by total weight.

    Examples
    --------
    >>> round(pool_noise(Normal(3.0), 100, Normal(4.0), 100).scale ** 2, 6)
    12.5
    """
    variance = np.average(
        np.square([old.scale, new.scale]), axis=0, weights=[old_weight, new_weight]
    )
    return Normal(np.sqrt(variance))
