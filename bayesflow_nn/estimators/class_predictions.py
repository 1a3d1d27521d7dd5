r"""Predictions of classes, averaged over networks of the posterior.

.. math:: p(k | x, D) = \frac1K \sum_{j=1}^K \mathrm{softmax}(f(\theta_j, x))_k
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from bayesflow_nn import predictive
from bayesflow_nn.estimators.networks import FlowBNN
from bayesflow_nn.predictive import Uncertainty


class ClassPredictions(FlowBNN):
    """What a fitted classifier predicts, of inputs ``(n_inputs, ...)`` in their own units."""

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Class probabilities ``(n_inputs, n_classes)``, averaged over networks."""
        proba = self._average(predictive.predict_proba, X)
        # Float32 sums miss one by more than metrics accept of float64 arrays made from them.
        proba = proba.astype(np.float64)
        return proba / proba.sum(1, keepdims=True)

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithms of `predict_proba`, in nats."""
        return np.log(self.predict_proba(X))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Most probable class of every input ``(n_inputs,)``."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(-1)]

    def uncertainty(self, X: ArrayLike) -> Uncertainty:
        """Entropy of the class of every input, in nats, and its parts; ``(n_inputs,)`` each.

        See :mod:`bayesflow_nn.predictive.uncertainty`.
        """
        return self._average(predictive.predict_uncertainty, X)
