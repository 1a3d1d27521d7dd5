r"""Inputs of networks in common units.

.. math:: z_{ic\dots} = (x_{ic\dots} - m_c) / s_c

with a mean and a standard deviation per feature c of rows ``(n_inputs, n_features)``, and per
channel c of inputs with more dimensions, ``(n_inputs, n_channels, ...)`` in PyTorch's order: pixels
of an image share a unit, and channels do not.
"""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import StandardScaler


def fit_scaler(X: np.ndarray, sample_weight: np.ndarray | None = None) -> StandardScaler:
    """Means and deviations of features, or channels.

    Parameters
    ----------
    X : ndarray of shape (n_inputs, n_channels, ...)
    sample_weight : ndarray of shape (n_inputs,), optional
        Weights of the inputs; all pixels of an image have its weight.

    Examples
    --------
    >>> images = np.stack([np.zeros((5, 8, 8)), np.full((5, 8, 8), 3.0)], 1)
    >>> fit_scaler(images).mean_
    array([0., 3.])
    """
    if sample_weight is not None:
        sample_weight = np.repeat(sample_weight, X[0, 0].size)
    rows = _channels_last(X).reshape(-1, X.shape[1])
    # Arrays whatever set_config(transform_output=...) says.
    scaler = StandardScaler().set_output(transform="default")
    return scaler.fit(rows, sample_weight=sample_weight)


def scale_inputs(scaler: StandardScaler, X: np.ndarray) -> np.ndarray:
    """Inputs of the same shape in the units of `scaler`, of `fit_scaler`."""
    X = _channels_last(X)
    scaled = scaler.transform(X.reshape(-1, X.shape[-1])).reshape(X.shape)
    return np.moveaxis(scaled, -1, 1)


def _channels_last(X: np.ndarray) -> np.ndarray:
    return np.moveaxis(X, 1, -1)
