r"""Inputs of networks in common units.

.. math:: z_{ic\dots} = (x_{ic\dots} - m_c) / s_c

with a mean and a standard deviation per feature c of rows ``(n_inputs, n_features)``, and per
channel c of inputs with more dimensions, ``(n_inputs, n_channels, ...)`` in PyTorch's order: pixels
of an image share a unit, and channels do not.
"""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import StandardScaler


def fit_scaler(X: np.ndarray) -> StandardScaler:
    """Means and deviations of features, or channels, of inputs ``(n_inputs, n_channels, ...)``.

    Examples
    --------
    >>> images = np.stack([np.zeros((5, 8, 8)), np.full((5, 8, 8), 3.0)], 1)
    >>> fit_scaler(images).mean_
    array([0., 3.])
    """
    return StandardScaler().fit(_channels_last(X).reshape(-1, X.shape[1]))


def scale_inputs(scaler: StandardScaler, X: np.ndarray) -> np.ndarray:
    """Inputs of the same shape in the units of `scaler`, of `fit_scaler`."""
    X = _channels_last(X)
    scaled = scaler.transform(X.reshape(-1, X.shape[-1])).reshape(X.shape)
    return np.moveaxis(scaled, -1, 1)


def _channels_last(X: np.ndarray) -> np.ndarray:
    return np.moveaxis(X, 1, -1)
