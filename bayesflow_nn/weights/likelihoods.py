r"""Likelihoods: what the outputs of a network say about its targets.

For outputs :math:`f = f(\theta, x)` and a target y of one or more numbers, in nats:

.. math::
    \text{Categorical} \quad & \log p(y | f) = \log \mathrm{softmax}(f)_y \\
    \text{Normal} \quad & \log p(y | f) = \sum_j \log N(y_j; f_j, s_j^2) \\
    \text{HeteroscedasticNormal} \quad & \log p(y | f) =
        \sum_j \log N(y_j; f_j, \sigma_j^2), \quad \sigma_j = s_{\min} + \exp(f_{m + j}) \\
    \text{StudentT} \quad & \log p(y | f) = \sum_j \log t_\nu((y_j - f_j) / s_j) - \log s_j

with m targets. Training, Markov chains, importance weights and predictions share these objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights.validation import as_tensor, check_real

_LOG_2_PI = math.log(2 * math.pi)


class Likelihood(Protocol):
    """The law of targets given the outputs of networks.

    Outputs have the shape ``(..., n_inputs, n_outputs)``. Targets are integers ``(n_inputs,)`` for
    classification, and real numbers ``(n_inputs, n_targets)`` for regression.
    """

    @property
    def task(self) -> str:
        """Either "classification" or "regression"."""

    def n_outputs(self, n_targets: int) -> int:
        """Outputs that a network needs for so many classes, or targets."""

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log density of every target ``(..., n_inputs)``, summed over its numbers, in nats."""

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the targets, both ``(..., n_inputs, n_targets)``."""

    def draw(self, outputs: Tensor, rng: np.random.Generator) -> Tensor:
        """One target per network and input, ``(..., n_inputs[, n_targets])``."""


@dataclass(frozen=True)
class Categorical:
    """Labels with the probabilities softmax(f).

    Examples
    --------
    >>> Categorical().log_prob(torch.zeros(1, 2), torch.tensor([0]))  # log of 1/2
    tensor([-0.6931])
    """

    task = "classification"

    def n_outputs(self, n_targets: int) -> int:
        """One logit per class."""
        return n_targets

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log probability of every label, in nats."""
        labels = y.expand(outputs.shape[:-1])[..., None]
        return outputs.log_softmax(-1).gather(-1, labels).squeeze(-1)

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the one-hot label: p and p (1 - p)."""
        p = outputs.softmax(-1)
        return p, p * (1 - p)

    def draw(self, outputs: Tensor, rng: np.random.Generator) -> Tensor:
        """Labels, by inversion of the cumulative probabilities."""
        edges = outputs.softmax(-1).cumsum(-1)[..., :-1]
        u = torch.as_tensor(rng.random((*edges.shape[:-1], 1))).to(edges)
        return (u >= edges).sum(-1)


@dataclass(frozen=True)
class Normal:
    """Targets that scatter about the outputs with one standard deviation.

    Parameters
    ----------
    scale : float, or array of shape (n_targets,)
        Standard deviation, in the units of the targets.

    Examples
    --------
    >>> Normal(2.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1))  # -log(2 sqrt(2 pi))
    tensor([-1.6121])
    """

    scale: float | tuple[float, ...]

    task = "regression"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _check_scale("scale", self.scale))

    def n_outputs(self, n_targets: int) -> int:
        """One mean per target."""
        return n_targets

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log density of every target, in nats."""
        return _log_normal(y, outputs, _scale_like(self.scale, outputs))

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the targets."""
        return outputs, _scale_like(self.scale, outputs).square().expand_as(outputs)

    def draw(self, outputs: Tensor, rng: np.random.Generator) -> Tensor:
        """Targets with noise."""
        return outputs + _scale_like(self.scale, outputs) * _normal_like(outputs, rng)


@dataclass(frozen=True)
class HeteroscedasticNormal:
    """Targets whose noise the network predicts: m means, then the logarithms of m scales.

    Parameters
    ----------
    min_scale : float
        Smallest standard deviation, in the units of the targets. It keeps the density bounded where
        a network meets its training targets exactly.

    Examples
    --------
    >>> outputs = torch.tensor([[3.0, 0.0]])  # mean 3, scale 1
    >>> HeteroscedasticNormal(min_scale=0.0).log_prob(outputs, torch.tensor([[3.0]]))
    tensor([-0.9189])
    """

    min_scale: float = 1e-3

    task = "regression"

    def __post_init__(self) -> None:
        check_real("min_scale", self.min_scale, 0)

    def n_outputs(self, n_targets: int) -> int:
        """A mean and a log scale per target."""
        return 2 * n_targets

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log density of every target, in nats."""
        mean, log_scale = outputs.chunk(2, -1)
        return _log_normal(y, mean, self.min_scale + log_scale.exp())

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the targets."""
        mean, log_scale = outputs.chunk(2, -1)
        return mean, (self.min_scale + log_scale.exp()).square()

    def draw(self, outputs: Tensor, rng: np.random.Generator) -> Tensor:
        """Targets with noise."""
        mean, variance = self.moments(outputs)
        return mean + variance.sqrt() * _normal_like(mean, rng)


@dataclass(frozen=True)
class StudentT:
    """Targets that scatter about the outputs with heavy tails.

    Parameters
    ----------
    df : float
        Degrees of freedom, above 2, so that the variance is finite.
    scale : float, or array of shape (n_targets,)
        Scale, in the units of the targets; the standard deviation is sqrt(df / (df - 2)) times it.

    Examples
    --------
    >>> round(StudentT(4.0, 1.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1)).item(), 4)
    -0.9808
    """

    df: float
    scale: float | tuple[float, ...]

    task = "regression"

    def __post_init__(self) -> None:
        check_real("df", self.df, 2, strict=True)
        object.__setattr__(self, "scale", _check_scale("scale", self.scale))

    def n_outputs(self, n_targets: int) -> int:
        """One centre per target."""
        return n_targets

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log density of every target, in nats."""
        scale = _scale_like(self.scale, outputs)
        z = (y - outputs) / scale
        constant = (
            math.lgamma((self.df + 1) / 2)
            - math.lgamma(self.df / 2)
            - 0.5 * math.log(self.df * math.pi)
        )
        tail = -(self.df + 1) / 2 * torch.log1p(z.square() / self.df)
        return (constant - scale.log() + tail).sum(-1)

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the targets."""
        variance = self.df / (self.df - 2) * _scale_like(self.scale, outputs).square()
        return outputs, variance.expand_as(outputs)

    def draw(self, outputs: Tensor, rng: np.random.Generator) -> Tensor:
        """Targets with noise."""
        noise = torch.as_tensor(rng.standard_t(self.df, outputs.shape)).to(outputs)
        return outputs + _scale_like(self.scale, outputs) * noise


def resolve_likelihood(task: str, likelihood: float | Likelihood | None) -> Likelihood:
    """Return the likelihood of a task: its own, or that of a standard deviation.

    Parameters
    ----------
    task : {"classification", "regression"}
    likelihood : Likelihood, float or None
        None is class probabilities, a float the standard deviation of normal noise.

    Raises
    ------
    ValueError
        If a regression has none, or a likelihood is of the other task.
    TypeError
        If it is none of these.

    Examples
    --------
    >>> resolve_likelihood("regression", 0.5)
    Normal(scale=0.5)
    """
    if likelihood is None:
        if task == "regression":
            raise ValueError(
                "likelihood must be the standard deviation of the noise, or a likelihood such as "
                "HeteroscedasticNormal(), for regression, got None."
            )
        return Categorical()
    if not hasattr(likelihood, "log_prob"):
        if isinstance(likelihood, str):
            raise TypeError(
                f"likelihood must be a number, a likelihood such as HeteroscedasticNormal(), or "
                f"None, got {likelihood!r}."
            )
        if task == "classification":
            raise ValueError(
                f"likelihood must be None or Categorical() for classification, got {likelihood!r}."
            )
        return Normal(likelihood)
    if likelihood.task != task:
        raise ValueError(
            f"likelihood must be one of {task}, as the networks are, got {likelihood!r}."
        )
    return likelihood


def _check_scale(name: str, scale: float | ArrayLike) -> float | tuple[float, ...]:
    """A positive number, or a tuple of them: frozen objects hold no arrays."""
    values = as_tensor(scale)
    if values.ndim == 0:
        return check_real(name, values.item(), 0, strict=True)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"{name} must be one number, or one per target, shape (n_targets,), got "
            f"{tuple(values.shape)}."
        )
    return tuple(check_real(name, value, 0, strict=True) for value in values.tolist())


def _scale_like(scale: float | tuple[float, ...], outputs: Tensor) -> Tensor:
    values = torch.as_tensor(scale, dtype=outputs.dtype, device=outputs.device)
    if values.ndim and len(values) != outputs.shape[-1]:
        raise ValueError(
            f"scale must have one number per target, {outputs.shape[-1]} of them, got "
            f"{len(values)}."
        )
    return values


def _log_normal(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    square = ((y - mean) / scale).square()
    return -(0.5 * (square + _LOG_2_PI) + scale.log()).sum(-1)


def _normal_like(mean: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.as_tensor(rng.standard_normal(mean.shape)).to(mean)
