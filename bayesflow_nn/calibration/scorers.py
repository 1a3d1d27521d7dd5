"""Scores of class probabilities as scikit-learn scorers, for ``scoring=`` of its tools.

A scorer is called as ``scorer(estimator, X, y)``, and larger is better: errors carry a minus sign.

`sklearn.metrics.make_scorer` does not fit here. For two classes it hands on the probability of one
of them alone, and it never hands on ``estimator.classes_``: which column belongs to which label is
lost if a fold lacks a class. For the Brier score and the log loss, scikit-learn has the scorers
``"neg_brier_score"`` and ``"neg_log_loss"``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bayesflow_nn.calibration.reliability import (
    classwise_calibration_error,
    expected_calibration_error,
)


@dataclass(frozen=True)
class ProbabilityScorer:
    """Minus a score of class probabilities, of a fitted classifier on held-out data.

    Labels may be of any type; ``estimator.classes_`` says which column of ``predict_proba`` is
    whose.

    Parameters
    ----------
    score : callable
        Takes probabilities ``(n_inputs, n_classes)`` and class indices ``(n_inputs,)``, and
        returns a number, the smaller the better: `expected_calibration_error`, `brier_score`, or
        ``functools.partial(expected_calibration_error, n_bins=10)``.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from bayesflow_nn.calibration import brier_score
    >>> X, y = [[0.0], [0.0]], ["no", "yes"]
    >>> model = LogisticRegression().fit(X, y)      # probabilities of 1/2
    >>> round(ProbabilityScorer(brier_score)(model, X, y), 4)
    -0.5
    """

    score: Callable[[np.ndarray, np.ndarray], float]

    def __call__(self, estimator: Any, X: ArrayLike, y: ArrayLike) -> float:
        """Return minus the score.

        Parameters
        ----------
        estimator : fitted classifier
            With ``predict_proba`` and ``classes_``.
        X : array of shape (n_inputs, n_features)
        y : array of shape (n_inputs,)
            Labels, each of them one of ``estimator.classes_``.

        Raises
        ------
        TypeError
            If the estimator predicts no class probabilities.
        ValueError
            If a label is none of the estimator's classes.
        """
        if not (hasattr(estimator, "predict_proba") and hasattr(estimator, "classes_")):
            raise TypeError(
                "estimator must be a fitted classifier with predict_proba and classes_, got "
                f"{type(estimator).__name__}; wrap it in CalibratedClassifierCV."
            )
        indices = _class_indices(np.asarray(y), np.asarray(estimator.classes_))
        return -self.score(estimator.predict_proba(X), indices)


neg_expected_calibration_error_scorer = ProbabilityScorer(expected_calibration_error)
"""Minus the expected calibration error over 15 bins of equal width. It is biased upward, the more
the smaller the folds, so compare models on folds of the same size only."""

neg_classwise_calibration_error_scorer = ProbabilityScorer(classwise_calibration_error)
"""Minus the class-wise calibration error over 15 bins of equal width, biased alike."""


def _class_indices(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    order = np.argsort(classes)
    place = np.searchsorted(classes, y, sorter=order)
    indices = order[np.minimum(place, len(classes) - 1)]
    unknown = classes[indices] != y
    if unknown.any():
        raise ValueError(
            f"y must hold labels of the estimator, {classes.tolist()}, got "
            f"{np.unique(y[unknown]).tolist()}; fit on data that has every class."
        )
    return indices
