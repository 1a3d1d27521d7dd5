"""Populations that flows learn from: trained ensembles, and draws of chains that start at them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

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


class Data(NamedTuple):
    """Scaled data, and what networks make of them.

    Attributes
    ----------
    X : ndarray of shape (n_inputs, ...)
    y : ndarray of shape (n_inputs,) of labels, or (n_inputs, n_targets)
    loss : {"cross_entropy", "mse"} or Likelihood
    held_out : tuple (X, y) or None
        What early stopping judges by.
    """

    X: np.ndarray
    y: np.ndarray
    loss: str | Likelihood
    held_out: tuple[np.ndarray, np.ndarray] | None = None


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
    is_ensemble = estimator.population == "ensemble"
    return train_population(
        architecture,
        data.X,
        data.y,
        n_networks=estimator.n_networks if is_ensemble else estimator.n_chains,
        loss=data.loss,
        learning_rate=estimator.learning_rate_init,
        weight_decay=estimator.alpha_ / len(data.X),
        n_epochs=estimator.max_iter,
        batch_size=min(estimator.batch_size, len(data.X)),
        init=init,
        validation_data=data.held_out,
        early_stopping=data.held_out is not None,
        n_iter_no_change=estimator.n_iter_no_change,
        tol=estimator.tol,
        random_state=seed,
        verbose=estimator.verbose,
    )


def draw_chains(
    estimator: Any, starts: WeightPopulation, data: Data, seed: int
) -> WeightPopulation:
    """Draw networks from the posterior by one microcanonical chain from every start.

    The data that early stopping held out are data of the chains.

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
    parts = [(data.X, data.y), *([data.held_out] if data.held_out else [])]
    X, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return sample_population(
        starts.architecture,
        X,
        y,
        sampler="mclmc",
        init=starts,
        n_draws=-(-estimator.n_networks // estimator.n_chains),
        n_tune=estimator.n_tune,
        thinning=estimator.thinning,
        prior=estimator.alpha_**-0.5,
        likelihood=known_likelihood(data.loss),
        sampler_options={"energy_variance": _ENERGY_VARIANCE},
        random_state=seed,
        verbose=estimator.verbose,
    )
