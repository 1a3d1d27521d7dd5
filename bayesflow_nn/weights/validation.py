"""Checks of what users pass in: which parameter, what was expected, what came, what to do."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn


def as_tensor(values: ArrayLike | Tensor) -> Tensor:
    """A tensor as it is, and anything else as one of its own memory."""
    # A copy of an array, since torch warns about sharing memory with a read-only one.
    return values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))


def check_module(module: nn.Module) -> None:
    """Raise unless the module has floating parameters of one dtype."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module instance, got {type(module).__name__}; "
            f"for a multilayer perceptron use Architecture.mlp(sizes)."
        )
    if any(isinstance(p, nn.UninitializedParameter) for p in module.parameters()):
        raise ValueError("module has lazy parameters without a shape; run it on a batch first.")
    dtypes = {parameter.dtype for parameter in module.parameters()}
    if not dtypes:
        raise ValueError("module must have parameters, got a module without any.")
    if len(dtypes) > 1 or not dtypes.pop().is_floating_point:
        raise ValueError(
            "module must have floating parameters of one dtype; convert it with module.float()."
        )


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the layer sizes of a multilayer perceptron as a tuple, or raise."""
    sizes = tuple(sizes)
    if len(sizes) < 2 or not all(isinstance(n, numbers.Integral) and n > 0 for n in sizes):
        raise ValueError(
            f"sizes must be at least two positive integers (inputs, hidden layers, outputs), "
            f"got {list(sizes)}."
        )
    return tuple(map(int, sizes))


def check_weights(weights: Tensor, n_weights: int) -> None:
    """Raise unless `weights` is a tensor of shape (n_networks, n_weights) with a network."""
    if not isinstance(weights, Tensor):
        raise TypeError(
            f"weights must be a torch.Tensor, got {type(weights).__name__}; "
            f"use torch.as_tensor or WeightPopulation.from_array."
        )
    if weights.ndim != 2 or weights.shape[1] != n_weights or len(weights) == 0:
        raise ValueError(
            f"weights must have shape (n_networks, {n_weights}) with at least one network, "
            f"got {tuple(weights.shape)}."
        )


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Raise unless `tensors` are the named parameters of the same number of networks."""
    if set(tensors) != set(shapes):
        raise ValueError(
            f"tensors must hold exactly the names {list(shapes)}, got {sorted(tensors)}."
        )
    n_networks = len(next(iter(tensors.values())))
    for name, shape in shapes.items():
        if tensors[name].shape != (n_networks, *shape):
            raise ValueError(
                f"tensors[{name!r}] must have shape {(n_networks, *shape)}, "
                f"got {tuple(tensors[name].shape)}."
            )


def check_inputs(X: Tensor, n_in: int | None) -> None:
    """Raise unless `X` is a tensor of shape (n_inputs, ...), (n_inputs, n_in) if that is known."""
    if not isinstance(X, Tensor):
        raise TypeError(f"X must be a torch.Tensor, got {type(X).__name__}; use torch.as_tensor.")
    if X.ndim == 0 or (n_in is not None and (X.ndim != 2 or X.shape[1] != n_in)):
        expected = "(n_inputs, ...)" if n_in is None else f"(n_inputs, {n_in})"
        raise ValueError(f"X must have shape {expected}, got {tuple(X.shape)}.")


def check_sample_weight(sample_weight: ArrayLike | Tensor, n_inputs: int) -> Tensor:
    """Return the weights of inputs ``(n_inputs,)`` in double precision, or raise."""
    weight = as_tensor(sample_weight).detach()
    if weight.shape != (n_inputs,):
        raise ValueError(
            f"sample_weight must have shape ({n_inputs},), one weight per input, got "
            f"{tuple(weight.shape)}."
        )
    weight = weight.double()
    bad = ~(torch.isfinite(weight) & (weight >= 0))
    if bad.any():
        raise ValueError(
            f"sample_weight must be finite and non-negative, got other weights in rows "
            f"{name_rows(bad)}."
        )
    if not weight.any():
        raise ValueError("sample_weight must hold a positive weight, got only zeros.")
    return weight


def check_buffers(
    buffers: Mapping[str, Tensor] | None, shapes: Mapping[str, torch.Size], n_networks: int
) -> dict[str, Tensor]:
    """Return the buffers of all networks as a dict, or raise if one does not fit the module."""
    for name, buffer in (buffers or {}).items():
        if name not in shapes:
            raise ValueError(f"buffers has {name!r}, but the module has only {sorted(shapes)}.")
        if buffer.shape != (n_networks, *shapes[name]):
            raise ValueError(
                f"buffers[{name!r}] must have shape {(n_networks, *shapes[name])}, "
                f"got {tuple(buffer.shape)}."
            )
    return dict(buffers or {})


def check_integer(name: str, value: int, low: int = 1) -> int:
    """Return `value` as an int, or raise unless it is an integer of at least `low`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}.")
    return int(value)


def check_real(name: str, value: float, low: float, *, strict: bool = False) -> float:
    """Return `value` as a float, or raise unless it is finite and at least (above) `low`."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}.")
    if not low <= value < float("inf") or (strict and value == low):
        raise ValueError(f"{name} must be finite and {'>' if strict else '>='} {low}, got {value}.")
    return float(value)


def check_option(name: str, value: str, options: Sequence[str]) -> None:
    """Raise unless `value` is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {list(options)}, got {value!r}.")


def name_rows(mask: Tensor, limit: int = 10) -> str:
    """Write the indices at which `mask` is True, at most `limit` of them."""
    indices = torch.nonzero(mask).flatten().tolist()
    more = f", ... ({len(indices)} in all)" if len(indices) > limit else ""
    return ", ".join(map(str, indices[:limit])) + more
