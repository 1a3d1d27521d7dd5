r"""What remains of old data when new data come: their inputs, and what the old networks predict.

.. math::
    \log p(\theta | D_1, D_2) \approx \log p(\theta)
        + c \sum_{x \in S} E_{y \sim q(y | x)}[\log p(y | f(\theta, x))]
        + \sum_{(x, y) \in D_2} \log p(y | f(\theta, x))

The old posterior acts through the predictions :math:`q(y | x)` of its networks at a sample S of the
:math:`n_1` old inputs, each of which stands for :math:`c = n_1 / |S|` of them. The old targets are
gone. :mod:`bayesflow_nn.weights.soft_targets` says when this is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayesflow_nn.weights import Normal
from bayesflow_nn.weights.training_data import MOST_INPUTS


class SeenInputs(NamedTuple):
    """A sample of the scaled inputs of all fits so far, and their number.

    Attributes
    ----------
    inputs : ndarray of shape (n_kept, ...)
        At most 1,024.
    n_seen : int
    """

    inputs: np.ndarray
    n_seen: int

    @property
    def count(self) -> float:
        """Inputs that each of the sample stands for."""
        return self.n_seen / len(self.inputs)


def remember(seen: SeenInputs | None, X: np.ndarray) -> SeenInputs:
    """Add new inputs; each fit keeps its share of the sample.

    Parameters
    ----------
    seen : SeenInputs or None
    X : ndarray of shape (n_inputs, ...)

    Examples
    --------
    >>> seen = remember(None, np.zeros((3000, 2)))
    >>> seen = remember(seen, np.ones((1000, 2)))
    >>> len(seen.inputs), seen.n_seen, float(seen.inputs.mean())
    (1024, 4000, 0.25)
    """
    if seen is None:
        return SeenInputs(_spread(X, MOST_INPUTS), len(X))
    n_seen = seen.n_seen + len(X)
    if n_seen <= MOST_INPUTS:
        return SeenInputs(np.concatenate([seen.inputs, X]), n_seen)
    n_old = round(MOST_INPUTS * seen.n_seen / n_seen)
    parts = _spread(seen.inputs, n_old), _spread(X, MOST_INPUTS - n_old)
    return SeenInputs(np.concatenate(parts), n_seen)


def pool_noise(old: Normal, n_old: int, new: Normal, n_new: int) -> Normal:
    """Noise of two data sets together: the root mean square of theirs.

    Examples
    --------
    >>> round(pool_noise(Normal(3.0), 100, Normal(4.0), 100).scale ** 2, 6)
    12.5
    """
    variance = np.average(np.square([old.scale, new.scale]), axis=0, weights=[n_old, n_new])
    return Normal(np.sqrt(variance))


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
