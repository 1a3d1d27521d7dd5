r"""Weight matching for any permutation groups, for many networks at once [A23].

For every network the permutations that maximise the inner product with a reference, by coordinate
descent: with all other groups fixed, the reordering of one group is a linear assignment, whose
similarity is a sum of matrix products over the places where the group lies. A change of sign turns
a similarity around, so that elements of an odd group are assigned by its absolute value. Where
groups act inside the elements of another (features inside heads), the similarity of two elements is
the value of the best assignment inside of them, so that blocks and what they hold are solved
together.

The start takes groups in the order of the module, each by what is already known of it: parameters
whose other axes are inputs, outputs, or groups taken before. It does not look at the order elements
come in, hence permuting them does not change the result (up to ties). Groups are solved again only
in the networks where a group that shares a parameter moved.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bayesflow_nn.symmetry.block_matching import HEADS, BlockSolver, Networks, make_blocks
from bayesflow_nn.symmetry.groups import PermutationGroup, compose, permute_all
from bayesflow_nn.weights.validation import check_option

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


def match_weights(
    groups: Sequence[PermutationGroup],
    networks: Networks,
    reference: Networks,
    *,
    heads: str = "assignment",
    n_restarts: int = 0,
    n_exact: int = 0,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Permutations that bring every network close to the reference.

    Parameters
    ----------
    groups : sequence of PermutationGroup
    networks, reference : mapping of str to Tensor
        ``(n_networks, *shape)`` and ``(*shape)``. Parameters that are missing do not count.
    heads : {"assignment", "spectra"}
        How elements that hold other groups are matched: with what they hold, again and again, or
        once by singular values; see :mod:`bayesflow_nn.symmetry.block_matching`.
    n_restarts : int
        Further descents from random orders, of which the best result is kept.
    n_exact : int
        If all groups together have at most so many orders, all are tried instead, which is exact:
        two layers of five neurons have 14,400, and 2^5 times as many for each layer that is odd.
    generator : torch.Generator, optional
        Draws these orders.

    Returns
    -------
    list of Tensor of shape (n_networks, size)
        One per group, for `bayesflow_nn.symmetry.groups.permute_all`; those of odd groups are
        signed. No single group can be permuted further with gain, up to groups that lie on two
        axes of one parameter.
    """
    n_networks = len(next(iter(networks.values())))
    check_option("heads", heads, HEADS)
    known = {n: tensor.detach() for n, tensor in networks.items() if n in reference}
    reference = {n: tensor.detach() for n, tensor in reference.items() if n in known}
    if n_exact and math.prod(_n_orders(group) for group in groups) <= n_exact:
        return _try_all_orders(groups, known, reference)
    size = _chunk_size(groups, known)
    parts = []
    with _one_thread():
        for first in range(0, n_networks, size):
            chunk = {name: tensor[first : first + size] for name, tensor in known.items()}
            descent = _Descent(groups, chunk, reference, heads)
            descent.run()
            for _ in range(n_restarts):
                other = _Descent(groups, chunk, reference, heads)
                other.run_from([_shuffled(p, generator) for p in other.permutations])
                descent.take_better(other)
            parts.append(descent.permutations)
    return [torch.cat(kind) for kind in zip(*parts, strict=True)]


def _try_all_orders(
    groups: Sequence[PermutationGroup], networks: Networks, reference: Networks
) -> list[Tensor]:
    """Of all orders of all groups those with the largest inner product, by enumeration."""
    n_networks = len(next(iter(networks.values())))
    orders = [_all_orders(group) for group in groups]
    best = [torch.zeros(n_networks, dtype=torch.long) for _ in groups]
    largest = torch.full((n_networks,), -torch.inf)
    for choice in itertools.product(*(range(len(order)) for order in orders)):
        chosen = [order[index] for order, index in zip(orders, choice, strict=True)]
        batched = [order.expand(n_networks, -1) for order in chosen]
        moved = permute_all(groups, networks, batched)
        value = sum((moved[n] * t).flatten(1).sum(1) for n, t in reference.items()).cpu()
        better = value > largest
        largest = torch.where(better, value, largest.to(value))
        for own, index in zip(best, choice, strict=True):
            own[better] = index
    device = next(iter(networks.values())).device
    return [order[own].to(device) for order, own in zip(orders, best, strict=True)]


def _n_orders(group: PermutationGroup) -> int:
    return math.factorial(group.size) * (2**group.size if group.odd else 1)


def _all_orders(group: PermutationGroup) -> Tensor:
    orders = torch.tensor(list(itertools.permutations(range(group.size))))
    if not group.odd:
        return orders
    flipped = torch.tensor(list(itertools.product([False, True], repeat=group.size)))
    return torch.where(flipped[:, None], ~orders, orders).flatten(0, 1)


class _Descent:
    """Networks on their way to the reference, and which of their blocks are still to be solved."""

    def __init__(
        self,
        groups: Sequence[PermutationGroup],
        networks: Networks,
        reference: Networks,
        heads: str,
    ) -> None:
        moved = {slot.parameter for group in groups for slot in group.slots} & networks.keys()
        # Copies, since networks that move are overwritten row by row.
        self.networks = {name: networks[name].clone() for name in moved}
        self.reference = reference
        self.n_networks = len(next(iter(networks.values())))
        self.device = next(iter(networks.values())).device
        self.blocks = make_blocks(groups)
        self.by_spectra = heads == "spectra"
        self.solvers = [
            BlockSolver(block, groups, reference, self.by_spectra) for block in self.blocks
        ]
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
        self._match_spectra(rows)
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
        self._match_spectra(rows)
        self._descend()

    def _match_spectra(self, rows: Tensor) -> None:
        """Put elements that hold others where their singular values say; there they stay."""
        for index, solver in enumerate(self.solvers):
            if self.by_spectra and solver.block.inner:
                self._move(index, rows, solver.match_spectra(self.networks, rows))

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
        own[block.group][rows] = compose(own[block.group][rows], outer)
        for child, permutation in zip(block.members[1:], inner, strict=True):
            own[child][rows] = own[child][rows].gather(1, permutation)


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
