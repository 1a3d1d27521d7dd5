r"""Scale groups of a module: which places of which parameters a rescaling multiplies.

Units that a module computes may be rescaled if what reads them takes the scale back:

.. math:: (w_i, b_i, v_i) \to (c_i w_i, c_i b_i, v_i / c_i),

with the weights w and biases b that make unit i and the columns v that read it ([Pi22], [E25] 4.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesflow_nn.symmetry.groups import Slot
from bayesflow_nn.weights.validation import check_option

KINDS = ("homogeneous", "odd", "invariant")


@dataclass(frozen=True)
class Statistic:
    """Where batch norm keeps a moment of the units of a group.

    Attributes
    ----------
    slot : Slot
    exponent : int
        1 for a mean, 2 for a variance.
    shift : float
        What is added to the moment before it is used, the eps of batch norm: the sum is scaled,
        ``(moment + shift) c^exponent - shift``, so that evaluation is exact. A variance far below
        eps may become negative by this, its sum with eps never.
    """

    slot: Slot
    exponent: int = 1
    shift: float = 0.0


@dataclass(frozen=True)
class ScaleGroup:
    """Units whose scales, or signs, leave the function of a module as it is.

    Attributes
    ----------
    name : str
        Parameter that the units come first in.
    kind : {"homogeneous", "odd", "invariant"}
        Homogeneous units may be multiplied by any c > 0 (through ReLU and what is linear), odd ones
        by -1 (through tanh). Invariant ones may be multiplied by any c > 0 and nothing reads it:
        batch norm divides it out, in training mode up to its eps.
    size : int
        Number of units.
    weights, biases : tuple of Slot
        What makes the units, multiplied by c; biases are what no input multiplies.
    outgoing : tuple of Slot
        What reads them, divided by c.
    statistics : tuple of Statistic
        Moments of them.

    Raises
    ------
    ValueError
        If `kind` is unknown.
    """

    name: str
    kind: str
    size: int
    weights: tuple[Slot, ...]
    biases: tuple[Slot, ...] = ()
    outgoing: tuple[Slot, ...] = ()
    statistics: tuple[Statistic, ...] = ()

    def __post_init__(self) -> None:
        check_option("kind", self.kind, KINDS)

    @property
    def incoming(self) -> tuple[Slot, ...]:
        """Weights and biases."""
        return self.weights + self.biases

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All places that the group acts on."""
        return self.incoming + self.outgoing + tuple(s.slot for s in self.statistics)

    def scale(self, state: Mapping[str, Tensor], factors: Tensor) -> dict[str, Tensor]:
        """Multiply the units in all parameters and buffers.

        Parameters
        ----------
        state : mapping of str to Tensor
            Parameters and buffers of one module, or of many along a leading axis. Those that are
            missing are left out.
        factors : Tensor of shape (size,) or (n_networks, size)
            c of every unit: positive, of an odd group 1 or -1.

        Returns
        -------
        dict
            Those of the tensors that have changed.
        """
        changed: dict[str, Tensor] = {}
        scaled = [Statistic(slot) for slot in self.incoming]
        scaled += [Statistic(slot, -1) for slot in self.outgoing]
        for part in (*scaled, *self.statistics):
            name = part.slot.parameter
            if name in state:
                tensor = changed.get(name, state[name])
                changed[name] = _scale_slot(tensor, part, factors**part.exponent)
        return changed


def _scale_slot(tensor: Tensor, part: Statistic, factors: Tensor) -> Tensor:
    """Multiply one axis of one tensor, apart from its shift."""
    axis = part.slot.axis + (factors.ndim - 1)
    positions = torch.as_tensor(part.slot.positions, device=tensor.device)
    repeated = factors.repeat_interleave(positions.shape[1], dim=-1).to(tensor)
    along = tensor.new_ones(*factors.shape[:-1], tensor.shape[axis])
    along = along.index_copy(-1, positions.flatten(), repeated)
    shape = [1] * tensor.ndim
    shape[axis] = along.shape[-1]
    if factors.ndim == 2:
        shape[0] = len(along)
    along = along.view(shape)
    return tensor * along + part.shift * (along - 1)


def scale(
    groups: Sequence[ScaleGroup], state: Mapping[str, Tensor], factors: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Rescale the units of all groups.

    Parameters
    ----------
    groups : sequence of ScaleGroup
    state : mapping of str to Tensor
    factors : sequence of Tensor
        One per group; see `ScaleGroup.scale`.

    Returns
    -------
    dict
        The whole state.
    """
    state = dict(state)
    for group, own in zip(groups, factors, strict=True):
        state |= group.scale(state, own)
    return state


def settled_weights(groups: Sequence[ScaleGroup]) -> list[tuple[Slot, ...]]:
    """Weights of every group that no later group rescales, nor the group itself as a reader.

    Once the groups before it are canonical, a group can be measured on these alone: what it finds
    there stays. All weights of a feed-forward module are settled, and all affine weights of batch
    norm. Where blocks without it read a residual stream and write to it, the stream is measured on
    what writes to it first.

    Parameters
    ----------
    groups : sequence of ScaleGroup
        Input side first.

    Returns
    -------
    list of tuple of Slot
        One per group.
    """
    settled: list[tuple[Slot, ...]] = []
    later: list[Slot] = []
    for group in reversed(groups):
        moving = [*later, *group.outgoing]
        free = [w for w in group.weights if not any(_meet(w, other) for other in moving)]
        settled.append(tuple(free))
        later += group.slots
    return settled[::-1]


def _meet(slot: Slot, other: Slot) -> bool:
    """Whether two slots share an element of a parameter."""
    if slot.parameter != other.parameter:
        return False
    return slot.axis != other.axis or bool(np.isin(slot.positions, other.positions).any())
