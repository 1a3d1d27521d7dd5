"""How differently networks predict.

    JSD(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2              nats, between 0 and log 2
    IoU(A, B) = |A and B| / |A or B|                            A, B: inputs predicted wrongly

The Jensen-Shannon divergence of predicted classes, averaged over inputs, is the diversity of
[E25] eq. 7.1; the largest IoU of a network's errors with those of other networks is the measure of
[DWF] section 5.3.
"""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.diversity.inputs import check_errors, check_probabilities, check_same_inputs
from bayesflow_nn.weights.validation import check_integer


def pairwise_jsd(
    proba: ArrayLike | Tensor,
    reference: ArrayLike | Tensor | None = None,
    *,
    chunk_size: int = 64,
) -> Tensor:
    """Jensen-Shannon divergence between the predictions of every two networks.

    The mean of all entries, for a set against itself, is the diversity of [E25] eq. 7.1.

    Parameters
    ----------
    proba : array or Tensor of shape (n_networks, n_inputs, n_classes)
        Class probabilities of each network.
    reference : array or Tensor of shape (n_references, n_inputs, n_classes), optional
        Networks to compare with; `proba` itself by default.
    chunk_size : int
        Pairs compared at once, which bounds the memory: ``chunk_size * n_inputs * n_classes``
        numbers beyond the input.

    Returns
    -------
    Tensor of shape (n_networks, n_references)
        Means over inputs, in nats, float64.

    Raises
    ------
    ValueError
        If a shape is wrong, entries are no probabilities, or `chunk_size` is no positive integer.

    Examples
    --------
    >>> pairwise_jsd([[[1.0, 0.0]], [[0.0, 1.0]]])                   # log 2 = 0.6931...
    tensor([[0.0000, 0.6931],
            [0.6931, 0.0000]], dtype=torch.float64)
    """
    chunk_size = check_integer("chunk_size", chunk_size)
    p = check_probabilities("proba", proba)
    q = p if reference is None else check_probabilities("reference", reference)
    check_same_inputs(p, q)
    jsd = [
        _mean_entropy((p[i].double() + q[j].double()) / 2)
        for i, j in (
            (pairs // len(q), pairs % len(q))
            for pairs in torch.arange(len(p) * len(q), device=p.device).split(chunk_size)
        )
    ]
    h_p, h_q = (torch.cat([_mean_entropy(x.double()) for x in y.split(chunk_size)]) for y in (p, q))
    # Rounding may leave equal networks just below zero.
    return (torch.cat(jsd).view(len(p), len(q)) - (h_p[:, None] + h_q) / 2).clamp_min(0)


def max_iou(
    wrong: ArrayLike | Tensor,
    reference: ArrayLike | Tensor | None = None,
    *,
    chunk_size: int = 1024,
) -> Tensor:
    """Largest overlap of each network's errors with those of any reference network.

    Parameters
    ----------
    wrong : boolean array or Tensor of shape (n_networks, n_inputs)
        Whether a network's prediction for an input is wrong.
    reference : boolean array or Tensor of shape (n_references, n_inputs), optional
        Networks to compare with; by default all other networks of `wrong`.
    chunk_size : int
        Reference networks compared at once, which bounds the memory.

    Returns
    -------
    Tensor of shape (n_networks,)
        1 if some reference network errs on the same inputs, 0 if all err on other ones. Two
        networks without errors count as equal.

    Raises
    ------
    TypeError
        If entries are not boolean.
    ValueError
        If a shape is wrong, there is no network to compare with, or `chunk_size` is no positive
        integer.

    Examples
    --------
    >>> max_iou([[True, True, False], [False, True, False]])
    tensor([0.5000, 0.5000])
    """
    chunk_size = check_integer("chunk_size", chunk_size)
    a = check_errors("wrong", wrong, at_least=2 if reference is None else 1)
    b = a if reference is None else check_errors("reference", reference)
    check_same_inputs(a, b)
    best = torch.zeros(len(a), device=a.device)
    for start in range(0, len(b), chunk_size):
        iou = _iou(a, b[start : start + chunk_size])
        if reference is None:
            iou[start : start + chunk_size].fill_diagonal_(0)
        best = torch.maximum(best, iou.amax(1))
    return best


def _iou(a: Tensor, b: Tensor) -> Tensor:
    # Counts are exact in float32 up to 2**24 inputs.
    a, b = a.float(), b.float()
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - both
    return torch.where(either == 0, 1.0, both / either)


def _mean_entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1).mean(-1)
