"""What the samplers of Markov chains have in common: where chains are, and how a step went.

A target is anything with ``value_and_gradient(weights)``, as `LogPosterior`: weights
``(n_chains, n_weights)`` to log densities ``(n_chains,)`` in nats and gradients
``(n_chains, n_weights)``.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Target(Protocol):
    """A log density that samplers can run on."""

    def value_and_gradient(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Log density ``(n_chains,)`` in nats, and its gradient ``(n_chains, n_weights)``."""


class Position(NamedTuple):
    """Weights ``(n_chains, n_weights)``, log density ``(n_chains,)`` in nats and its gradient."""

    weights: Tensor
    value: Tensor
    gradient: Tensor

    @classmethod
    def at(cls, target: Target, weights: Tensor) -> Position:
        """Evaluate the target."""
        value, gradient = target.value_and_gradient(weights)
        return cls(weights, value, gradient)

    def where(self, mask: Tensor, other: Position) -> Position:
        """Return this position for the chains of `mask`, and `other` for the rest."""
        rows = mask[:, None]
        return Position(
            torch.where(rows, self.weights, other.weights),
            torch.where(mask, self.value, other.value),
            torch.where(rows, self.gradient, other.gradient),
        )


class Transition(NamedTuple):
    """How one step of every chain went; all of shape ``(n_chains,)`` but the last.

    ``energy_error`` is in nats, ``acceptance`` a probability, ``diverging`` whether the integration
    failed, and ``n_gradients`` the gradient evaluations of each chain.
    """

    energy_error: Tensor
    acceptance: Tensor
    diverging: Tensor
    n_gradients: int


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Independent standard normal numbers."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
