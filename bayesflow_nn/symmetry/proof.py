"""Proof of symmetries by trying: random elements of groups must leave outputs as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesflow_nn.weights.random_state import RandomState, draw_seed

_TOLERANCE = 1e-9


def prove(
    module: nn.Module,
    example: Sequence[Tensor],
    groups: Sequence[Any],
    *,
    draw: Callable[[Any, torch.Generator], Tensor],
    act: Callable[[list[Any], dict[str, Tensor], list[Tensor]], dict[str, Tensor]],
    describe: Callable[[Any], str],
    random_state: RandomState,
) -> None:
    """Raise unless elements of groups leave the outputs of a module unchanged.

    In float64 and evaluation mode, with random parameters and inputs.

    Parameters
    ----------
    module : nn.Module
    example : sequence of Tensor
        Inputs of `forward`; floating ones are replaced by normal numbers of their shape.
    groups : sequence
    draw : callable
        Element of a group, from a generator.
    act : callable
        ``act(groups, state, elements)``, the state after their action.
    describe : callable
        What to say of a group that is no symmetry.
    random_state : int, generator or None

    Raises
    ------
    RuntimeError
        Names the first group that changes an output by more than 1e-9 of its size.
    """
    generator = torch.Generator().manual_seed(draw_seed(random_state))
    judged = copy.deepcopy(module).cpu().double().eval()
    state = _random_state(judged, generator)
    inputs = [
        _randomise(x.cpu().double() if x.is_floating_point() else x, generator) for x in example
    ]
    pairs = [(group, draw(group, generator)) for group in groups]
    with torch.no_grad():
        before = _run(judged, state, inputs)

        def changes(some: list[tuple[Any, Tensor]]) -> bool:
            moved = act([group for group, _ in some], state, [element for _, element in some])
            return _differ(_run(judged, moved, inputs), before)

        for some in separating_subsets(pairs):
            if changes(some):
                wrong = next((group for group, own in some if changes([(group, own)])), None)
                if wrong is None:
                    raise RuntimeError(
                        "each group is a symmetry of the module, all together are not; please "
                        "report the module."
                    )
                raise RuntimeError(
                    f"{describe(wrong)}; please report the module, or leave the group out."
                )


def separating_subsets(items: Sequence[Any]) -> Iterator[list[Any]]:
    """All items together, and subsets so that of any two items one comes without the other.

    For n items these are 2 log2 n subsets, by the digits of their numbers: two groups that are
    symmetries only together do not pass a proof on all of them.
    """
    yield list(items)
    for digit in range(max(len(items) - 1, 0).bit_length()):
        for wanted in (0, 1):
            yield [item for number, item in enumerate(items) if number >> digit & 1 == wanted]


def _run(module: nn.Module, state: dict[str, Tensor], inputs: Sequence[Tensor]) -> Any:
    """Outputs; of copies, since modules may change their inputs in place."""
    return torch.func.functional_call(module, state, tuple(x.clone() for x in inputs))


def _random_state(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Normal parameters and statistics of batch norm, variances between 1/2 and 3/2."""
    state = {name: _randomise(tensor, generator) for name, tensor in module.named_parameters()}
    for name, tensor in module.named_buffers():
        if name.endswith("running_mean"):
            state[name] = _randomise(tensor, generator)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
        else:
            state[name] = tensor
    return state


def _randomise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers, in matrices of the size that keeps activations of order one."""
    if not tensor.is_floating_point():
        return tensor
    scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 1.0
    return scale * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def _differ(after: Any, before: Any) -> bool:
    """Whether outputs differ by more than rounding; written so that a NaN is a difference."""
    return not all(
        torch.equal(a, b)
        if a.numel() == 0 or not a.is_floating_point()
        else bool((a - b).abs().max() <= _TOLERANCE * b.abs().max())
        for a, b in zip(_tensors(after), _tensors(before), strict=True)
    )


def _tensors(value: object) -> list[Tensor]:
    found: list[Tensor] = []
    fx.node.map_aggregate(
        value, lambda part: found.append(part) if isinstance(part, Tensor) else part
    )
    return found
