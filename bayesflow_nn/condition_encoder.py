"""What is known of each network, as features that a velocity can use."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

_MOST_QUANTILES = 1000
_MOST_SCORE = 3.0  # normal scores beyond say only that a value is extreme


class ConditionEncoder(TransformerMixin, BaseEstimator):
    """Labels and values of networks to features.

    Integers, booleans and strings are labels and become indicators. Real numbers are values: each
    column is mapped to normal scores by its quantiles, so that a loss that spans decades is
    resolved at every level, and then to its first three Hermite polynomials. The first feature is
    1: the condition is known.

    Attributes
    ----------
    is_label_ : bool
    n_columns_ : int
        Numbers that make up one condition.
    n_features_ : int

    Examples
    --------
    >>> ConditionEncoder().fit(["mnist", "fashion", "mnist"]).transform(["mnist"])
    tensor([[1., 0., 1.]])
    """

    def fit(self, y: ArrayLike) -> ConditionEncoder:
        """Learn labels or quantiles.

        Parameters
        ----------
        y : array of shape (n,) or (n, n_columns)
            Condition of every network.

        Raises
        ------
        ValueError
            If all conditions are equal, or values are not finite.
        """
        y = _as_columns(y)
        if (y == y[0]).all():
            raise ValueError(
                f"y must hold different conditions, got {len(y)} equal ones; leave it out."
            )
        self.n_columns_ = y.shape[1]
        self.is_label_ = y.dtype.kind != "f"
        if self.is_label_:
            self._encoder = OneHotEncoder(sparse_output=False, dtype=np.float64).fit(y)
        else:
            n_quantiles = min(_MOST_QUANTILES, len(y))
            self._encoder = QuantileTransformer(
                n_quantiles=n_quantiles, output_distribution="normal", random_state=0
            ).fit(y)
        self.n_features_ = self.transform(y[:1]).shape[1]
        return self

    def transform(self, y: ArrayLike) -> Tensor:
        """Features ``(n, n_features)``, float32.

        Raises
        ------
        ValueError
            If a label is unknown, or the number of columns differs from that of `fit`.
        """
        check_is_fitted(self)
        y = _as_columns(y)
        if y.shape[1] != self.n_columns_:
            raise ValueError(
                f"condition must have {self.n_columns_} column(s) per network as in fit, got "
                f"{y.shape[1]}."
            )
        if self.is_label_:
            features = self._encode_labels(y)
        else:
            z = self._encoder.transform(y.astype(np.float64)).clip(-_MOST_SCORE, _MOST_SCORE)
            features = np.hstack([z, (z**2 - 1) / 2**0.5, (z**3 - 3 * z) / 6**0.5])
        return torch.as_tensor(np.hstack([np.ones((len(y), 1)), features]), dtype=torch.float32)

    def _encode_labels(self, y: np.ndarray) -> np.ndarray:
        try:
            return self._encoder.transform(y)
        except ValueError as error:
            known = [list(labels) for labels in self._encoder.categories_]
            raise ValueError(
                f"condition must be one of the labels seen in fit, {known}, got {y.tolist()[:5]}."
            ) from error


def _as_columns(y: ArrayLike) -> np.ndarray:
    y = np.asarray(y)
    y = y.reshape(len(y), -1) if y.ndim else y.reshape(1, 1)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        rows = np.flatnonzero(~np.isfinite(y).all(1))[:10].tolist()
        raise ValueError(f"conditions must be finite, got NaN or inf in rows {rows}.")
    return y
