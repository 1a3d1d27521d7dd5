"""`discover_scales`: the scale groups of any module, found by tracing and proved by trying.

The module is traced and run like in :mod:`bayesflow_nn.symmetry.discovery`, once for positive
factors and once for signs. An operation that is not known to carry factors fixes what it reads.
Afterwards random factors of all groups must leave the outputs of the module, with random parameters
in float64, as they were.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bayesflow_nn.symmetry.discovery import trace
from bayesflow_nn.symmetry.groups import Slot
from bayesflow_nn.symmetry.proof import prove
from bayesflow_nn.symmetry.scale_factors import EXPONENTS, Factor
from bayesflow_nn.symmetry.scale_groups import ScaleGroup, Statistic, scale
from bayesflow_nn.symmetry.scale_propagation import ScalePropagation
from bayesflow_nn.symmetry.units import FIXED
from bayesflow_nn.weights.random_state import RandomState


def discover_scales(
    module: nn.Module, *example: Tensor, verify: bool = True, random_state: RandomState = 0
) -> tuple[ScaleGroup, ...]:
    """Scale groups of a module.

    Every homogeneous, odd or batch-normalised unit that can be proved to be one is in a group. Left
    out are scales of queries against keys, of elements of parameters that multiply activations, and
    the inputs of grouped convolutions.

    Parameters
    ----------
    module : nn.Module
        Traceable by `torch.fx`: without control flow that depends on values. It is judged in
        evaluation mode.
    *example : Tensor
        Inputs of `forward`, a batch of any size.
    verify : bool
        Whether to prove the groups by `verify_scales`.
    random_state : int, generator or None
        Draws the factors and parameters of the proof.

    Returns
    -------
    tuple of ScaleGroup
        Input side first: in the order in which the first weights of every group are used.

    Raises
    ------
    UnsupportedOperationError
        If the module cannot be traced.
    RuntimeError
        If the proof fails.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from bayesflow_nn.symmetry.scale_discovery import discover_scales
    >>> net = nn.Sequential(
    ...     nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ... )
    >>> groups = discover_scales(net, torch.randn(2, 1, 8, 8))
    >>> [(group.name, group.kind, group.size) for group in groups]
    [('0.weight', 'invariant', 8), ('1.weight', 'homogeneous', 8)]
    """
    judged = copy.deepcopy(module).eval()
    dtype = next((p.dtype for p in judged.parameters()), torch.float32)
    example = tuple(x.to(dtype) if x.is_floating_point() else x for x in example)
    traced, found, taken = trace(judged), [], set()
    for signs in (False, True):
        propagation = ScalePropagation(traced, judged, signs=signs)
        # Copies, since modules may change their inputs in place.
        propagation.propagate(*(x.clone() for x in example))
        found += _assemble(propagation, taken)
    groups = tuple(group for _, group in sorted(found, key=lambda pair: pair[0]))
    if verify:
        verify_scales(module, example, groups, random_state=random_state)
    return groups


def verify_scales(
    module: nn.Module,
    example: Sequence[Tensor],
    groups: Sequence[ScaleGroup],
    *,
    random_state: RandomState = 0,
) -> None:
    """Raise unless random factors of all groups leave the outputs of a module unchanged.

    Parameters
    ----------
    module : nn.Module
    example : sequence of Tensor
        Inputs of `forward`; floating ones are replaced by normal numbers of their shape.
    groups : sequence of ScaleGroup
    random_state : int, generator or None

    Raises
    ------
    RuntimeError
        Names the first group that changes an output by more than 1e-9 of its size, in float64 and
        evaluation mode, with random parameters and buffers.
    """
    prove(
        module,
        example,
        groups,
        draw=_random_factors,
        act=scale,
        describe=lambda group: (
            f"the {group.kind} group of {group.name!r} is no symmetry of the module: scaling its "
            f"{group.size} units changes the outputs"
        ),
        random_state=random_state,
    )


def _random_factors(group: ScaleGroup, generator: torch.Generator) -> Tensor:
    """Signs, or numbers between 1/3 and 3."""
    uniform = 2 * torch.rand(group.size, generator=generator, dtype=torch.float64) - 1
    return uniform.sign() if group.kind == "odd" else 3**uniform


def _assemble(
    propagation: ScalePropagation, taken: set[tuple[str, int, int]]
) -> list[tuple[int, ScaleGroup]]:
    """Groups of units that lie on the same parameters, with the event of their first weights.

    Places of units that were grouped before are left out, and new ones are added to `taken`.
    """
    places: dict[int, dict[tuple[str, Factor], list[int]]] = defaultdict(dict)
    for name, factors in propagation.uses.items():
        for factor, axis in factors.items():
            for position, unit in enumerate(propagation.units.resolve(axis).tolist()):
                places[unit].setdefault((name, factor), []).append(position)
    places.pop(FIXED, None)
    alike = defaultdict(list)
    for own in places.values():
        made = {
            (name, factor.axis, position)
            for (name, factor), positions in own.items()
            if factor.role in ("weight", "bias")
            for position in positions
        }
        if made and not made & taken:  # zeros that are padded have readers alone
            alike[tuple((key, len(positions)) for key, positions in own.items())].append(own)
            taken |= made
    return [_make_group(propagation, units) for units in alike.values()]


def _make_group(
    propagation: ScalePropagation, units: list[dict[tuple[str, Factor], list[int]]]
) -> tuple[int, ScaleGroup]:
    """Group of units with the same places, and the event of its first weights."""
    slots: dict[str, list[Slot]] = defaultdict(list)
    statistics = []
    for name, factor in units[0]:
        slot = Slot(name, factor.axis, np.array([own[name, factor] for own in units]))
        if factor.role in ("mean", "variance"):
            statistics.append(Statistic(slot, EXPONENTS[factor.role], factor.shift))
        else:
            slots[factor.role].append(slot)
    made = slots["weight"] or slots["bias"] or slots["outgoing"]
    kind = "homogeneous" if slots["outgoing"] else "invariant"
    group = ScaleGroup(
        made[0].parameter,
        "odd" if propagation.signs else kind,
        len(units),
        *(tuple(slots[role]) for role in ("weight", "bias", "outgoing")),
        statistics=tuple(statistics),
    )
    # Those of parameters alone come last.
    first = min((propagation.events[slot.parameter] for slot in slots["weight"]), default=2**62)
    return first, group
