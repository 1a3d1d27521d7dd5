r"""What every network says about every input: log likelihoods and drawn targets.

For logits or means :math:`f(\theta_k, x_i)`,

.. math::
    \log p(y_i | x_i, \theta_k) = \log \mathrm{softmax}(f(\theta_k, x_i))_{y_i}
    \quad\text{or}\quad \log N(y_i; f(\theta_k, x_i), \sigma^2)    \text{ (nats)}.

Averages over networks, which need none of these kept, are in :mod:`bayesflow_nn.predictive`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights import WeightPopulation
from bayesflow_nn.weights.population import TASKS
from bayesflow_nn.weights.training_data import check_data
from bayesflow_nn.weights.validation import as_tensor, check_inputs, check_real, name_rows

_CHUNK = 2**16  # network-input pairs evaluated at once


class PointwiseModel:
    """Networks on checked data. Iterating gives their outputs, a block of networks at a time.

    Outputs are float64, of shape ``(networks in the block, n_inputs, n_outputs)``; memory beyond
    one block is the caller's.

    Parameters
    ----------
    population : WeightPopulation
        With a task.
    X : array of shape (n_inputs, ...)
    y : array of shape (n_inputs,) or (n_inputs, n_outputs), or None
    noise : float or None
        Standard deviation of normal noise on the targets of a regression.
    draws : bool
        Whether targets will be drawn, which needs the noise even without `y`.

    Raises
    ------
    ValueError, TypeError
        If weights or data are not finite, do not fit, or `noise` or the task is missing.

    Examples
    --------
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp, line = Architecture.mlp([1, 1]), torch.tensor([[2.0, 1.0]])
    >>> population = WeightPopulation(line, architecture=mlp, task="regression")
    >>> model = PointwiseModel(population, [[3.0]], [[7.0]], 1.0, draws=False)
    >>> [model.log_likelihood(outputs).numpy().round(3) for outputs in model]  # -log(2 pi) / 2
    [array([[-0.919]])]
    """

    def __init__(
        self,
        population: WeightPopulation,
        X: ArrayLike | Tensor,
        y: ArrayLike | Tensor | None,
        noise: float | None,
        *,
        draws: bool,
    ) -> None:
        check_finite("weights of networks", population.weights)
        if population.task is None:
            raise ValueError(
                f"population.task must be one of {list(TASKS)} for predictions, got None; use "
                f"dataclasses.replace(population, task=...)."
            )
        self.population = population
        self.classifies = population.task == "classification"
        self.noise = _check_noise(noise, self.classifies, needed=draws or y is not None)
        architecture, weights = population.architecture, population.weights
        self.X = as_tensor(X).to(weights.device)
        if architecture.is_mlp or self.X.is_floating_point():  # others may be token indices
            self.X = self.X.to(weights.dtype)
        check_inputs(self.X, architecture.sizes[0] if architecture.is_mlp else None)
        if len(self.X) == 0:
            raise ValueError(f"X must hold at least one input, got shape {tuple(self.X.shape)}.")
        check_finite("X in rows", self.X)
        self.y = None
        if y is not None:
            loss = "cross_entropy" if self.classifies else "mse"
            self.y = check_data(architecture, self.X, as_tensor(y), loss, None).y
        n_outputs = self._run(slice(0, 1), self.X[:1]).shape[-1]
        if self.classifies and n_outputs < 2:
            raise ValueError(
                f"population.architecture must have one output per class, at least 2, for "
                f"task='classification', got {n_outputs}."
            )

    def __iter__(self) -> Iterator[Tensor]:
        size = max(1, _CHUNK // len(self.X))
        for k in range(0, len(self.population), size):
            parts = [self._run(slice(k, k + size), block) for block in self.X.split(_CHUNK)]
            yield torch.cat(parts, 1).double()

    def log_likelihood(self, outputs: Tensor) -> Tensor:
        """Log likelihood of every target ``(networks in the block, n_inputs)``, in nats."""
        if self.classifies:
            labels = self.y.expand(len(outputs), -1)[..., None]
            return outputs.log_softmax(-1).gather(-1, labels).squeeze(-1)
        residual = (self.y - outputs) / self.noise
        constant = math.log(self.noise) + 0.5 * math.log(2 * math.pi)
        return -(0.5 * residual.square() + constant).sum(-1)

    def draw_targets(self, outputs: Tensor, rng: np.random.Generator) -> np.ndarray:
        """Draw labels or targets; how networks are cut into blocks does not change them."""
        if self.classifies:
            edges = to_numpy(outputs.softmax(-1).cumsum(-1))[..., :-1]
            return (rng.random((*edges.shape[:2], 1)) >= edges).sum(-1)
        means = to_numpy(outputs)
        return drop_single_output(means + self.noise * rng.standard_normal(means.shape))

    @torch.no_grad()
    def _run(self, networks: slice, X: Tensor) -> Tensor:
        buffers = {name: b[networks] for name, b in (self.population.buffers or {}).items()}
        weights = self.population.weights[networks]
        return self.population.architecture.apply(weights, X, buffers=buffers)


def check_finite(name: str, values: Tensor) -> None:
    """Raise unless every row is finite."""
    bad = ~values.isfinite().reshape(len(values), -1).all(1)
    if bad.any():
        raise ValueError(
            f"{name} {name_rows(bad)} must be finite, got NaN or infinity; leave these out."
        )


def drop_single_output(values: np.ndarray) -> np.ndarray:
    """Without the last dimension if there is one output."""
    return values[..., 0] if values.shape[-1] == 1 else values


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Array of a tensor on any device."""
    return tensor.detach().cpu().numpy()


def _check_noise(noise: float | None, classifies: bool, *, needed: bool) -> float | None:
    if noise is None:
        if needed and not classifies:
            raise ValueError(
                "noise must be the standard deviation of the targets about the outputs, for "
                "regression, got None."
            )
        return None
    if classifies:
        raise ValueError(f"noise must be None for classification, got {noise!r}.")
    return check_real("noise", noise, 0, strict=True)
