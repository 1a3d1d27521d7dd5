"""Training data as tensors that fit the architecture and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.likelihoods import Categorical, Likelihood
from bayesflow_nn.weights.losses import LOSSES, Loss
from bayesflow_nn.weights.stateless import run_once
from bayesflow_nn.weights.validation import (
    check_inputs,
    check_option,
    check_sample_weight,
    name_rows,
)

MOST_INPUTS = 1024
"""Training inputs that a population keeps."""


@dataclass(frozen=True)
class TrainingData:
    """Checked inputs and targets.

    Parameters
    ----------
    X : Tensor of shape (n_inputs, ...)
    y : Tensor of shape (n_inputs,) of integer labels, or (n_inputs, n_targets) of real targets
    loss : {"cross_entropy", "mse"}, Likelihood or callable
    sample_weight : Tensor of shape (n_inputs,), optional
        Positive weights in double precision.
    """

    X: Tensor
    y: Tensor
    loss: str | Loss | Likelihood
    sample_weight: Tensor | None = None

    @property
    def task(self) -> str:
        """Return that of the likelihood, else "classification" for integer targets."""
        if self.likelihood is not None:
            return self.likelihood.task
        return "regression" if self.y.is_floating_point() else "classification"

    @property
    def likelihood(self) -> Likelihood | None:
        """The likelihood that the loss is of; None for squared errors and callables."""
        if self.loss == "cross_entropy":
            return Categorical()
        return self.loss if hasattr(self.loss, "log_prob") else None

    @property
    def metric_loss(self) -> str | Likelihood:
        """Return the loss that validation targets of this task must fit."""
        if self.task == "classification":
            return "cross_entropy"
        return "mse" if self.likelihood is None else self.likelihood

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return len(self.X)

    def relative_weight(self, like: Tensor) -> Tensor | None:
        """Weights over their mean ``(n_inputs,)``, in the dtype of `like`; None if all are equal.

        Only ratios of weights matter to a mean, so equal ones are none.
        """
        w = self.sample_weight
        if w is None or bool((w == w[0]).all()):
            return None
        return (w / w.mean()).to(like)


def check_data(
    architecture: Architecture,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    loss: str | Loss | Likelihood,
    device: torch.device | str | None,
    sample_weight: ArrayLike | Tensor | None = None,
) -> TrainingData:
    """Convert data to tensors on one device, and raise if they do not fit.

    Inputs of weight zero are left out.

    Parameters
    ----------
    architecture : Architecture
    X : array of shape (n_inputs, ...)
    y : array of shape (n_inputs,) or (n_inputs, n_outputs)
    loss : {"auto", "cross_entropy", "mse"}, Likelihood or callable
    device : torch.device, str or None
        None leaves `X` where it is.
    sample_weight : array of shape (n_inputs,), optional
    """
    X = _to_tensor(X, architecture, device)
    check_inputs(X, architecture.sizes[0] if architecture.is_mlp else None)
    y = torch.as_tensor(y, device=X.device)
    if len(X) == 0 or y.ndim == 0 or len(y) != len(X):
        raise ValueError(
            f"X and y must have the same number of rows, at least one, got shapes "
            f"{tuple(X.shape)} and {tuple(y.shape)}."
        )
    _check_finite("X", X)
    _check_finite("y", y)
    if sample_weight is not None:
        sample_weight = check_sample_weight(sample_weight, len(X)).to(X.device)
        counts = sample_weight > 0
        X, y, sample_weight = X[counts], y[counts], sample_weight[counts]
    loss = _resolve_loss(loss, y)
    if sample_weight is not None and not (isinstance(loss, str) or hasattr(loss, "log_prob")):
        raise ValueError(
            "sample_weight needs a loss of single inputs: 'cross_entropy', 'mse' or a likelihood, "
            "got a callable, which maps a whole minibatch to one number."
        )
    # Inputs that are token indices say nothing about the targets.
    dtype = X.dtype if X.is_floating_point() else architecture.dtype
    y = _as_targets(y, dtype, loss)
    _check_outputs(architecture, X, y, loss)
    return TrainingData(X, y, loss, sample_weight)


def spread_rows(rows: Tensor, most: int) -> Tensor:
    """At most `most` rows, evenly spaced, so that sorted data are covered as well."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, device=rows.device).round().long()]


def _to_tensor(X: ArrayLike | Tensor, architecture: Architecture, device: object) -> Tensor:
    keep_dtype = isinstance(X, Tensor) and X.is_floating_point()
    X = torch.as_tensor(X, device=device).detach()
    # Integer inputs may be token indices, unless the network is a multilayer perceptron.
    if not keep_dtype and (architecture.is_mlp or X.is_floating_point()):
        return X.to(architecture.dtype)
    return X


def _check_finite(name: str, values: Tensor) -> None:
    bad = ~torch.isfinite(values.reshape(len(values), -1)).all(dim=1)
    if bad.any():
        raise ValueError(f"{name} must be finite, got NaN or inf in rows {name_rows(bad)}.")


def _resolve_loss(loss: str | Loss | Likelihood, y: Tensor) -> str | Loss | Likelihood:
    if isinstance(loss, Categorical):
        loss = "cross_entropy"
    if callable(loss) or hasattr(loss, "log_prob"):
        return loss
    check_option("loss", loss, ("auto", *LOSSES))
    if loss == "auto":
        return "mse" if y.is_floating_point() else "cross_entropy"
    if loss == "cross_entropy" and (y.is_floating_point() or y.ndim != 1):
        raise ValueError(
            f"y must be integer labels of shape (n_inputs,) for loss='cross_entropy', got "
            f"{y.dtype} of shape {tuple(y.shape)}; use y.long()."
        )
    return loss


def _as_targets(y: Tensor, dtype: torch.dtype, loss: str | Loss | Likelihood) -> Tensor:
    if loss == "mse" or hasattr(loss, "log_prob"):
        return y.to(dtype).reshape(len(y), -1)
    return y.to(dtype) if y.is_floating_point() else y.long()


def _check_outputs(
    architecture: Architecture, X: Tensor, y: Tensor, loss: str | Loss | Likelihood
) -> None:
    if callable(loss):
        return
    n_outputs = architecture.n_outputs or run_once(architecture.module, X[:1]).shape[1]
    if loss == "mse" and y.shape[1] != n_outputs:
        raise ValueError(
            f"y must have {n_outputs} target(s) per input for {architecture!r}, got {y.shape[1]}; "
            f"if y holds class labels, pass integers."
        )
    if hasattr(loss, "log_prob") and loss.n_outputs(y.shape[1]) != n_outputs:
        raise ValueError(
            f"architecture must have {loss.n_outputs(y.shape[1])} outputs for {y.shape[1]} "
            f"target(s) and {loss!r}, got {n_outputs}."
        )
    if loss == "cross_entropy" and not 0 <= int(y.min()) <= int(y.max()) < n_outputs:
        raise ValueError(
            f"y must hold labels from 0 to {n_outputs - 1} for {architecture!r}, "
            f"got {int(y.min())} to {int(y.max())}."
        )
