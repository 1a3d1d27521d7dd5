"""Training losses, their derivatives at the outputs, and validation metrics per network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bayesflow_nn.weights.architecture import Architecture

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy_derivative(z: Tensor, labels: Tensor, batch: int, out: Tensor) -> None:
    """Write d/dz of the mean cross-entropy: ``(softmax(z) - one_hot(y)) / batch``.

    Parameters
    ----------
    z, out : Tensor of shape (n_networks, n_classes, n_rows)
        Logits, and where the derivative goes.
    labels : Tensor of shape (n_networks, 1, n_rows)
        Integer classes y.
    batch : int
        Number of inputs that the mean is over.
    """
    torch.softmax(z, 1, out=out)
    out.scatter_add_(1, labels, out.new_full((), -1.0).expand(labels.shape))
    out.mul_(1 / batch)


def squared_error_derivative(z: Tensor, targets: Tensor, batch: int, out: Tensor) -> None:
    """Write d/dz of the squared error, mean over minibatch and outputs.

    Parameters
    ----------
    z, out : Tensor of shape (n_networks, n_outputs, n_rows)
        Predictions, and where the derivative goes.
    targets : Tensor of shape (n_networks, n_outputs, n_rows)
    batch : int
        Number of inputs that the mean is over.
    """
    torch.sub(z, targets, out=out)
    out.mul_(2 / (batch * out.shape[1]))


LOSSES: dict[str, Loss] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
"""Losses of one network: outputs ``(batch, n_outputs)`` and targets to a scalar."""

DERIVATIVES = {"cross_entropy": cross_entropy_derivative, "mse": squared_error_derivative}


def score_networks(
    architecture: Architecture, weights: Tensor, X: Tensor, y: Tensor, task: str
) -> dict[str, Tensor]:
    """Evaluate every network on validation data.

    Parameters
    ----------
    architecture : Architecture
    weights : Tensor of shape (n_networks, n_weights)
    X : Tensor of shape (n_inputs, ...)
    y : Tensor of shape (n_inputs,) or (n_inputs, n_outputs)
    task : {"classification", "regression"}

    Returns
    -------
    dict from name to Tensor of shape (n_networks,)
        "nll" (nats per input) and "accuracy", or "mse".
    """
    score = _score_labels if task == "classification" else _score_targets
    n_rows = architecture.networks_per_chunk(X, weights.element_size())
    parts = [score(architecture.apply(rows, X), y) for rows in weights.split(n_rows)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _score_labels(outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
    log_proba = outputs.log_softmax(2)
    of_label = log_proba[:, torch.arange(len(y), device=y.device), y]
    accuracy = (outputs.argmax(2) == y).to(outputs.dtype).mean(1)
    return {"nll": -of_label.mean(1), "accuracy": accuracy}


def _score_targets(outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"mse": (outputs - y).square().mean((1, 2))}
