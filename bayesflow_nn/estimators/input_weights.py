r"""Weights of the inputs of a fit.

.. math:: w_i = s_i \, c_{y_i}

with the weight :math:`s_i` that input i comes with and the factor :math:`c_k` of its class k, each
1 if not given. Balanced classes have :math:`c_k = \sum_i s_i / (K \sum_{i: y_i = k} s_i)`, with K
classes among the labels: all have the same total weight, and the sum of weights stays.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.class_weight import compute_class_weight

from bayesflow_nn.weights.validation import check_sample_weight


def drop_weightless(
    X: np.ndarray, y: np.ndarray, sample_weight: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows with a positive weight, and their weights; all of them if there are no weights.

    Examples
    --------
    >>> drop_weightless(np.eye(2), np.array([5, 6]), [0, 3])
    (array([[0., 1.]]), array([6]), array([3.]))
    """
    if sample_weight is None:
        return X, y, None
    w = check_sample_weight(np.asarray(sample_weight, np.float64), len(X)).numpy()
    return X[w > 0], y[w > 0], w[w > 0]


def apply_class_weight(
    class_weight: Mapping | str | None,
    classes: np.ndarray,
    labels: np.ndarray,
    sample_weight: np.ndarray | None,
) -> np.ndarray | None:
    """Weights ``(n_inputs,)`` times the factors of their classes; None if neither is given.

    Parameters
    ----------
    class_weight : mapping from class to float, "balanced" or None
        1 for classes that are not named.
    classes : ndarray of shape (n_classes,)
    labels : ndarray of shape (n_inputs,)
        Places in `classes`.
    sample_weight : ndarray of shape (n_inputs,) or None

    Raises
    ------
    ValueError
        If `class_weight` names no class, is not finite and non-negative, or leaves no input.

    Examples
    --------
    >>> labels = np.array([0, 0, 0, 1])
    >>> apply_class_weight({"b": 3.0}, np.array(["a", "b"]), labels, None)
    array([1., 1., 1., 3.])
    >>> apply_class_weight("balanced", np.array(["a", "b"]), labels, np.array([1, 1, 2, 1.0]))
    array([0.625, 0.625, 1.25 , 2.5  ])
    """
    if class_weight is None:
        return sample_weight
    if isinstance(class_weight, str) and class_weight == "balanced":
        # Before version 1.7 scikit-learn counts inputs without their weights.
        totals = np.bincount(labels, sample_weight)
        factors = totals.sum() / (np.count_nonzero(totals) * totals[labels])
    else:
        factors = compute_class_weight(class_weight, classes=classes, y=classes[labels])
        if not (np.isfinite(factors).all() and (factors >= 0).all() and factors[labels].any()):
            raise ValueError(
                f"class_weight must hold finite, non-negative numbers that are not all zero for "
                f"the labels in y, got {class_weight!r}."
            )
        factors = factors[labels]
    return factors if sample_weight is None else factors * sample_weight
