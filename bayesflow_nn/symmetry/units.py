"""Units: what a permutation symmetry moves, and what ties them to each other.

Every feature that a layer makes is a unit: an output of a dense layer, a channel, a head.
Operations tie units. Those that are added must move together: they become one. The features of a
head move with it: the head is their parent. What must not move, such as the inputs of the network,
is the unit `FIXED`. Two units may trade places if everything that happens to one happens to the
other; so every event leaves its mark on the units that take part, and units with equal marks may.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

FIXED = 0
_MASK = 2**64 - 1


@dataclass(frozen=True)
class Family:
    """Units that may trade places with each other.

    Attributes
    ----------
    units : tuple of int
    parent : int
        Unit that all of them belong to; `FIXED` if none.
    """

    units: tuple[int, ...]
    parent: int


class Units:
    """Units with a union-find of what moves together.

    Arrays of units have the shape of the activation or the axis whose features they name.
    """

    def __init__(self) -> None:
        self._link = [FIXED]
        self._marks = [0]
        self._events = [0]
        self._parents: dict[int, int] = {}
        self._blocks: set[int] = set()  # units that ever were parents
        self._frozen: set[int] = set()  # those of them that stay where they are

    def new(self, n: int, event: int) -> np.ndarray:
        """Make `n` units that took part in one event."""
        first = len(self._link)
        self._link.extend(range(first, first + n))
        self._marks.extend([_token(event)] * n)
        self._events.extend([event] * n)
        return np.arange(first, first + n)

    def resolve(self, units: np.ndarray) -> np.ndarray:
        """Replace every unit by the one that stands for all it moves with."""
        roots = np.full(len(self._link), FIXED)
        values = np.flatnonzero(np.bincount(units.ravel(), minlength=len(roots)))
        roots[values] = [self._find(unit) for unit in values.tolist()]
        return roots[units]

    def unify(self, first: np.ndarray, second: np.ndarray) -> None:
        """Let units move together, pair by pair; the arrays may be broadcast."""
        for a, b in self._pairs(first, second):
            # FIXED is the smallest and stays the root of what it is tied to.
            low, high = sorted((self._find(a), self._find(b)))
            if low == FIXED and high in self._blocks:
                self._frozen.add(high)  # the blocks stay apart, and so do their children
            elif low != high:
                self._link[high] = low
                self._merge(high, low)

    def fix(self, units: np.ndarray) -> None:
        """Let units stay where they are."""
        self.unify(units, np.array(FIXED))

    def adopt(self, children: np.ndarray, parents: np.ndarray) -> None:
        """Let children move with their parents, pair by pair; the arrays may be broadcast."""
        for child, parent in self._pairs(children, parents):
            if parent == FIXED:
                self.fix(np.array(child))
            else:
                self._blocks.add(parent)
                self._set_parent(child, parent)

    def mark(self, units: np.ndarray, event: int) -> None:
        """Leave the mark of an event, as often as a unit occurs in it."""
        counts = np.bincount(self.resolve(units).ravel())
        values, token = np.flatnonzero(counts), _token(event)
        for unit, count in zip(values.tolist(), counts[values].tolist(), strict=True):
            self._marks[unit] = (self._marks[unit] + token * count) & _MASK

    def families(self) -> list[Family]:
        """Units grouped by what may trade places, in the order in which they were made.

        Parents are moved with their children: if one child is fixed or differs, so is the parent.
        """
        self._fix_broken_blocks()
        self._freeze_parents()
        marks = self._all_marks()
        grouped = defaultdict(list)
        for unit in marks.keys() - self._frozen:
            grouped[marks[unit], self.parent(unit)].append(unit)
        families = [Family(tuple(sorted(u)), parent) for (_, parent), u in grouped.items()]
        return sorted(families, key=lambda family: family.units)

    def parent(self, unit: int) -> int:
        """Parent of a unit, `FIXED` if it has none."""
        parent = self._parents.get(unit, FIXED)
        return self._find(parent)

    def children(self) -> dict[int, list[int]]:
        """Children of every parent, in the order of their marks and then of their making."""
        marks, children = self._all_marks(), defaultdict(list)
        for unit in sorted(marks, key=lambda unit: (marks[unit], unit)):
            if self.parent(unit) != FIXED:
                children[self.parent(unit)].append(unit)
        return children

    def _pairs(self, first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
        """Pairs of different units that meet when two arrays are broadcast, once each."""
        n = len(self._link)
        codes = np.unique(self.resolve(first) * n + self.resolve(second))
        pairs = zip((codes // n).tolist(), (codes % n).tolist(), strict=True)
        return [(a, b) for a, b in pairs if a != b]

    def _find(self, unit: int) -> int:
        while self._link[unit] != unit:
            self._link[unit] = self._link[self._link[unit]]
            unit = self._link[unit]
        return unit

    def _set_parent(self, child: int, parent: int) -> None:
        known = self._parents.get(child)
        if known is None:
            self._parents[child] = parent
        else:
            self.unify(np.array(known), np.array(parent))

    def _merge(self, merged: int, root: int) -> None:
        """Hand over what is known of a unit to the one that stands for it now."""
        if merged in self._blocks:
            self._blocks.add(root)
        if merged in self._frozen:
            self._frozen.add(root)
        parent = self._parents.pop(merged, None)
        if parent is None:
            return
        if root == FIXED:
            self.fix(np.array(parent))
        else:
            self._set_parent(root, parent)

    def _fix_broken_blocks(self) -> None:
        """Fix what belongs to blocks of which two became one: they cut across other blocks."""
        origins: dict[int, set[int]] = defaultdict(set)
        broken = set()
        for parent in sorted(self._blocks):
            root, event = self._find(parent), self._events[parent]
            if event in origins[root]:
                broken.add(root)
            origins[root].add(event)
        children = [c for c, parent in self._parents.items() if self._find(parent) in broken]
        for child in children:
            self.fix(np.array(child))

    def _freeze_parents(self) -> None:
        """Freeze the parents of what is fixed or frozen, and theirs."""
        while True:
            held = {
                self._find(parent)
                for child, parent in self._parents.items()
                if self._find(child) == FIXED or self._find(child) in self._frozen
            }
            if held <= self._frozen:
                return
            self._frozen |= held

    def _all_marks(self) -> dict[int, int]:
        """Marks of every free unit: of all that moves with it, of its children and its parent."""
        own: dict[int, int] = defaultdict(int)
        for unit, mark in enumerate(self._marks):
            own[self._find(unit)] += mark
        own.pop(FIXED, None)
        marks = {unit: own[unit] & _MASK for unit in sorted(own)}
        for _ in range(3):  # the depth of nesting that architectures have, and one more
            from_children: dict[int, int] = defaultdict(int)
            for unit, mark in marks.items():
                from_children[self.parent(unit)] += _token(mark)
            marks = {
                unit: hash((mark, from_children[unit] & _MASK, marks.get(self.parent(unit), FIXED)))
                for unit, mark in marks.items()
            }
        return marks


def _token(event: int) -> int:
    """Number that belongs to an event, as if at random: sums of them tell histories apart."""
    return hash((event, 0x5851F42D4C957F2D)) & _MASK
