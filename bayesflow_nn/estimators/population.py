"""Populations of networks: trained ensembles, and draws of chains that start at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bayesflow_nn.estimators.settings import read_steps
from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    Likelihood,
    WeightPopulation,
    sample_population,
    train_population,
)

_ENERGY_VARIANCE = 0.1
"""Of the chains, per weight, in nats squared: longer steps than the default, and more bias. With it
the UCI regressions of ``examples/benchmarks/uci_posteriors.py`` are sampled."""


@dataclass(frozen=True)
class Data:
    """Scaled data, and what networks make of them.

    Parameters
    ----------
    X : ndarray of shape (n_inputs, ...)
    y : ndarray of shape (n_inputs,) of labels, or (n_inputs, n_targets)
    loss : {"cross_entropy", "mse"} or Likelihood
    sample_weight : ndarray of shape (n_inputs,), optional
        Positive; without it every weight is 1.
    held_out : Data, optional
        What early stopping judges by.
    """

    X: np.ndarray
    y: np.ndarray
    loss: str | Likelihood
    sample_weight: np.ndarray | None = None
    held_out: Data | None = None

    @property
    def weights(self) -> np.ndarray:
        """Weight of every input ``(n_inputs,)``."""
        return np.ones(len(self.X)) if self.sample_weight is None else self.sample_weight

    @property
    def total_weight(self) -> float:
        """How many inputs the data are worth."""
        return float(self.weights.sum())

    def take(self, rows: np.ndarray) -> Data:
        """Some of the inputs."""
        w = None if self.sample_weight is None else self.sample_weight[rows]
        return Data(self.X[rows], self.y[rows], self.loss, w)

    def join(self, other: Data) -> Data:
        """These data and then the others, of the same loss."""
        X, y = np.concatenate([self.X, other.X]), np.concatenate([self.y, other.y])
        has_weights = self.sample_weight is not None or other.sample_weight is not None
        w = np.concatenate([self.weights, other.weights]) if has_weights else None
        return Data(X, y, self.loss, w)

    def with_held_out(self) -> Data:
        """All data, with nothing held out."""
        return self if self.held_out is None else self.join(self.held_out)


def known_likelihood(loss: str | Likelihood) -> Likelihood | None:
    """The likelihood that a loss is of, None for squared errors."""
    if loss == "cross_entropy":
        return Categorical()
    return None if loss == "mse" else loss


def train_networks(
    estimator: Any, architecture: Architecture, data: Data, init: str | Tensor, seed: int
) -> WeightPopulation:
    """Train an ensemble, or one network per chain, by the parameters of the estimator.

    Parameters
    ----------
    estimator : FlowBNN
    architecture : Architecture
    data : Data
    init : str or Tensor of shape (n_networks, n_weights)
        As in `train_population`.
    seed : int
    """
    held_out = data.held_out
    validation = held_out and (held_out.X, held_out.y, held_out.sample_weight)
    is_ensemble = estimator.population == "ensemble"
    return train_population(
        architecture,
        data.X,
        data.y,
        sample_weight=data.sample_weight,
        n_networks=estimator.n_networks if is_ensemble else estimator.n_chains,
        loss=data.loss,
        learning_rate=estimator.learning_rate_init,
        weight_decay=estimator.alpha_ / data.total_weight,
        n_epochs=estimator.max_iter,
        batch_size=min(estimator.batch_size, len(data.X)),
        init=init,
        validation_data=validation,
        early_stopping=held_out is not None,
        n_iter_no_change=estimator.n_iter_no_change,
        tol=estimator.tol,
        random_state=seed,
        verbose=estimator.verbose,
    )


def draw_chains(
    estimator: Any, starts: WeightPopulation, data: Data, seed: int
) -> WeightPopulation:
    """Draw networks from the posterior by one microcanonical chain from every start.

    Parameters
    ----------
    estimator : FlowBNN
    starts : WeightPopulation
    data : Data
    seed : int

    Returns
    -------
    WeightPopulation
        ``ceil(n_networks / n_chains)`` draws of every chain.
    """
    return sample_population(
        starts.architecture,
        data.X,
        data.y,
        sample_weight=data.sample_weight,
        sampler="mclmc",
        init=starts,
        n_draws=-(-estimator.n_networks // estimator.n_chains),
        n_tune=read_steps("n_tune", estimator.n_tune, len(data.X)),
        thinning=read_steps("thinning", estimator.thinning, len(data.X)),
        prior=estimator.alpha_**-0.5,
        likelihood=known_likelihood(data.loss),
        sampler_options={"energy_variance": _ENERGY_VARIANCE},
        random_state=seed,
        verbose=estimator.verbose,
    )
