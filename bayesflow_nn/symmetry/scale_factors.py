"""What multiplies what: units as factors, and what rules may ask of a run.

A unit is a factor here: activations with one unit are multiplied by the same number, those of the
unit `FIXED` by one. A run is about positive factors, or about signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bayesflow_nn.symmetry.labelled import Labelled
from bayesflow_nn.symmetry.units import FIXED, Units

EXPONENTS = {"weight": 1, "bias": 1, "outgoing": -1, "mean": 1, "variance": 2}


@dataclass(frozen=True)
class Factor:
    """How units multiply an axis of a parameter or buffer.

    Attributes
    ----------
    role : str
        One of `EXPONENTS`, which has the power of the unit.
    axis : int
    shift : float
        What is added before and subtracted after.
    """

    role: str
    axis: int
    shift: float = 0.0


class ScaleRun(Protocol):
    """What a rule sees of the propagation.

    Attributes
    ----------
    units : Units
    event : int
        Number of the operation that is being run.
    signs : bool
        Whether factors are signs; otherwise they are positive.
    """

    units: Units
    event: int
    signs: bool

    def reduce(self, units: np.ndarray, axis: int) -> np.ndarray:
        """Units along one axis, after tying all that have the same place on it."""

    def knows(self, *tensors: Tensor | None) -> bool:
        """Whether tensors are parameters or buffers of the module, or None."""

    def are_elements(self, units: np.ndarray) -> bool:
        """Whether units are elements of parameters that are used as activations."""

    def use(self, tensor: Tensor | None, factors: dict[Factor, np.ndarray]) -> None:
        """Note all that multiplies a parameter or buffer; nothing: it stays as it is."""


def is_free(run: ScaleRun, part: object) -> bool:
    """Whether anything of an activation may still be scaled."""
    return isinstance(part, Labelled) and bool((run.units.resolve(part.units) != FIXED).any())


def tie(run: ScaleRun, units: np.ndarray, axis: int, shape: torch.Size) -> np.ndarray:
    """Units of a sum over one axis, in the shape of the result: what is summed is scaled alike."""
    first = units.take([0], axis)
    run.units.unify(units, first)
    return run.units.resolve(np.broadcast_to(first, shape))
