"""Permutation groups of a module: which places of which parameters a permutation moves.

Units with an odd activation, f(-a) = -f(a), may change sign as well: all weights that lead in and
out. Their permutations are signed: an entry ``~k``, which is -k - 1, stands for element k with its
sign changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """Where the elements of a group lie along an axis of a parameter or buffer.

    Attributes
    ----------
    parameter : str
    axis : int
    positions : ndarray of shape (size, n_places)
        Places that belong to each element; a head has those of all its features.
    """

    parameter: str
    axis: int
    positions: np.ndarray


@dataclass(frozen=True)
class PermutationGroup:
    """Reorderings of a number of elements that leave the function of a module as it is.

    Attributes
    ----------
    name : str
        Parameter or buffer, and the axis, that the elements come first in.
    size : int
        Number of elements.
    slots : tuple of Slot
    parent : tuple of (int, int), optional
        Index of another group, and its element inside which this group acts; None for most.
    odd : bool
        Whether elements may change sign as well. Such a group has no parent.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    parent: tuple[int, int] | None = None
    odd: bool = False

    def permute(self, state: Mapping[str, Tensor], permutation: Tensor) -> dict[str, Tensor]:
        """Reorder the elements in all parameters.

        Parameters
        ----------
        state : mapping of str to Tensor
            Parameters and buffers of one module, or of many along a leading axis. Those that are
            missing are left out.
        permutation : Tensor of shape (size,) or (n_networks, size)
            Element i of the result is element ``permutation[..., i]`` of what was given, with its
            sign changed where that is written ``~k``.

        Returns
        -------
        dict
            Those of the parameters that have changed.
        """
        changed: dict[str, Tensor] = {}
        for slot in self.slots:
            if slot.parameter not in state:
                continue
            tensor = changed.get(slot.parameter, state[slot.parameter])
            changed[slot.parameter] = permute_slot(tensor, slot, permutation)
        return changed


def permute_slot(tensor: Tensor, slot: Slot, permutation: Tensor) -> Tensor:
    """Reorder one axis of one parameter; see `PermutationGroup.permute`."""
    if permutation.ndim == 1:
        return permute_slot(tensor[None], slot, permutation[None])[0]
    order, flipped = split_signs(permutation)
    axis, places = slot.axis + 1, torch.as_tensor(slot.positions, device=tensor.device)
    index = torch.arange(tensor.shape[axis], device=tensor.device).repeat(len(order), 1)
    index[:, places.flatten()] = places[order].flatten(1)
    shape = [1] * tensor.ndim
    shape[0], shape[axis] = index.shape
    moved = tensor.gather(axis, index.view(shape).expand_as(tensor))
    if not flipped.any():
        return moved
    sign = torch.ones(index.shape, dtype=tensor.dtype, device=tensor.device)
    sign[:, places.flatten()] -= 2 * flipped.repeat_interleave(places.shape[1], 1).to(sign)
    return moved * sign.view(shape)


def split_signs(permutation: Tensor) -> tuple[Tensor, Tensor]:
    """Elements ``(..., size)`` of a signed permutation, and whether their signs change."""
    flipped = permutation < 0
    return torch.where(flipped, ~permutation, permutation), flipped


def compose(first: Tensor, second: Tensor) -> Tensor:
    """Signed permutations ``(n, size)`` that act as `first` and then `second` do."""
    order, flipped = split_signs(second)
    both = first.gather(1, order)
    return torch.where(flipped, ~both, both)


def permute_all(
    groups: Sequence[PermutationGroup],
    state: Mapping[str, Tensor],
    permutations: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Reorder the elements of all groups, one group after the other.

    Parameters
    ----------
    groups : sequence of PermutationGroup
    state : mapping of str to Tensor
    permutations : sequence of Tensor
        One per group; see `PermutationGroup.permute`.

    Returns
    -------
    dict
        The whole state.
    """
    state = dict(state)
    for group, permutation in zip(groups, permutations, strict=True):
        state |= group.permute(state, permutation)
    return state
