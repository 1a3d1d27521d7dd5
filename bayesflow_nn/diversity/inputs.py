"""Checks of what users pass in: which parameter, what was expected, what came, what to do."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights.validation import as_tensor, name_rows


def check_points(
    name: str, points: ArrayLike | Tensor, *, n_coordinates: int | None = None, at_least: int = 1
) -> Tensor:
    """Return finite points ``(n_points, n_coordinates)`` as a tensor, or raise."""
    tensor = as_tensor(points)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be of floating point, got {tensor.dtype}.")
    if tensor.ndim != 2 or len(tensor) < at_least or n_coordinates not in (None, tensor.shape[1]):
        raise ValueError(
            f"{name} must have shape (n_points, {n_coordinates or 'n_coordinates'}) with at least "
            f"{at_least} points, got {tuple(tensor.shape)}."
        )
    bad = ~tensor.isfinite().all(1)
    if bad.any():
        raise ValueError(f"{name} must be finite, got NaN or infinity in rows {name_rows(bad)}.")
    return tensor


def check_probabilities(name: str, values: ArrayLike | Tensor) -> Tensor:
    """Return probabilities ``(n_networks, n_inputs, n_classes)`` as a tensor, or raise."""
    p = as_tensor(values)
    if p.ndim != 3 or 0 in p.shape:
        raise ValueError(
            f"{name} must have shape (n_networks, n_inputs, n_classes) without empty dimensions, "
            f"got {tuple(p.shape)}."
        )
    if not (p >= 0).all() or not torch.allclose(p.sum(-1), p.new_ones(()), rtol=0, atol=1e-4):
        raise ValueError(
            f"{name} must hold probabilities: finite, non-negative, sums of one over classes; "
            "turn logits into probabilities with a softmax."
        )
    return p


def check_errors(name: str, values: ArrayLike | Tensor, *, at_least: int = 1) -> Tensor:
    """Return booleans ``(n_networks, n_inputs)`` as a tensor, or raise."""
    wrong = as_tensor(values)
    if wrong.dtype != torch.bool:
        raise TypeError(
            f"{name} must be boolean, got {wrong.dtype}; compare predictions with labels, for "
            "example proba.argmax(-1) != y."
        )
    if wrong.ndim != 2 or len(wrong) < at_least or wrong.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (n_networks, n_inputs) with at least {at_least} networks and "
            f"one input, got {tuple(wrong.shape)}."
        )
    return wrong


def check_same_inputs(a: Tensor, b: Tensor) -> None:
    """Raise unless both are about the same inputs and classes."""
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            "reference must be about the same inputs and classes, shape "
            f"(n_references, {', '.join(map(str, a.shape[1:]))}), got {tuple(b.shape)}."
        )
