"""Activations with the units of their elements, and what rules of operations may ask of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx

from bayesflow_nn.symmetry.units import FIXED, Units


class UnsupportedOperationError(ValueError):
    """An operation whose symmetries are not known; the message names it and its line."""


@dataclass(frozen=True)
class Labelled:
    """An activation and the units of its elements, in one shape."""

    value: Tensor
    units: np.ndarray


class Run(Protocol):
    """What the rule of an operation sees of the propagation.

    Attributes
    ----------
    units : Units
    event : int
        Number of the operation that is being run.
    """

    units: Units
    event: int

    def make(self, value: Tensor, axis: int, n: int) -> np.ndarray:
        """New units along one axis of an activation."""

    def reduce(self, units: np.ndarray, axis: int) -> np.ndarray:
        """Units along one axis, after tying all that have the same place on it."""

    def is_parameter(self, value: Tensor) -> bool:
        """Whether this is a parameter or buffer itself, not computed from one."""

    def record(self, tensor: Tensor | None, axis: int, units: np.ndarray) -> None:
        """Note the units along an axis of a parameter or buffer."""


Rule = Callable[..., Any]
"""``rule(run, *operands, **options)``: the result of an operation, with units."""


def find_labelled(value: Any) -> list[Labelled]:
    """All activations inside of a nested value."""
    found: list[Labelled] = []
    fx.node.map_aggregate(
        value, lambda part: found.append(part) if isinstance(part, Labelled) else part
    )
    return found


def values_of(value: Any) -> Any:
    """A nested value with the values of its activations alone."""
    return fx.node.map_aggregate(
        value, lambda part: part.value if isinstance(part, Labelled) else part
    )


def fixed(value: Any) -> Any:
    """An activation of which no element moves; what is no tensor is returned as it is."""
    if not isinstance(value, Tensor):
        return value
    return Labelled(value, np.full(value.shape, FIXED))


def along(units: np.ndarray, axis: int, shape: torch.Size) -> np.ndarray:
    """Array of this shape with units that depend on one axis alone."""
    view = [1] * len(shape)
    view[axis] = len(units)
    return np.broadcast_to(units.reshape(view), shape)
