r"""Weight matching for any permutation groups, for many networks at once [A23].

For every network the permutations that maximise the inner product with a reference, by coordinate
descent: with all other groups fixed, the reordering of one group is a linear assignment, whose
similarity is a sum of matrix products over the places where the group lies. Where groups act inside
the elements of another (features inside heads), the similarity of two elements is the value of the
best assignment inside of them, so that blocks and what they hold are solved together.

The start takes groups in the order of the module, each by what is already known of it: parameters
whose other axes are inputs, outputs, or groups taken before. It does not look at the order elements
come in, hence permuting them does not change the result (up to ties). Groups are solved again only
in the networks where a group that shares a parameter moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bayesflow_nn.symmetry.groups import PermutationGroup, Slot, permute_slot

Networks = Mapping[str, Tensor]
"""Named parameters ``(n_networks, *shape)``; of a reference ``(*shape)``."""

_CHUNK_BYTES = 64 * 2**20
"""Similarities and copied weights held at a time."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch on one core.

    Assignments run one after the other, and the products between them are small: a second thread
    gains nothing, and its waiting costs a factor of ten on a busy machine.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


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


def match_weights(
    groups: Sequence[PermutationGroup],
    networks: Networks,
    reference: Networks,
    *,
    n_restarts: int = 0,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Permutations that bring every network close to the reference.

    Parameters
    ----------
    groups : sequence of PermutationGroup
    networks, reference : mapping of str to Tensor
        ``(n_networks, *shape)`` and ``(*shape)``. Parameters that are missing do not count.
    n_restarts : int
        Further descents from random orders, of which the best result is kept.
    generator : torch.Generator, optional
        Draws these orders.

    Returns
    -------
    list of Tensor of shape (n_networks, size)
        One per group, for `bayesflow_nn.symmetry.groups.permute_all`. No single group can be
        permuted further with gain, up to groups that lie on two axes of one parameter.
    """
    n_networks = len(next(iter(networks.values())))
    known = {name: networks[name] for name in reference}
    size = _chunk_size(groups, known)
    parts = []
    with _one_thread():
        for first in range(0, n_networks, size):
            chunk = {name: tensor[first : first + size] for name, tensor in known.items()}
            descent = _Descent(groups, chunk, reference)
            descent.run()
            for _ in range(n_restarts):
                other = _Descent(groups, chunk, reference)
                other.run_from([_shuffled(p, generator) for p in other.permutations])
                descent.take_better(other)
            parts.append(descent.permutations)
    return [torch.cat(kind) for kind in zip(*parts, strict=True)]


class _Descent:
    """Networks on their way to the reference, and which of their blocks are still to be solved."""

    def __init__(
        self, groups: Sequence[PermutationGroup], networks: Networks, reference: Networks
    ) -> None:
        moved = {slot.parameter for group in groups for slot in group.slots} & networks.keys()
        # Copies, since networks that move are overwritten row by row.
        self.networks = {name: networks[name].clone() for name in moved}
        self.reference = reference
        self.n_networks = len(next(iter(networks.values())))
        self.device = next(iter(networks.values())).device
        self.blocks = make_blocks(groups)
        self.solvers = [_BlockSolver(block, groups, reference) for block in self.blocks]
        self.permutations = [
            torch.arange(group.size, device=self.device).repeat(self.n_networks, 1)
            for group in groups
        ]
        shape = self.n_networks, len(self.blocks)
        self.stale = torch.ones(shape, dtype=torch.bool, device=self.device)
        self.neighbours = [
            [j for j, b in enumerate(self.solvers) if j != i and a.parameters & b.parameters]
            for i, a in enumerate(self.solvers)
        ]

    def run(self) -> None:
        """Start from what is known of every block, then solve stale ones until none is left."""
        rows = torch.arange(self.n_networks, device=self.device)
        unknown = {key for solver in self.solvers for key in solver.axes}
        for index, solver in enumerate(self.solvers):
            unknown -= solver.axes
            self._move(index, rows, solver.solve(self.networks, rows, unknown))
            # If all of its neighbours are known, it is solved until one of them moves.
            self.stale[:, index] = solver.is_quadratic or solver.touches(unknown)
        self._descend()

    def run_from(self, permutations: Sequence[Tensor]) -> None:
        """Solve from given orders."""
        rows = torch.arange(self.n_networks, device=self.device)
        for index, block in enumerate(self.blocks):
            self._move(index, rows, [permutations[member] for member in block.members])
        self._descend()

    def take_better(self, other: _Descent) -> None:
        """Take over the networks that another descent brought closer."""
        gain = sum(
            ((other.networks[name] - tensor) * self.reference[name]).flatten(1).sum(1)
            for name, tensor in self.networks.items()
        )
        better = gain > 0
        for own, others in zip(self.permutations, other.permutations, strict=True):
            own[better] = others[better]
        for name, tensor in self.networks.items():
            tensor[better] = other.networks[name][better]

    def _descend(self) -> None:
        while self.stale.any():
            for index, solver in enumerate(self.solvers):
                rows = self.stale[:, index].nonzero().squeeze(-1)
                if len(rows) == 0:
                    continue
                permutations, gains = solver.improve(self.networks, rows)
                moved = rows[gains]
                self._move(index, moved, [p[gains] for p in permutations])
                self.stale[rows, index] = False
                self.stale[moved, index] = solver.is_quadratic
                for neighbour in self.neighbours[index]:
                    self.stale[moved, neighbour] = True

    def _move(self, index: int, rows: Tensor, permutations: Sequence[Tensor]) -> None:
        if len(rows) == 0:
            return
        solver = self.solvers[index]
        for name, tensor in solver.permuted(self.networks, rows, permutations).items():
            self.networks[name][rows] = tensor
        outer, *inner = permutations
        block = self.blocks[index]
        own = self.permutations
        # The groups inside come after the outer one: they move with it, then by themselves.
        for kind in block.inner:
            stacked = torch.stack([own[child][rows] for child in kind], dim=1)
            followed = stacked.gather(1, outer.unsqueeze(-1).expand_as(stacked))
            for place, child in enumerate(kind):
                own[child][rows] = followed[:, place]
        own[block.group][rows] = own[block.group][rows].gather(1, outer)
        for child, permutation in zip(block.members[1:], inner, strict=True):
            own[child][rows] = own[child][rows].gather(1, permutation)


class _BlockSolver:
    """Assignments of one block, for given networks."""

    def __init__(
        self, block: Block, groups: Sequence[PermutationGroup], reference: Networks
    ) -> None:
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
            return [assign(self._similarity(networks, rows, usable[0], group.size))]
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

    def improve(self, networks: Networks, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Best permutations of all members, and in which networks they gain more than rounding.

        Without that margin ties could cycle.
        """
        if self.block.inner or self.is_quadratic:
            permutations = self.solve(networks, rows, frozenset())
            return permutations, self._gains(networks, rows, permutations)
        similarity = self._similarity(networks, rows, self.slots[0], self.members[0].size)
        best = assign(similarity)
        before = similarity.diagonal(dim1=-2, dim2=-1)
        after = similarity.gather(-1, best.unsqueeze(-1)).squeeze(-1)
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


def assign(similarity: Tensor) -> Tensor:
    """Optimal assignments ``(n, size)``: reference element i gets ``result[:, i]``."""
    matrices = similarity.cpu().numpy()
    columns = [linear_sum_assignment(matrix, maximize=True)[1] for matrix in matrices]
    return torch.from_numpy(np.array(columns)).to(similarity.device)


def _elements(networks: Tensor, slot: Slot) -> Tensor:
    """Places of every element of a group, ``(n_networks, size, n_numbers)``."""
    moved = networks.movedim(slot.axis + 1, 1)
    places = slot.positions.ravel()
    if len(places) != moved.shape[1] or (places != np.arange(len(places))).any():
        moved = moved[:, torch.from_numpy(places).to(networks.device)]
    return moved.reshape(len(networks), len(slot.positions), -1)


def _shuffled(permutations: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random orders of the shape of these."""
    noise = torch.rand(permutations.shape, generator=generator, device=permutations.device)
    return noise.argsort(1)


def _chunk_size(groups: Sequence[PermutationGroup], networks: Networks) -> int:
    """Networks whose similarities and copied weights fit into the bound together."""
    tensors = list(networks.values())
    n_similarities = max((group.size**2 for group in groups), default=0)
    n_numbers = sum(tensor[0].numel() for tensor in tensors) + n_similarities
    return max(1, _CHUNK_BYTES // (n_numbers * tensors[0].element_size()))
