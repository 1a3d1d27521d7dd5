r"""Unnormalised log posterior of many networks at once, with its gradient.

.. math::
    \log p(\theta | D) + \text{const} =
        \log p(\theta) + \sum_{i=1}^N w_i \log p(y_i | f(\theta, x_i))

A weight w_i is 1 unless given: 2 is a datum seen twice, weights below 1 temper the likelihood.
A minibatch B estimates it without bias: its log likelihood is multiplied by N / |B|. Markov chains,
importance weights and refinement share this object, so that they mean the same posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.dense_gradient import DenseLikelihood
from bayesflow_nn.weights.likelihood_gradients import sum_over_inputs
from bayesflow_nn.weights.likelihoods import Likelihood, resolve_likelihood
from bayesflow_nn.weights.priors import Prior, resolve_prior
from bayesflow_nn.weights.training_data import check_data
from bayesflow_nn.weights.validation import check_integer, check_weights


class ValueAndGradient(NamedTuple):
    """Log posterior ``(n,)`` in nats, and its gradient ``(n, n_weights)``."""

    value: Tensor
    gradient: Tensor


class LogPosterior:
    """Log posterior of networks, up to the evidence, as a function of their weights.

    Parameters
    ----------
    architecture : Architecture
        Run in evaluation mode.
    X : array of shape (n_inputs, ...)
        Inputs. Tensors keep their dtype; other arrays are cast to that of the architecture.
    y : array of shape (n_inputs,) or (n_inputs, n_targets)
        Integer labels, or real targets.
    sample_weight : array of shape (n_inputs,), optional
        Factors of the log likelihoods of the inputs, non-negative and not all zero. They are taken
        as they are, not scaled. Inputs of weight zero are left out.
    prior : float, mapping from name to float, Prior or callable
        Standard deviation of normal weights (one, or one per parameter), a prior such as
        ``LaplacePrior(0.5)``, or a function from weights ``(n, n_weights)`` to log densities
        ``(n,)``, of which autograd takes the gradient.
    likelihood : Likelihood, float or None
        None is class probabilities, a float the standard deviation of normal noise.
    chunk_size : int, optional
        Networks evaluated together, which bounds the memory; by default as many as fit in 64 MiB.
    device : torch.device or str, optional
        Where to compute; by default where `X` is.

    Attributes
    ----------
    architecture : Architecture
    X, y : Tensor
        The data as they are used.
    sample_weight : Tensor of shape (n_inputs,) or None
    prior : Prior or callable
    likelihood : Likelihood
    n_inputs : int
        Without those of weight zero.
    total_weight : float

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ValueError
        If data and architecture do not fit, data are not finite, or a regression has no likelihood.

    Examples
    --------
    >>> mlp = Architecture.mlp([2, 8, 2])
    >>> X = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> log_posterior = LogPosterior(mlp, X, (X[:, 0] > 0).long(), prior=1.0)
    >>> weights = torch.zeros(5, mlp.n_weights)
    >>> log_posterior(weights).shape
    torch.Size([5])
    >>> value, gradient = log_posterior.value_and_gradient(weights)
    >>> gradient.shape
    torch.Size([5, 42])
    """

    def __init__(
        self,
        architecture: Architecture,
        X: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        *,
        sample_weight: ArrayLike | Tensor | None = None,
        prior: float | Prior | Callable[[Tensor], Tensor] = 1.0,
        likelihood: float | Likelihood | None = None,
        chunk_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(architecture, Architecture):
            raise TypeError(
                f"architecture must be an Architecture, got {type(architecture).__name__}; "
                f"wrap a module as Architecture(module)."
            )
        self.likelihood = _resolve_likelihood(likelihood, y)
        data = check_data(architecture, X, y, self.likelihood, device, sample_weight)
        self.architecture, self.X, self.y = architecture, data.X, data.y
        self.sample_weight = data.sample_weight
        self.prior = resolve_prior(prior)
        if chunk_size is None:
            itemsize = self.X.element_size() if self.X.is_floating_point() else 4
            chunk_size = architecture.networks_per_chunk(self.X, itemsize)
        self._chunk_size = check_integer("chunk_size", chunk_size)
        self._write_likelihood = (
            DenseLikelihood(
                architecture.stack, self.likelihood, self.X, self.y, self.sample_weight
            ).write
            if architecture.is_mlp
            else self._write_module_likelihood
        )

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return len(self.X)

    @property
    def total_weight(self) -> float:
        """Sum of the weights of the inputs: how many data they are worth."""
        return self.n_inputs if self.sample_weight is None else self.sample_weight.sum().item()

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the inputs, or of the architecture if they are not real."""
        return self.X.dtype if self.X.is_floating_point() else self.architecture.dtype

    def __call__(self, weights: Tensor) -> Tensor:
        """Log posterior of every network; differentiable in `weights`.

        Parameters
        ----------
        weights : Tensor of shape (n, n_weights)

        Returns
        -------
        Tensor of shape (n,)
            Nats.
        """
        return self.log_prior(weights) + self.log_likelihood(weights)

    def log_prior(self, weights: Tensor) -> Tensor:
        """Log prior density ``(n,)`` of weights ``(n, n_weights)``, in nats."""
        check_weights(weights, self.architecture.n_weights)
        if hasattr(self.prior, "log_prob"):
            value = self.prior.log_prob(weights, self.architecture)
        else:
            value = self.prior(weights)
        if not isinstance(value, Tensor) or value.shape != weights.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"prior must return a tensor of shape ({len(weights)},), one log density per "
                f"network, got {got}; sum over the weights."
            )
        return value

    def log_likelihood(self, weights: Tensor) -> Tensor:
        """Log likelihood of all data ``(n,)`` of weights ``(n, n_weights)``, in nats."""
        check_weights(weights, self.architecture.n_weights)
        X, y, w = self._data(weights, None)
        chunks = [
            sum_over_inputs(self.likelihood.log_prob(self.architecture.apply(chunk, X), y), w)
            for chunk in weights.split(self._chunk_size)
        ]
        return torch.cat(chunks)

    @torch.no_grad()
    def value_and_gradient(self, weights: Tensor, rows: Tensor | None = None) -> ValueAndGradient:
        """Log posterior of every network, and its gradient.

        Multilayer perceptrons take batched matrix products, other modules ``torch.func.grad``
        under ``vmap``.

        Parameters
        ----------
        weights : Tensor of shape (n, n_weights)
        rows : Tensor of shape (batch,), optional
            Indices of a minibatch, whose log likelihood is multiplied by ``n_inputs / batch``; by
            default all data.

        Returns
        -------
        ValueAndGradient
            Value ``(n,)`` in nats, gradient ``(n, n_weights)``.

        Raises
        ------
        TypeError, ValueError
            If `weights` or `rows` has a wrong type or shape.
        """
        check_weights(weights, self.architecture.n_weights)
        _check_rows(rows)
        prior, prior_gradient = self._prior_and_gradient(weights)
        value, gradient = torch.empty_like(prior), torch.empty_like(weights)
        for start in range(0, len(weights), self._chunk_size):
            chunk = slice(start, start + self._chunk_size)
            self._write_likelihood(weights[chunk], rows, value[chunk], gradient[chunk])
        if rows is not None:
            value *= self.n_inputs / len(rows)
            gradient *= self.n_inputs / len(rows)
        return ValueAndGradient(value.add_(prior), gradient.add_(prior_gradient))

    def _prior_and_gradient(self, weights: Tensor) -> ValueAndGradient:
        if hasattr(self.prior, "gradient"):
            gradient = self.prior.gradient(weights, self.architecture)
            return ValueAndGradient(self.log_prior(weights), gradient)

        def total(weights: Tensor) -> tuple[Tensor, Tensor]:
            value = self.log_prior(weights)
            return value.sum(), value

        gradient, value = torch.func.grad(total, has_aux=True)(weights)
        return ValueAndGradient(value, gradient)

    def _write_module_likelihood(
        self, weights: Tensor, rows: Tensor | None, value: Tensor, gradient: Tensor
    ) -> None:
        X, y, w = self._data(weights, rows)

        def of_one(row: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.architecture.call(row, X)
            log_prob = sum_over_inputs(self.likelihood.log_prob(outputs, y), w)
            return log_prob, log_prob

        derivative, log_prob = torch.vmap(torch.func.grad(of_one, has_aux=True))(weights)
        value.copy_(log_prob)
        gradient.copy_(derivative)

    def _data(self, weights: Tensor, rows: Tensor | None) -> list[Tensor | None]:
        """Return X, y and w (None without) of `rows` (None is all), in the dtype of `weights`."""
        data = [self.X, self.y, self.sample_weight]
        if rows is not None:
            data = [None if values is None else values[rows] for values in data]
        return [None if values is None else _cast(values, weights) for values in data]


def _resolve_likelihood(likelihood: float | Likelihood | None, y: ArrayLike | Tensor) -> Likelihood:
    if hasattr(likelihood, "log_prob"):
        return likelihood
    is_real = torch.as_tensor(y).is_floating_point()
    task = "regression" if is_real or likelihood is not None else "classification"
    return resolve_likelihood(task, likelihood)


def _cast(values: Tensor, weights: Tensor) -> Tensor:
    return values.to(weights.dtype) if values.is_floating_point() else values


def _check_rows(rows: Tensor | None) -> None:
    if rows is None:
        return
    if not isinstance(rows, Tensor) or rows.ndim != 1 or rows.is_floating_point() or not len(rows):
        got = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows)
        raise ValueError(
            f"rows must be a tensor of integer indices of shape (batch,), not empty, got {got}."
        )
