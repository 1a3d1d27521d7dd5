"""Blocks: groups that are solved together, and the assignments that solve them.

Features inside heads cannot be matched before heads are, nor heads without their features. So the
similarity of two elements of a group is the value of the best assignment of what they hold
("assignment"), or it is known beforehand by what no reordering changes: the singular values of the
matrices that belong to an element ("spectra", TransFusion, Rinaldi et al. 2025). The first is exact
for given neighbours and solves n^2 assignments for n elements, the second solves n, and sees heads
before it sees the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bayesflow_nn.symmetry.groups import PermutationGroup, Slot, permute_slot, split_signs

Networks = Mapping[str, Tensor]
"""Named parameters ``(n_networks, *shape)``; of a reference ``(*shape)``."""

HEADS = ("assignment", "spectra")


@dataclass(frozen=True)
class Block:
    """A group, and the groups inside of its elements, which are solved together.

    Attributes
    ----------
    group : int
        Index of the group.
    inner : tuple of tuple of int
        Indices of the groups inside, one tuple per kind, with one group per element.
    """

    group: int
    inner: tuple[tuple[int, ...], ...]

    @property
    def members(self) -> tuple[int, ...]:
        """Indices of all groups, the outer one first."""
        return (self.group, *(index for kind in self.inner for index in kind))


def make_blocks(groups: Sequence[PermutationGroup]) -> list[Block]:
    """Groups without a parent, each with those inside of it."""
    blocks = []
    for index, group in enumerate(groups):
        if group.parent is not None:
            continue
        kinds: dict[tuple, dict[int, int]] = {}
        for child, other in enumerate(groups):
            if other.parent is not None and other.parent[0] == index:
                key = other.size, tuple((s.parameter, s.axis) for s in other.slots)
                while other.parent[1] in kinds.get(key, {}):
                    key = (*key, None)  # a second family on the same axes
                kinds.setdefault(key, {})[other.parent[1]] = child
        inner = tuple(tuple(kind[i] for i in range(group.size)) for kind in kinds.values())
        blocks.append(Block(index, inner))
    return blocks


class BlockSolver:
    """Assignments of one block, for given networks.

    Parameters
    ----------
    block : Block
    groups : sequence of PermutationGroup
    reference : mapping of str to Tensor of shape (*shape)
    keeps_outer : bool
        Whether the elements of a block with groups inside stay where they are.
    """

    def __init__(
        self,
        block: Block,
        groups: Sequence[PermutationGroup],
        reference: Networks,
        keeps_outer: bool = False,
    ) -> None:
        self.keeps_outer = keeps_outer
        self.block, self.reference = block, reference
        self.members = [groups[member] for member in block.members]
        self.slots = [[s for s in g.slots if s.parameter in reference] for g in self.members]
        self.axes = {(s.parameter, s.axis) for slots in self.slots for s in slots}
        self.parameters = {parameter for parameter, _ in self.axes}
        # On two axes of one parameter a reordering acts twice, and an assignment is no optimum.
        self.is_quadratic = len(self.axes) > len(self.parameters)

    def touches(self, axes: set[tuple[str, int]]) -> bool:
        """Whether a parameter of this block has one of these axes."""
        return any(parameter in self.parameters for parameter, _ in axes)

    def solve(
        self, networks: Networks, rows: Tensor, unknown: set[tuple[str, int]] | frozenset
    ) -> list[Tensor]:
        """Best permutations ``(n_rows, size)`` of all members; parameters with unknown axes out.

        If nothing is known, all counts.
        """
        hidden = {parameter for parameter, _ in unknown}
        usable = [[s for s in slots if s.parameter not in hidden] for slots in self.slots]
        if not any(usable):
            usable = self.slots
        group = self.members[0]
        if not self.block.inner:
            return [assign(self._similarity(networks, rows, usable[0], group.size), group.odd)]
        return self._solve_nested(networks, rows, usable)

    def _solve_nested(
        self, networks: Networks, rows: Tensor, usable: list[list[Slot]]
    ) -> list[Tensor]:
        """Elements by the best that what they hold can do; then what they hold."""
        n_elements = self.members[0].size
        # Slots of the outer group hold the features of the inner ones, in their order: only what
        # no inner group moves is compared as it is.
        inner_axes = {(s.parameter, s.axis) for slots in usable[1:] for s in slots}
        rest = [s for s in usable[0] if (s.parameter, s.axis) not in inner_axes]
        similarity = self._similarity(networks, rows, rest, n_elements)
        orders = []
        for number in range(len(self.block.inner)):
            first = 1 + number * n_elements
            kind = list(range(first, first + n_elements))
            inner = self._inner_similarity(networks, rows, kind, usable)
            best = assign(inner.flatten(0, 2)).unflatten(0, inner.shape[:3])
            similarity = similarity + inner.gather(-1, best.unsqueeze(-1)).sum((-1, -2))
            orders.append(best)
        outer = assign(similarity)
        if self.keeps_outer:
            outer = torch.arange(n_elements, device=outer.device).expand_as(outer)
        chosen = [
            best.gather(2, outer[:, :, None, None].expand(-1, -1, 1, best.shape[-1])).squeeze(2)
            for best in orders
        ]
        return [outer, *(order[:, place] for order in chosen for place in range(n_elements))]

    def _inner_similarity(
        self, networks: Networks, rows: Tensor, kind: list[int], usable: list[list[Slot]]
    ) -> Tensor:
        """Of features inside, ``(n_rows, n_elements, n_elements, size, size)``."""
        n_elements, size = len(kind), self.members[kind[0]].size
        joined = [
            Slot(
                slot.parameter,
                slot.axis,
                np.concatenate([usable[i][place].positions for i in kind]),
            )
            for place, slot in enumerate(usable[kind[0]])
        ]
        total = self._similarity(networks, rows, joined, n_elements * size)
        return total.view(-1, n_elements, size, n_elements, size).transpose(2, 3)

    def match_spectra(self, networks: Networks, rows: Tensor) -> list[Tensor]:
        """Elements whose matrices have similar singular values; what they hold stays in order."""
        n_elements = self.members[0].size
        distance = torch.zeros(len(rows), n_elements, n_elements)
        for slot in self.slots[0]:
            if self.reference[slot.parameter].ndim < 2:
                continue
            reference = _spectra(self.reference[slot.parameter][None], slot)
            own = _spectra(networks[slot.parameter][rows], slot)
            distance = distance.to(own) + torch.cdist(reference, own).square()
        orders = [
            torch.arange(group.size, device=rows.device).expand(len(rows), -1)
            for group in self.members[1:]
        ]
        return [assign(-distance), *orders]

    def improve(self, networks: Networks, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Best permutations of all members, and in which networks they gain more than rounding.

        Without that margin ties could cycle.
        """
        if self.block.inner or self.is_quadratic:
            permutations = self.solve(networks, rows, frozenset())
            return permutations, self._gains(networks, rows, permutations)
        group = self.members[0]
        similarity = self._similarity(networks, rows, self.slots[0], group.size)
        best = assign(similarity, group.odd)
        order, flipped = split_signs(best)
        before = similarity.diagonal(dim1=-2, dim2=-1)
        after = similarity.gather(-1, order.unsqueeze(-1)).squeeze(-1)
        after = torch.where(flipped, -after, after)
        rounding = 64 * torch.finfo(similarity.dtype).eps * similarity.abs().amax((-2, -1))
        return [best], (after - before).sum(-1) > rounding

    def _gains(self, networks: Networks, rows: Tensor, permutations: Sequence[Tensor]) -> Tensor:
        changed = self.permuted(networks, rows, permutations)
        gain, size = 0.0, 0.0
        for name, tensor in changed.items():
            reference = self.reference[name]
            product = ((tensor - networks[name][rows]) * reference).flatten(1)
            gain, size = gain + product.sum(1), size + product.abs().sum(1)
        return gain > 64 * torch.finfo(size.dtype).eps * size

    def permuted(
        self, networks: Networks, rows: Tensor, permutations: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Parameters of the block in networks with these permutations."""
        changed = {name: networks[name][rows] for name in self.parameters}
        for slots, permutation in zip(self.slots, permutations, strict=True):
            for slot in slots:
                name = slot.parameter
                changed[name] = permute_slot(changed[name], slot, permutation)
        return changed

    def _similarity(self, networks: Networks, rows: Tensor, slots: list[Slot], size: int) -> Tensor:
        """Inner products ``(n_rows, size, size)``: reference's element, then the network's."""
        like = next(iter(networks.values()))
        total = like.new_zeros(len(rows), size, size)
        for slot in slots:
            reference = _elements(self.reference[slot.parameter][None], slot)
            total += reference @ _elements(networks[slot.parameter][rows], slot).mT
        return total


def assign(similarity: Tensor, odd: bool = False) -> Tensor:
    """Optimal assignments ``(n, size)``: reference element i gets ``result[:, i]``.

    A change of sign turns a similarity around, so that odd elements have its absolute value.
    """
    matrices = (similarity.abs() if odd else similarity).cpu().numpy()
    columns = [linear_sum_assignment(matrix, maximize=True)[1] for matrix in matrices]
    best = torch.from_numpy(np.array(columns)).to(similarity.device)
    if not odd:
        return best
    return torch.where(similarity.gather(-1, best.unsqueeze(-1)).squeeze(-1) < 0, ~best, best)


def _elements(networks: Tensor, slot: Slot) -> Tensor:
    """Places of every element of a group, ``(n_networks, size, n_numbers)``."""
    moved = networks.movedim(slot.axis + 1, 1)
    places = slot.positions.ravel()
    if len(places) != moved.shape[1] or (places != np.arange(len(places))).any():
        moved = moved[:, torch.from_numpy(places).to(networks.device)]
    return moved.reshape(len(networks), len(slot.positions), -1)


def _spectra(networks: Tensor, slot: Slot) -> Tensor:
    """Singular values of the places of every element, ``(n_networks, size, n_values)``."""
    n_places = slot.positions.shape[1]
    elements = _elements(networks, slot).unflatten(-1, (n_places, -1))
    return torch.linalg.svdvals(elements)
