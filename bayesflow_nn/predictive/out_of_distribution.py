"""Scores that tell unusual inputs from usual ones, and how well they do.

    - max_c p_c(x),      H[p(x)],      I(x)              p: class probabilities of the model average

the largest probability [HG17], the predictive entropy and the mutual information of class and
network, both of :mod:`bayesflow_nn.predictive.uncertainty`. All grow with how unusual an input is.
Detection counts an unusual input as the positive, as in [H19]. Where usual inputs are the positives
`auroc` is the same, and the other two figures are not.

[HG17] D. Hendrycks and K. Gimpel, A baseline for detecting misclassified and out-of-distribution
examples in neural networks, ICLR 2017, arXiv 1610.02136.
[H19] D. Hendrycks, M. Mazeika and T. Dietterich, Deep anomaly detection with outlier exposure,
ICLR 2019, arXiv 1812.04606.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor

from bayesflow_nn.predictive.tiles import CHUNK_SIZE, Tiles, like, normalised
from bayesflow_nn.predictive.uncertainty import average_classes
from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.validation import as_tensor


class OutOfDistributionScores(NamedTuple):
    """How unusual every input is, by three measures; larger is more unusual.

    Attributes
    ----------
    negative_max_probability : array or Tensor of shape (n_inputs,)
        Minus the largest probability of the model average, between -1 and -1 / n_classes.
    entropy : array or Tensor of shape (n_inputs,)
        Entropy of the model average, in nats.
    mutual_information : array or Tensor of shape (n_inputs,)
        Of class and network, in nats: how much the networks disagree.
    """

    negative_max_probability: Tensor | np.ndarray
    entropy: Tensor | np.ndarray
    mutual_information: Tensor | np.ndarray


class Detection(NamedTuple):
    """How well a score tells unusual inputs, the positives, from usual ones.

    Attributes
    ----------
    auroc : float
        Probability that an unusual input has the larger score; ties count half. 0.5 is chance.
    aupr : float
        Average precision; the share of unusual inputs is chance.
    fpr_at_95_tpr : float
        Share of usual inputs that are flagged where at least 95 % of the unusual ones are.
    """

    auroc: float
    aupr: float
    fpr_at_95_tpr: float


def out_of_distribution_scores(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    *,
    network_weights: ArrayLike | Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> OutOfDistributionScores:
    """Score how unusual every input is to a classifier, in one pass over the networks.

    Parameters and errors are those of `predict_proba`.

    Returns
    -------
    OutOfDistributionScores
        Three vectors ``(n_inputs,)`` of the kind of `X`. Always float64: ranks of confident
        predictions lie in digits that float32 does not have.

    Examples
    --------
    Far from zero these two networks disagree.

    >>> linear = Architecture.mlp([1, 2], bias=False)
    >>> scores = out_of_distribution_scores(linear, [[1.0, -1.0], [0.0, 0.0]], [[0.1], [5.0]])
    >>> scores.mutual_information.round(4)
    array([0.0012, 0.2155])
    """
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    averages = average_classes(tiles, normalised(network_weights, tiles.weights))
    uncertainty = averages.uncertainty()
    scores = -averages.proba.amax(0), uncertainty.total, uncertainty.epistemic
    return OutOfDistributionScores(*(like(X, score) for score in scores))


def detection(inside: ArrayLike | Tensor, outside: ArrayLike | Tensor) -> Detection:
    """Judge a score by its values for usual and for unusual inputs.

    Parameters
    ----------
    inside : array or Tensor of shape (n_inside,)
        Scores of inputs from the distribution of the training data.
    outside : array or Tensor of shape (n_outside,)
        Scores of inputs from elsewhere; larger ones should be more unusual.

    Returns
    -------
    Detection
        `auroc`, `aupr` and `fpr_at_95_tpr`, between 0 and 1.

    Raises
    ------
    ValueError
        If either is no vector of at least one finite score.

    Examples
    --------
    >>> detection([0.1, 0.2, 0.6], [0.5, 0.7, 0.9])
    Detection(auroc=0.888..., aupr=0.916..., fpr_at_95_tpr=0.333...)
    """
    scores = [_check_scores("inside", inside), _check_scores("outside", outside)]
    is_outside = np.repeat([0, 1], [len(s) for s in scores])
    scores = np.concatenate(scores)
    # Without intermediate points the first one past 95 % may be missing on a slope of ties.
    fpr, tpr, _ = roc_curve(is_outside, scores, drop_intermediate=False)
    return Detection(
        float(roc_auc_score(is_outside, scores)),
        float(average_precision_score(is_outside, scores)),
        float(fpr[np.argmax(tpr >= 0.95)]),
    )


def _check_scores(name: str, scores: ArrayLike | Tensor) -> np.ndarray:
    values = as_tensor(scores).numpy(force=True)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be a vector of at least one finite score, larger for more unusual "
            f"inputs, got shape {values.shape}."
        )
    return values.astype(np.float64)
