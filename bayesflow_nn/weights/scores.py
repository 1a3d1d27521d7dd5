r"""Scores of every network on held-out data.

.. math:: s_k = \sum_i w_i \, \ell(f(\theta_k, x_i), y_i) \Big/ \sum_i w_i

with the weights w_i of the inputs, 1 unless given, and for :math:`\ell` the negative log
likelihood, the squared error (a mean over targets), or whether the most probable class is right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.training_data import TrainingData


def score_networks(
    architecture: Architecture, weights: Tensor, held_out: TrainingData
) -> dict[str, Tensor]:
    """Evaluate every network.

    Parameters
    ----------
    architecture : Architecture
    weights : Tensor of shape (n_networks, n_weights)
    held_out : TrainingData

    Returns
    -------
    dict from name to Tensor of shape (n_networks,)
        "nll" (nats per input) and "accuracy", or "mse" and, with a likelihood, "nll".

    Examples
    --------
    >>> line, X = Architecture.mlp([1, 1], bias=False), torch.tensor([[1.0], [2.0]])
    >>> data = TrainingData(X, 0 * X, "mse", sample_weight=torch.tensor([3.0, 1.0]))
    >>> score_networks(line, torch.ones(1, 1), data)  # (3 * 1 + 1 * 4) / 4
    {'mse': tensor([1.7500])}
    """
    X = held_out.X
    chunks = weights.split(architecture.networks_per_chunk(X, weights.element_size()))
    parts = [_score(architecture.apply(rows, X), held_out) for rows in chunks]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _score(outputs: Tensor, data: TrainingData) -> dict[str, Tensor]:
    scores = {}
    if data.likelihood is not None:
        scores["nll"] = -data.likelihood.log_prob(outputs, data.y)
    if data.task == "classification":
        scores["accuracy"] = (outputs.argmax(2) == data.y).to(outputs.dtype)
    else:
        mean = outputs if data.likelihood is None else data.likelihood.moments(outputs)[0]
        scores["mse"] = (mean - data.y).square().mean(2)
    w = data.relative_weight(outputs)
    return {name: (s if w is None else w * s).mean(1) for name, s in scores.items()}
