"""From scaled data to the networks of an average: a population, a flow if asked for, and draws.

The networks of the average are drawn by the flow, or they are networks of the population.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from bayesflow_nn.estimators.inputs import fit_scaler, scale_inputs
from bayesflow_nn.estimators.population import Data, draw_chains, known_likelihood, train_networks
from bayesflow_nn.estimators.seen_inputs import remember
from bayesflow_nn.estimators.settings import check_settings, read_precision
from bayesflow_nn.persistence import PersistenceMethods
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.random_state import draw_seed

_LEAST_FEATURES = 4
"""From how many inputs on neurons of classifiers live on spheres by default. Directions of two
weights are points on a circle, which flows learn worse: on two moons generated networks have a
negative log likelihood of .20 nats there and of .096 in flat space, trained ones .091. Regressions
stay in flat space: on diabetes (10-16-16-1) generated networks have a dispersion of .97 there, and
of 1.8 on spheres, where a nearly dead neuron has a huge bias in its own units."""


class FlowBNN(PersistenceMethods, BaseEstimator):
    """What both estimators do with scaled inputs and targets, and with their common parameters."""

    def _check_settings(self) -> None:
        check_settings(self.get_params(deep=False))

    @property
    def _is_fitted(self) -> bool:
        return hasattr(self, "networks_")

    def _begin(self, goes_on: bool) -> None:
        """Check the parameters, and forget the last fit unless this one goes on from it."""
        self._check_settings()
        self._goes_on = goes_on and self._is_fitted
        self.alpha_ = read_precision(self.alpha, self.population)

    def _read_data(self, X: ArrayLike, y: ArrayLike, **checks: Any) -> tuple[np.ndarray, ...]:
        return self._check_shape(
            *validate_data(self, X, y, reset=not self._goes_on, **self._input_checks, **checks),
            reset=not self._goes_on,
        )

    @property
    def _input_checks(self) -> dict[str, Any]:
        if self.module is None:
            return {"dtype": np.float64}
        return {"dtype": "numeric", "allow_nd": True}

    def _check_shape(self, X: np.ndarray, *y: np.ndarray, reset: bool) -> tuple[np.ndarray, ...]:
        """Inputs of more dimensions than those that scikit-learn compares."""
        if reset:
            self.input_shape_ = X.shape[1:]
        elif X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"X must have shape (n_inputs, {', '.join(map(str, self.input_shape_))}), as in "
                f"fit, got {X.shape}."
            )
        return X, *y

    def _scale_inputs(self, X: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
        if not self._goes_on:
            self.scaler_ = fit_scaler(X, sample_weight) if self.standardize else None
        return self._scaled(X)

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        if self.scaler_ is not None:
            X = scale_inputs(self.scaler_, X)
        # Integers reach a module as they are: it may look them up.
        return X if X.dtype.kind in "iu" else X.astype(np.float32)

    def _average(self, average: Callable, X: ArrayLike, **arguments: Any) -> Any:
        """What a function of `predictive` makes of the networks, scaled inputs and more."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, **self._input_checks)
        (X,) = self._check_shape(X, reset=False)
        architecture, inputs = self.population_.architecture, self._scaled(X)
        return average(architecture, self.networks_, inputs, **arguments)

    def _average_old(self, average: Callable, **arguments: Any) -> Any:
        """What a function of `predictive` makes of the old population at the inputs it has seen."""
        population, inputs = self.population_, self.seen_inputs_.inputs
        return average(population.architecture, population.weights.numpy(), inputs, **arguments)

    def _hold_out(self, data: Data, stratify: np.ndarray | None = None) -> Data:
        """Training data that carry the `validation_fraction` that is held out of them."""
        n_inputs = len(data.X)
        least = 1 if stratify is None else len(np.unique(stratify))
        n = max(least, round(self.validation_fraction * n_inputs))
        if n >= n_inputs:
            raise ValueError(
                f"validation_fraction must leave inputs to train on, got "
                f"{self.validation_fraction:g} with n_samples={n_inputs}."
            )
        seed = draw_seed(self.random_state) % 2**32
        rows, held_out = train_test_split(
            np.arange(n_inputs), test_size=n, random_state=seed, stratify=stratify
        )
        return dataclasses.replace(data.take(rows), held_out=data.take(held_out))

    def _fit_networks(self, new: Data, n_outputs: int, update: bool) -> None:
        """Make the population, fit a flow if asked for, and draw the networks of the average.

        With held-out data the training stops early; with `update` the old networks count.
        """
        seed = draw_seed(self.random_state) % 2**32
        architecture = self._make_architecture(new.X, n_outputs)
        data = self._join_old_data(new) if update else new
        times = {"start": time.perf_counter()}
        starts = self._draw_starts(architecture, seed, update)
        trained = train_networks(self, architecture, data, starts, seed)
        self.n_iter_ = int(trained.metrics.get("n_epochs", torch.tensor(self.max_iter)).max())
        times["train"] = time.perf_counter()
        if self.population == "mcmc":
            data, new = data.with_held_out(), new.with_held_out()
            trained = draw_chains(self, trained, data, seed)
            times["chains"] = time.perf_counter()
        if update:
            trained = dataclasses.replace(trained, likelihood=known_likelihood(new.loss))
        self.population_ = trained
        vars(self).pop("posterior_", None)  # of the last fit
        if self._averages_flow or self.posterior is not None:
            self.posterior_ = self._make_posterior(architecture, seed).fit(trained)
            times["flow"] = time.perf_counter()
        n = self.n_samples if self._averages_flow else min(self.n_samples, len(trained))
        self.networks_ = self._draw_networks(n, seed).numpy()
        times["sample"] = time.perf_counter()
        self.fit_times_ = dict(zip([*times][1:], np.diff([*times.values()]).tolist(), strict=True))
        self.seen_inputs_ = remember(self.seen_inputs_ if update else None, new.X, new.weights)

    @property
    def _averages_flow(self) -> bool:
        if self.average == "auto":
            return self.population == "ensemble"
        return self.average == "flow"

    def _draw_networks(self, n: int, seed: int) -> Tensor:
        """Draws of the flow, or evenly spread networks of the population, repeated if n is more."""
        # A warm start may ask for the flow where the last fit had none.
        if self._averages_flow and hasattr(self, "posterior_"):
            return torch.as_tensor(self.posterior_.sample(n, random_state=seed))
        weights = self.population_.weights
        return weights[torch.linspace(0, len(weights) - 1, n).round().long()]

    def _make_architecture(self, X: np.ndarray, n_outputs: int) -> Architecture:
        if self.module is None:
            hidden = np.atleast_1d(self.hidden_layer_sizes).tolist()
            network = Architecture.mlp([X.shape[1], *hidden, n_outputs], self.activation)
        else:
            network = Architecture(self.module)
        example = torch.tensor(X[:2])
        if example.is_floating_point():
            example = example.to(network.dtype)
        network = Architecture(network.module, example)
        if network.n_outputs != n_outputs:
            raise ValueError(
                f"module must have {n_outputs} outputs, {self._output_meaning}, got "
                f"{network.n_outputs}."
            )
        module = self._add_noise(network.module)
        network = network if module is network.module else Architecture(module, example)
        if self._goes_on and network != self.population_.architecture:
            raise ValueError(
                f"warm_start and partial_fit go on with the networks of the last fit, "
                f"{self.population_.architecture!r}, got {network!r}; fit a clone instead."
            )
        return network

    def _add_noise(self, module: nn.Module) -> nn.Module:
        """Return the module, with whatever weights the noise of targets has."""
        return module

    def _draw_starts(self, architecture: Architecture, seed: int, update: bool) -> Tensor | str:
        """Initial weights: new ones, old networks, or draws of the old posterior."""
        if not self._goes_on:
            # Variance .1 is the recipe of [E25] for small perceptrons; modules have any size.
            is_ensemble = self.module is None and self.population == "ensemble"
            return "normal" if is_ensemble else "kaiming"
        n = self.n_networks if self.population == "ensemble" else self.n_chains
        old = self.population_
        last = torch.cat([old.chain.diff() != 0, torch.tensor([True])])
        weights = old.weights[last][: 0 if update else n]
        n_missing = n - len(weights)
        if n_missing:
            weights = torch.cat([weights, self._draw_networks(n_missing, seed).to(weights)])
        return weights

    def _make_posterior(self, architecture: Architecture, seed: int) -> FlowPosterior:
        if self.posterior is None:
            on_spheres = (
                self.population_.task == "classification"
                and architecture.is_mlp
                and architecture.activation == "relu"
                and architecture.sizes[0] >= _LEAST_FEATURES
            )
            posterior = FlowPosterior(
                geometry="product_sphere" if on_spheres else "euclidean", max_iter=300
            )
        else:
            posterior = clone(self.posterior)
        if posterior.random_state is None:
            posterior.set_params(random_state=seed)
        return posterior.set_params(verbose=bool(self.verbose) or posterior.verbose)
