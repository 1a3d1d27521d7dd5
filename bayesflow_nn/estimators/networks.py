"""From scaled data to the networks of an average: a population, a flow over it, and draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.weights import (
    Architecture,
    Likelihood,
    WeightPopulation,
    train_population,
)
from bayesflow_nn.weights.random_state import draw_seed
from bayesflow_nn.weights.validation import check_integer, check_real, check_sample_weight

_LEAST_FEATURES = 4
"""From how many inputs on neurons of classifiers live on spheres by default. Directions of two
weights are points on a circle, which flows learn worse: on two moons generated networks have a
negative log likelihood of .20 nats there and of .096 in flat space, trained ones .091. Regressions
stay in flat space: on diabetes (10-16-16-1) generated networks have a dispersion of .97 there, and
of 1.8 on spheres, where a nearly dead neuron has a huge bias in its own units."""


class FlowBNN(BaseEstimator):
    """What both estimators do with scaled inputs and targets, and with their common parameters."""

    def _check_settings(self) -> None:
        check_integer("n_networks", self.n_networks, low=2)
        check_integer("n_samples", self.n_samples)
        check_integer("max_iter", self.max_iter)
        check_integer("batch_size", self.batch_size)
        check_real("alpha", self.alpha, 0)
        check_real("learning_rate_init", self.learning_rate_init, 0, strict=True)
        if self.posterior is not None and not isinstance(self.posterior, FlowPosterior):
            raise TypeError(
                f"posterior must be a FlowPosterior, which is cloned, or None, got "
                f"{type(self.posterior).__name__}."
            )

    def _scale_inputs(self, X: np.ndarray, sample_weight: np.ndarray | None = None) -> np.ndarray:
        self.scaler_ = StandardScaler().fit(X, None, sample_weight) if self.standardize else None
        return self._scaled(X)

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        return (X if self.scaler_ is None else self.scaler_.transform(X)).astype(np.float32)

    def _average(self, average: Callable, X: ArrayLike, **arguments: Any) -> Any:
        """What a function of `predictive` makes of the networks, scaled inputs and more."""
        check_is_fitted(self)
        inputs = self._scaled(validate_data(self, X, reset=False, dtype=np.float64))
        return average(self.population_.architecture, self.networks_, inputs, **arguments)

    def _fit_networks(
        self,
        X: np.ndarray,
        y: np.ndarray,
        n_outputs: int,
        loss: str | Likelihood,
        sample_weight: np.ndarray | None = None,
    ) -> None:
        """Train the population, fit the flow and draw the networks of the average."""
        seed = draw_seed(self.random_state) % 2**32
        hidden = np.atleast_1d(self.hidden_layer_sizes).tolist()
        total_weight = len(X) if sample_weight is None else sample_weight.sum()
        start = time.perf_counter()
        self.population_: WeightPopulation = train_population(
            Architecture.mlp([X.shape[1], *hidden, n_outputs], self.activation),
            X,
            y,
            sample_weight=sample_weight,
            n_networks=self.n_networks,
            loss=loss,
            learning_rate=self.learning_rate_init,
            weight_decay=self.alpha / total_weight,
            n_epochs=self.max_iter,
            batch_size=min(self.batch_size, len(X)),
            random_state=seed,
            verbose=self.verbose,
        )
        self.n_iter_ = self.max_iter
        trained = time.perf_counter()
        self.posterior_ = self._make_posterior(X.shape[1], seed).fit(self.population_)
        fitted = time.perf_counter()
        self.networks_ = self.posterior_.sample(self.n_samples, random_state=seed)
        self.fit_times_ = {
            "train": trained - start,
            "flow": fitted - trained,
            "sample": time.perf_counter() - fitted,
        }

    def _make_posterior(self, n_features: int, seed: int) -> FlowPosterior:
        if self.posterior is None:
            on_spheres = (
                self.population_.task == "classification"
                and self.activation == "relu"
                and n_features >= _LEAST_FEATURES
            )
            posterior = FlowPosterior(
                geometry="product_sphere" if on_spheres else "euclidean", max_iter=300
            )
        else:
            posterior = clone(self.posterior)
        if posterior.random_state is None:
            posterior.set_params(random_state=seed)
        return posterior.set_params(verbose=bool(self.verbose) or posterior.verbose)


def drop_weightless(
    X: np.ndarray, y: np.ndarray, sample_weight: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows with a positive weight, and their weights; all of them if there are no weights."""
    if sample_weight is None:
        return X, y, None
    w = _check_sample_weight(sample_weight, X, dtype=np.float64)
    w = check_sample_weight(w, len(X)).numpy()
    return X[w > 0], y[w > 0], w[w > 0]
