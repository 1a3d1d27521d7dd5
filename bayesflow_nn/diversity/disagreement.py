r"""How often classifiers disagree, and whether they err together.

For networks i and k on N inputs, with the counts n_ab of inputs on which i is right (a = 1) or
wrong (0) and k is right or wrong (b),

.. math::
    \text{disagreement} = \frac{1}{N} \sum_l [c_i(x_l) \neq c_k(x_l)], \qquad
    Q_{ik} = \frac{n_{11} n_{00} - n_{01} n_{10}}{n_{11} n_{00} + n_{01} n_{10}}    \text{ [KW03]}.

Yule's Q is 0 for independent errors, positive if networks tend to be right on the same inputs, and
1 if one is wrong only where the other is.

[KW03] L. Kuncheva and C. Whitaker, Measures of diversity in classifier ensembles and their
relationship with the ensemble accuracy, Machine Learning 51 (2003).
"""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.diversity.inputs import check_errors, check_same_inputs
from bayesflow_nn.weights.validation import as_tensor


def disagreement(labels: ArrayLike | Tensor, reference: ArrayLike | Tensor | None = None) -> Tensor:
    """Fraction of inputs to which two networks give different classes, for every two.

    Parameters
    ----------
    labels : integer array or Tensor of shape (n_networks, n_inputs)
        Predicted classes, not negative.
    reference : integer array or Tensor of shape (n_references, n_inputs), optional
        Networks to compare with; `labels` itself by default.

    Returns
    -------
    Tensor of shape (n_networks, n_references)
        Between 0 and 1, float64.

    Raises
    ------
    TypeError
        If labels are no integers.
    ValueError
        If a shape is wrong or a label is negative.

    Examples
    --------
    >>> disagreement([[0, 1, 2, 2], [0, 1, 1, 0]])
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]], dtype=torch.float64)
    """
    a = _check_labels("labels", labels)
    b = a if reference is None else _check_labels("reference", reference)
    check_same_inputs(a, b)
    agreeing = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for c in range(int(torch.maximum(a.max(), b.max())) + 1):
        agreeing += (a == c).double() @ (b == c).double().T
    return 1 - agreeing / a.shape[1]


def q_statistic(wrong: ArrayLike | Tensor, reference: ArrayLike | Tensor | None = None) -> Tensor:
    """Yule's Q of the errors of two networks, for every two.

    Parameters
    ----------
    wrong : boolean array or Tensor of shape (n_networks, n_inputs)
        Whether a network's prediction for an input is wrong.
    reference : boolean array or Tensor of shape (n_references, n_inputs), optional
        Networks to compare with; `wrong` itself by default.

    Returns
    -------
    Tensor of shape (n_networks, n_references)
        Between -1 and 1, float64. NaN where both products vanish, as for a network without errors:
        whether errors go together cannot be said then.

    Raises
    ------
    TypeError
        If entries are not boolean.
    ValueError
        If a shape is wrong.

    Examples
    --------
    >>> q_statistic([[True, True, False, False], [True, False, True, False]])
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    a = check_errors("wrong", wrong)
    b = a if reference is None else check_errors("reference", reference)
    check_same_inputs(a, b)
    a, b = a.double(), b.double()
    same = (a @ b.T) * ((1 - a) @ (1 - b).T)
    other = (a @ (1 - b).T) * ((1 - a) @ b.T)
    return (same - other) / (same + other)


def _check_labels(name: str, values: ArrayLike | Tensor) -> Tensor:
    labels = as_tensor(values)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"{name} must be integer classes, got {labels.dtype}; use proba.argmax(-1)."
        )
    if labels.ndim != 2 or 0 in labels.shape or labels.min() < 0:
        raise ValueError(
            f"{name} must hold classes 0, 1, ... of shape (n_networks, n_inputs), got shape "
            f"{tuple(labels.shape)}{f', from {int(labels.min())}' if labels.numel() else ''}."
        )
    return labels
