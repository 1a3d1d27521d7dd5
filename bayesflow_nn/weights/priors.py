r"""Priors over the weights of a network: independent laws of every weight, centred at zero.

With a scale :math:`s_i` per weight, in nats:

.. math::
    \text{NormalPrior} \quad & \log p(\theta) =
        -\sum_i \tfrac12 (\theta_i / s_i)^2 + \log s_i + \tfrac12 \log 2 \pi \\
    \text{LaplacePrior} \quad & \log p(\theta) = -\sum_i |\theta_i| / s_i + \log 2 s_i

Markov chains, importance weights and refinement take these objects, or any function of weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.validation import check_integer, check_real, check_weights

_LOG_2_PI = math.log(2 * math.pi)


class Prior(Protocol):
    """A law of the weights of one architecture.

    A method ``gradient(weights, architecture)`` of its log density is used where there is one;
    otherwise autograd takes it.
    """

    def log_prob(self, weights: Tensor, architecture: Architecture) -> Tensor:
        """Log density ``(n,)`` of weights ``(n, n_weights)``, in nats, with its constant."""

    def draw(self, n: int, architecture: Architecture, generator: torch.Generator) -> Tensor:
        """Draw ``n`` networks ``(n, n_weights)`` in the dtype of the architecture."""


@dataclass(frozen=True)
class NormalPrior:
    """Independent normal weights.

    Parameters
    ----------
    scale : float, or mapping from name to float
        Standard deviation of every weight, or one for each of the architecture's ``names``.

    Raises
    ------
    TypeError
        If a scale is no number.
    ValueError
        If a scale is not positive and finite, or, when the prior meets an architecture, if the
        names are not those of its parameters.

    Examples
    --------
    >>> mlp = Architecture.mlp([1, 1])
    >>> NormalPrior(1.0).log_prob(torch.zeros(1, 2), mlp)  # -log(2 pi)
    tensor([-1.8379])
    >>> wide_biases = NormalPrior({"0.weight": 1.0, "0.bias": 10.0})
    >>> wide_biases.draw(5, mlp, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 2])
    """

    scale: float | Mapping[str, float] = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def log_prob(self, weights: Tensor, architecture: Architecture) -> Tensor:
        """Log density of every network, in nats.

        Parameters
        ----------
        weights : Tensor of shape (n, n_weights)
        architecture : Architecture

        Returns
        -------
        Tensor of shape (n,)
        """
        check_weights(weights, architecture.n_weights)
        scale = _spread(self.scale, architecture, weights)
        constant = scale.log().sum() + architecture.n_weights * _LOG_2_PI / 2
        return -(weights / scale).square().sum(1) / 2 - constant

    def gradient(self, weights: Tensor, architecture: Architecture) -> Tensor:
        """Gradient ``(n, n_weights)`` of the log density: minus weights over squared scales."""
        return weights * -_spread(self.scale, architecture, weights).pow(-2)

    def draw(self, n: int, architecture: Architecture, generator: torch.Generator) -> Tensor:
        """Draw independent networks.

        Parameters
        ----------
        n : int
        architecture : Architecture
        generator : torch.Generator

        Returns
        -------
        Tensor of shape (n, n_weights)
            In the dtype of the architecture.
        """
        shape = check_integer("n", n), architecture.n_weights
        noise = torch.randn(shape, generator=generator, dtype=architecture.dtype)
        return noise * _spread(self.scale, architecture, noise)


@dataclass(frozen=True)
class LaplacePrior:
    """Independent Laplace weights: sharper at zero and heavier in the tails than normal ones.

    Parameters
    ----------
    scale : float, or mapping from name to float
        Mean absolute value of every weight, or one for each of the architecture's ``names``.

    Raises
    ------
    TypeError
        If a scale is no number.
    ValueError
        If a scale is not positive and finite, or, when the prior meets an architecture, if the
        names are not those of its parameters.

    Examples
    --------
    >>> mlp = Architecture.mlp([1, 1])
    >>> LaplacePrior(1.0).log_prob(torch.zeros(1, 2), mlp)  # -2 log 2
    tensor([-1.3863])
    """

    scale: float | Mapping[str, float] = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def log_prob(self, weights: Tensor, architecture: Architecture) -> Tensor:
        """Log density of every network, in nats.

        Parameters
        ----------
        weights : Tensor of shape (n, n_weights)
        architecture : Architecture

        Returns
        -------
        Tensor of shape (n,)
        """
        check_weights(weights, architecture.n_weights)
        scale = _spread(self.scale, architecture, weights)
        return -(weights / scale).abs().sum(1) - (2 * scale).log().sum()

    def gradient(self, weights: Tensor, architecture: Architecture) -> Tensor:
        """Gradient ``(n, n_weights)`` of the log density: minus signs over scales."""
        return weights.sign() / -_spread(self.scale, architecture, weights)

    def draw(self, n: int, architecture: Architecture, generator: torch.Generator) -> Tensor:
        """Draw independent networks.

        Parameters
        ----------
        n : int
        architecture : Architecture
        generator : torch.Generator

        Returns
        -------
        Tensor of shape (n, n_weights)
            In the dtype of the architecture.
        """
        # The difference of two exponential numbers is a Laplace number.
        shape = 2, check_integer("n", n), architecture.n_weights
        exponential = torch.empty(shape, dtype=architecture.dtype).exponential_(generator=generator)
        noise = exponential[0] - exponential[1]
        return noise * _spread(self.scale, architecture, noise)


def resolve_prior(prior: float | Prior | Callable[[Tensor], Tensor]) -> Prior | Callable:
    """Return the prior that is meant: a number is the standard deviation of a `NormalPrior`.

    Parameters
    ----------
    prior : float, Prior or callable
        A callable takes weights ``(n, n_weights)`` to log densities ``(n,)``.

    Raises
    ------
    TypeError
        If it is none of these.

    Examples
    --------
    >>> resolve_prior(0.5)
    NormalPrior(scale=0.5)
    """
    if hasattr(prior, "log_prob") or callable(prior):
        return prior
    if isinstance(prior, Mapping):
        return NormalPrior(prior)
    try:
        return NormalPrior(check_real("prior", prior, 0, strict=True))
    except TypeError as error:
        raise TypeError(
            f"prior must be a standard deviation, a prior such as NormalPrior(1.0), or a function "
            f"from weights (n, n_weights) to log densities (n,), got {type(prior).__name__}."
        ) from error


def _check_scale(scale: float | Mapping[str, float]) -> None:
    if not isinstance(scale, Mapping):
        check_real("scale", scale, 0, strict=True)
        return
    for name, value in scale.items():
        check_real(f"scale[{name!r}]", value, 0, strict=True)


def _spread(scale: float | Mapping[str, float], architecture: Architecture, like: Tensor) -> Tensor:
    """Scale of every weight ``(n_weights,)``."""
    if not isinstance(scale, Mapping):
        return like.new_full((architecture.n_weights,), scale)
    if set(scale) != set(architecture.names):
        raise ValueError(
            f"scale must hold one number for each of the parameters {list(architecture.names)}, "
            f"got {sorted(scale)}."
        )
    sizes = [shape.numel() for shape in architecture.shapes]
    values = like.new_tensor([scale[name] for name in architecture.names])
    return values.repeat_interleave(torch.tensor(sizes, device=like.device))
