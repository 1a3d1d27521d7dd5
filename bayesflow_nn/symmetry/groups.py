"""Permutation groups of a module: which places of which parameters a permutation moves."""

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
    """All reorderings of a number of elements that leave the function of a module as it is.

    Attributes
    ----------
    name : str
        Parameter or buffer, and the axis, that the elements come first in.
    size : int
        Number of elements.
    slots : tuple of Slot
    parent : tuple of (int, int), optional
        Index of another group, and its element inside which this group acts; None for most.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    parent: tuple[int, int] | None = None

    def permute(self, state: Mapping[str, Tensor], permutation: Tensor) -> dict[str, Tensor]:
        """Reorder the elements in all parameters.

        Parameters
        ----------
        state : mapping of str to Tensor
            Parameters and buffers of one module, or of many along a leading axis. Those that are
            missing are left out.
        permutation : Tensor of shape (size,) or (n_networks, size)
            Element i of the result is element ``permutation[..., i]`` of what was given.

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
    batched = permutation.ndim == 2
    axis = slot.axis + batched
    positions = torch.as_tensor(slot.positions, device=tensor.device)
    index = torch.arange(tensor.shape[axis], device=tensor.device)
    if not batched:
        index[positions] = positions[permutation]
        return tensor.index_select(axis, index)
    index = index.repeat(len(permutation), 1)
    index[:, positions.flatten()] = positions[permutation].flatten(1)
    shape = [1] * tensor.ndim
    shape[0], shape[axis] = index.shape
    return tensor.gather(axis, index.view(shape).expand_as(tensor))


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
