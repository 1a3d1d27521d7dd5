"""`discover`: the permutation groups of any module, found by tracing and proved by trying.

The module is traced with `torch.fx` and run once on an example, with units (see
:mod:`bayesflow_nn.symmetry.units`) beside every activation. Units that may trade places make a
group; the heads of attention move as blocks, and their features inside of them. Afterwards random
permutations of all groups must leave the outputs of the module, with random parameters in float64,
as they were.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from bayesflow_nn.symmetry.groups import PermutationGroup, Slot, permute_all
from bayesflow_nn.symmetry.labelled import UnsupportedOperationError
from bayesflow_nn.symmetry.proof import prove
from bayesflow_nn.symmetry.propagation import Propagation
from bayesflow_nn.symmetry.units import FIXED, Family
from bayesflow_nn.weights.random_state import RandomState


def discover(
    module: nn.Module,
    *example: Tensor,
    verify: bool = True,
    random_state: RandomState = 0,
) -> tuple[PermutationGroup, ...]:
    """Permutation groups of a module.

    Parameters
    ----------
    module : nn.Module
        Traceable by `torch.fx`: without control flow that depends on values. It is judged in
        evaluation mode.
    *example : Tensor
        Inputs of `forward`, a batch of any size.
    verify : bool
        Whether to prove the groups by `verify_groups`.
    random_state : int, generator or None
        Draws the permutations and parameters of the proof.

    Returns
    -------
    tuple of PermutationGroup
        In the order of their first parameters. A group inside an element of another (the features
        of a head) comes after it. What cannot be proved a symmetry is left out.

    Raises
    ------
    UnsupportedOperationError
        If the module cannot be traced or has an operation without a rule; the message names it
        and its line.
    RuntimeError
        If the proof fails.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from bayesflow_nn.symmetry import discover
    >>> cnn = nn.Sequential(
    ...     nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    ... )
    >>> (group,) = discover(cnn, torch.randn(2, 1, 8, 8))
    >>> group.name, group.size
    ('0.weight', 8)
    >>> [(slot.parameter, slot.axis, slot.positions.shape) for slot in group.slots][-1]
    ('4.weight', 1, (8, 36))
    """
    judged = copy.deepcopy(module).eval()
    dtype = next((p.dtype for p in judged.parameters()), torch.float32)
    example = tuple(x.to(dtype) if x.is_floating_point() else x for x in example)
    propagation = Propagation(trace(judged), judged)
    # Copies, since modules may change their inputs in place.
    propagation.propagate(*(x.clone() for x in example))
    groups = _Assembly(propagation).groups()
    if verify:
        verify_groups(module, example, groups, random_state=random_state)
    return groups


def verify_groups(
    module: nn.Module,
    example: Sequence[Tensor],
    groups: Sequence[PermutationGroup],
    *,
    random_state: RandomState = 0,
) -> None:
    """Raise unless random elements of all groups leave the outputs of a module unchanged.

    Parameters
    ----------
    module : nn.Module
    example : sequence of Tensor
        Inputs of `forward`; floating ones are replaced by normal numbers of their shape.
    groups : sequence of PermutationGroup
    random_state : int, generator or None

    Raises
    ------
    RuntimeError
        Names the first group that changes an output by more than 1e-9 of its size, in float64,
        with random parameters and buffers.
    """
    prove(
        module,
        example,
        groups,
        draw=lambda group, generator: _random_cycle(group.size, generator),
        act=permute_all,
        describe=lambda group: (
            f"the group of {group.name!r} is no symmetry of the module: permuting its "
            f"{group.size} elements changes the outputs"
        ),
        random_state=random_state,
    )


def trace(module: nn.Module) -> fx.GraphModule:
    """Trace a module with `torch.fx`, with the line of every operation."""
    tracer = fx.Tracer()
    tracer.record_stack_traces = True
    tracer.proxy_buffer_attributes = True  # slices of buffers may depend on shapes
    try:
        return fx.GraphModule(module, tracer.trace(module))
    except (fx.proxy.TraceError, TypeError, NameError) as error:
        raise UnsupportedOperationError(
            f"{type(module).__name__} cannot be traced by torch.fx: {error}; its symmetries can be "
            f"given by hand (groups=[PermutationGroup(...)])."
        ) from error


class _Assembly:
    """Families of units and the axes they lie on, as groups."""

    def __init__(self, propagation: Propagation) -> None:
        units = propagation.units
        self.families = [f for f in units.families() if len(f.units) > 1]
        self.children = units.children()
        self.order = {key: place for place, key in enumerate(propagation.axes)}
        # Of every unit the axes that it lies on, and where.
        self.places: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(dict)
        for key, axis in propagation.axes.items():
            for position, unit in enumerate(units.resolve(axis).tolist()):
                self.places[unit].setdefault(key, []).append(position)

    def groups(self) -> tuple[PermutationGroup, ...]:
        """Groups with slots, parents before their children."""
        outer = sorted(self.families, key=lambda family: family.parent != FIXED)
        groups: list[PermutationGroup] = []
        elements: dict[int, tuple[int, int]] = {}
        for family in outer:
            slots = self._slots(family)
            if not slots:
                continue
            elements |= {unit: (len(groups), i) for i, unit in enumerate(family.units)}
            first = min(slots, key=lambda s: (s.axis, self.order[s.parameter, s.axis]))
            groups.append(
                PermutationGroup(
                    first.parameter, len(family.units), slots, elements.get(family.parent)
                )
            )
        return tuple(groups)

    def _slots(self, family: Family) -> tuple[Slot, ...]:
        blocks = [self._descendants(unit) for unit in family.units]
        keys = {key for unit in blocks[0] for key in self.places.get(unit, ())}
        return tuple(
            Slot(*key, np.array([self._positions(block, key) for block in blocks]))
            for key in sorted(keys, key=self.order.__getitem__)
        )

    def _positions(self, block: list[int], key: tuple[str, int]) -> list[int]:
        return [p for unit in block for p in self.places.get(unit, {}).get(key, ())]

    def _descendants(self, unit: int) -> list[int]:
        below = [u for child in self.children.get(unit, ()) for u in self._descendants(child)]
        return [unit, *below]


def _random_cycle(size: int, generator: torch.Generator) -> Tensor:
    """Permutation that leaves no element where it is."""
    order = torch.randperm(size, generator=generator)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))
