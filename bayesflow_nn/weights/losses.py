"""Training losses, and their derivatives at the outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bayesflow_nn.weights.likelihoods import Categorical, Likelihood

Loss = Callable[[Tensor, Tensor], Tensor]
WeightedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
Derivative = Callable[[Tensor, Tensor, int, Tensor], None]


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

_DERIVATIVES = {"cross_entropy": cross_entropy_derivative, "mse": squared_error_derivative}


def resolve_loss(loss: str | Loss | Likelihood) -> Loss:
    """Loss of one network, a scalar; of a likelihood the mean negative log likelihood, in nats."""
    if isinstance(loss, str):
        return LOSSES[loss]
    if not hasattr(loss, "log_prob"):
        return loss
    return lambda outputs, y: -loss.log_prob(outputs, y).mean()


def resolve_weighted_loss(loss: str | Likelihood) -> WeightedLoss:
    """Loss of one network with a weight per input: ``sum_i w_i l_i / batch``.

    The function maps outputs ``(batch, n_outputs)``, targets and weights ``(batch,)`` to a scalar.
    """
    if loss == "mse":
        return lambda outputs, y, w: (w * (outputs - y).square().mean(1)).mean()
    likelihood = Categorical() if loss == "cross_entropy" else loss
    return lambda outputs, y, w: -(w * likelihood.log_prob(outputs, y)).mean()


def resolve_derivative(loss: str | Likelihood) -> Derivative:
    """Function that writes the derivative of a loss at the outputs of many networks.

    Parameters and layout are those of `squared_error_derivative`.
    """
    if isinstance(loss, str):
        return _DERIVATIVES[loss]

    def total(z: Tensor, targets: Tensor) -> Tensor:
        return -loss.log_prob(z.mT, targets.mT).sum()

    differentiate = torch.func.grad(total)

    def derivative(z: Tensor, targets: Tensor, batch: int, out: Tensor) -> None:
        out.copy_(differentiate(z, targets)).mul_(1 / batch)

    return derivative
