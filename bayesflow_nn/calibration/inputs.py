"""Checks of what users pass in: which parameter, what was expected, what came, what to do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor


class NormalMixture(NamedTuple):
    """One normal per network and input, and a weight per network; float64, no weight is zero."""

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray


def as_array(values: ArrayLike | Tensor) -> np.ndarray:
    """Return `values` as an array, from any device and without its gradient."""
    return values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)


def check_probabilities(
    proba: ArrayLike | Tensor, y: ArrayLike | Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities ``(n_inputs, n_classes)`` in float64 and class indices, or raise."""
    proba, y = as_array(proba), as_array(y)
    if proba.ndim != 2 or proba.shape[1] < 2 or len(proba) == 0:
        raise ValueError(
            f"proba must have shape (n_inputs, n_classes) with at least one input and two "
            f"classes, got {proba.shape}; for one column p pass [1 - p, p]."
        )
    # Rows summed in float32 over many classes, or averaged, are off by a few roundings.
    if not (proba >= 0).all() or not np.allclose(proba.sum(1), 1, rtol=0, atol=1e-4):
        raise ValueError(
            "proba must hold probabilities: finite, non-negative, rows that sum to one; turn "
            "logits into probabilities with a softmax."
        )
    if y.shape != proba.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"y must hold one integer class index per row of proba, shape {proba.shape[:1]}, got "
            f"{y.dtype} of shape {y.shape}; encode labels as 0, ..., n_classes - 1."
        )
    if y.min() < 0 or y.max() >= proba.shape[1]:
        raise ValueError(
            f"y must hold class indices 0, ..., {proba.shape[1] - 1}, got {y.min()} to {y.max()}."
        )
    return proba.astype(np.float64), y


def check_mixture(
    mean: ArrayLike | Tensor, std: ArrayLike | Tensor, weights: ArrayLike | Tensor | None
) -> NormalMixture:
    """Return the mixture in float64, without networks of weight zero, or raise."""
    mean = as_array(mean)
    if mean.ndim != 2 or mean.size == 0 or not np.isfinite(mean).all():
        raise ValueError(
            f"mean must be finite of shape (n_networks, n_inputs) with at least one of each, got "
            f"shape {mean.shape}; for a single prediction per input pass mean[None]."
        )
    std = as_array(std)
    # A vector could be one value per network or per input; only two dimensions tell.
    fits = std.ndim in (0, 2) and all(
        n in (1, m) for n, m in zip(std.shape, mean.shape, strict=False)
    )
    if not fits or not np.isfinite(std).all() or not (std > 0).all():
        raise ValueError(
            f"std must be finite and positive, a number or of shape {mean.shape}, "
            f"({len(mean)}, 1) or (1, {mean.shape[1]}), got shape {std.shape}; "
            "draws without noise are scored by crps_sample."
        )
    w = _check_weights(weights, len(mean))
    std = np.broadcast_to(std.astype(np.float64), mean.shape)
    return NormalMixture(mean[w > 0].astype(np.float64), std[w > 0], w[w > 0])


def check_targets(y: ArrayLike | Tensor, n_inputs: int) -> np.ndarray:
    """Return finite targets ``(n_inputs,)`` in float64, or raise."""
    y = as_array(y)
    if y.shape != (n_inputs,) or not np.isfinite(y).all():
        raise ValueError(
            f"y must hold one finite target per input, shape ({n_inputs},), got shape {y.shape}; "
            "score several outputs one by one."
        )
    return y.astype(np.float64)


def check_fractions(name: str, values: ArrayLike | Tensor, *, single: bool = False) -> np.ndarray:
    """Return numbers, or a single one, strictly between 0 and 1 in float64, or raise."""
    fractions = as_array(values).astype(np.float64)
    inside = (fractions > 0) & (fractions < 1)
    if fractions.size == 0 or not inside.all() or (single and fractions.ndim):
        expected = "be a number" if single else "lie"
        raise ValueError(f"{name} must {expected} strictly between 0 and 1, got {values!r}.")
    return fractions


def _check_weights(weights: ArrayLike | Tensor | None, n_networks: int) -> np.ndarray:
    if weights is None:
        return np.full(n_networks, 1 / n_networks)
    w = as_array(weights).astype(np.float64)
    if w.shape != (n_networks,) or not np.isfinite(w).all() or w.min() < 0 or w.sum() == 0:
        raise ValueError(
            f"weights must be finite, non-negative and not all zero, one per network, shape "
            f"({n_networks},), got shape {w.shape}; for log weights pass their softmax."
        )
    return w / w.sum()
