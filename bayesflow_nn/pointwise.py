r"""What every network says about every input: log likelihoods and drawn targets.

For a likelihood of :mod:`bayesflow_nn.weights.likelihoods` and outputs :math:`f(\theta_k, x_i)`,
these are :math:`\log p(y_i | f(\theta_k, x_i))` in nats and draws from
:math:`p(y | f(\theta_k, x_i))`. Averages over networks, which need none of these kept, are in
:mod:`bayesflow_nn.predictive`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights import Likelihood, WeightPopulation
from bayesflow_nn.weights.likelihoods import resolve_likelihood
from bayesflow_nn.weights.population import TASKS
from bayesflow_nn.weights.training_data import check_data
from bayesflow_nn.weights.validation import as_tensor, check_inputs, name_rows

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
    likelihood : Likelihood, float or None
        By default that of the population. A float is the standard deviation of normal noise on the
        targets of a regression.
    draws : bool
        Whether targets will be drawn, which needs a likelihood even without `y`.

    Raises
    ------
    ValueError, TypeError
        If weights or data are not finite, do not fit, or the likelihood or the task is missing.

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
        likelihood: float | Likelihood | None,
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
        likelihood = population.likelihood if likelihood is None else likelihood
        needs_one = draws or y is not None or self.classifies
        if needs_one or likelihood is not None:
            likelihood = resolve_likelihood(population.task, likelihood)
        self.likelihood = likelihood
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
            self.y = check_data(architecture, self.X, as_tensor(y), likelihood, None).y
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
        return self.likelihood.log_prob(outputs, self.y)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Class probabilities or means ``(networks in the block, n_inputs, n_targets)``."""
        return outputs if self.likelihood is None else self.likelihood.moments(outputs)[0]

    def draw_targets(self, outputs: Tensor, rng: np.random.Generator) -> np.ndarray:
        """Draw labels or targets; how networks are cut into blocks does not change them."""
        drawn = to_numpy(self.likelihood.draw(outputs, rng))
        return drawn if self.classifies else drop_single_output(drawn)

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
