"""Bayesian neural networks for regression: means, noise, and what networks leave open."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from torch import nn

from bayesflow_nn import predictive
from bayesflow_nn.estimators.input_weights import drop_weightless
from bayesflow_nn.estimators.population import Data
from bayesflow_nn.estimators.seen_inputs import pool_noise
from bayesflow_nn.estimators.target_predictions import TargetPredictions
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.predictive_distribution import fit_noise
from bayesflow_nn.weights import ConstantNoise, HeteroscedasticNormal, Normal
from bayesflow_nn.weights.random_state import RandomState
from bayesflow_nn.weights.soft_targets import SoftNormal
from bayesflow_nn.weights.validation import check_option

NOISES = ("constant", "predicted")


class FlowBNNRegressor(RegressorMixin, TargetPredictions):
    """Bayesian neural network for regression, with one target or several.

    By default the population is drawn by Markov chains, of networks with tanh that predict their
    noise, and predictions average over 200 of these draws, without a flow. These defaults were
    chosen on the UCI regressions; ``examples/benchmarks/uci_regressions.py`` prints their table,
    beside deep ensembles and published figures. Each step of a chain evaluates all data;
    ``population="ensemble"`` trains by minibatches and lets a flow draw the networks.

    Parameters and attributes not listed here are those of :class:`FlowBNNClassifier`.

    Parameters
    ----------
    learning_rate_init : float
        Three times that of the classifier: few epochs of small data sets are few steps.
    module : torch.nn.Module or None
        Must have one output per target, and with ``noise="predicted"``, the default, a second one
        for the logarithm of its standard deviation, after all means.
    noise : {"constant", "predicted"}
        Whether targets scatter with one standard deviation, or with one that every network predicts
        for every input. The constant one is fitted to held-out inputs; of chains it is a weight of
        every network (:class:`bayesflow_nn.weights.ConstantNoise`).
    validation_fraction : float
        Share of the inputs that is held out for the constant noise of an ensemble, and for
        `early_stopping`.
    tol : float
        In squared scaled targets for an ensemble with constant noise, else in nats per input.
    standardize : bool
        Whether inputs and targets are scaled to mean zero and variance one.

    Attributes
    ----------
    likelihood_ : Likelihood
        Of scaled targets: ``Normal`` for an ensemble with constant noise, else
        ``HeteroscedasticNormal``.
    target_scaler_ : StandardScaler or None

    Examples
    --------
    >>> from bayesflow_nn import FlowBNNRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> y = X[:, 0] + 0.1 * rng.normal(size=200)
    >>> model = FlowBNNRegressor(n_tune=500, n_networks=500, random_state=0).fit(X, y)
    >>> mean, std = model.predict(X[:3], return_std=True)
    >>> mean.shape, bool((std > 0.05).all())
    ((3,), True)
    >>> len(model.population_), model.networks_.shape[0]
    (500, 200)
    """

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (16, 16),
        activation: str = "tanh",
        *,
        module: nn.Module | None = None,
        population: str = "mcmc",
        noise: str = "predicted",
        alpha: float | str = "auto",
        learning_rate_init: float = 3e-3,
        max_iter: int = 50,
        batch_size: int = 32,
        n_networks: int = 2000,
        n_chains: int = 10,
        n_tune: int | str = "auto",
        thinning: int | str = "auto",
        n_samples: int = 200,
        average: str = "auto",
        posterior: FlowPosterior | None = None,
        standardize: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        warm_start: bool = False,
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.population = population
        self.noise = noise
        self.alpha = alpha
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.n_networks = n_networks
        self.n_chains = n_chains
        self.n_tune = n_tune
        self.thinning = thinning
        self.n_samples = n_samples
        self.average = average
        self.posterior = posterior
        self.standardize = standardize
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FlowBNNRegressor:
        """Make the population, choose or draw the networks of the average, and fit the noise.

        Only the constant noise of an ensemble is fitted, to held-out inputs; networks that predict
        their noise, and chains, have it among their weights.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features), or as the module takes it
        y : array of shape (n_inputs,) or (n_inputs, n_targets)
        sample_weight : array of shape (n_inputs,), optional
            Weights of the inputs, as those of :meth:`FlowBNNClassifier.fit`; also in the scale of
            targets and in the constant noise.

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._begin(goes_on=self.warm_start)
        return self._fit_targets(X, y, sample_weight)

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FlowBNNRegressor:
        """Update the posterior with new data; the old data are not needed.

        As :meth:`FlowBNNClassifier.partial_fit`: the old posterior enters through the means and
        variances it predicts at the inputs it has seen. The units of targets stay those of the
        first call as well. The constant noise of an ensemble is the root mean square of those of
        all calls, weighted by the weights of their inputs.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features), or as the module takes it
        y : array of shape (n_inputs,) or (n_inputs, n_targets)
        sample_weight : array of shape (n_inputs,), optional
            Weights of the new inputs, as in `fit`.

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._begin(goes_on=True)
        return self._fit_targets(X, y, sample_weight, update=self._goes_on)

    def _fit_targets(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        update: bool = False,
    ) -> FlowBNNRegressor:
        check_option("noise", self.noise, NOISES)
        X, y = self._read_data(X, y, multi_output=True, y_numeric=True)
        X, y, weight = drop_weightless(X, y, sample_weight)
        self._check_n_targets(y)
        y = self._scale_targets(y.reshape(len(y), -1), weight)
        data = Data(self._scale_inputs(X, weight), y, self._loss(), weight)
        old_weight = self.seen_inputs_.total_weight if update else 0.0
        fits_noise = self.population == "ensemble" and self.noise == "constant"
        stops = self.early_stopping and not update
        if fits_noise or stops:
            data = self._hold_out(data)
        n_outputs = y.shape[1] * (1 if self.noise == "constant" else 2)
        used = data if stops else dataclasses.replace(data, held_out=None)
        self._fit_networks(used, n_outputs, update)
        if not fits_noise:
            self.likelihood_ = self._loss()
            return self
        noise = self._fit_noise(data.held_out)
        if update:
            noise = pool_noise(self.likelihood_, old_weight, noise, data.total_weight)
        self.likelihood_ = noise
        return self

    def _fit_noise(self, data: Data) -> Normal:
        architecture, w = self.population_.architecture, data.sample_weight
        return fit_noise(architecture, self.networks_, data.X, data.y, sample_weight=w)

    def _loss(self) -> str | HeteroscedasticNormal:
        if self.population == "mcmc":
            return HeteroscedasticNormal()
        return "mse" if self.noise == "constant" else HeteroscedasticNormal(min_scale=1e-2)

    def _check_n_targets(self, y: np.ndarray) -> None:
        n_targets = None if y.ndim == 1 else y.shape[1]
        if self._goes_on and (n_targets or 1) != (self.n_targets_ or 1):
            raise ValueError(
                f"y must have {self.n_targets_ or 1} target(s) per input, as in the last fit, got "
                f"shape {y.shape}."
            )
        self.n_targets_ = n_targets

    def _add_noise(self, module: nn.Module) -> nn.Module:
        if self.population == "mcmc" and self.noise == "constant":
            return ConstantNoise(module, self.n_targets_ or 1)
        return module

    @property
    def _output_meaning(self) -> str:
        return "one per target" if self.noise == "constant" else "means and log scales of targets"

    def _join_old_data(self, data: Data) -> Data:
        inputs, weights = self.seen_inputs_
        moments = self._average_old(predictive.predictive_moments, likelihood=self.likelihood_)
        # Squared errors, a mean over targets, are the log density of this scale, up to a constant.
        likelihood = Normal((data.y.shape[1] / 2) ** 0.5) if data.loss == "mse" else data.loss
        y = np.hstack([moments.mean, np.square(moments.std)])
        old = Data(inputs, y, SoftNormal(likelihood), weights)
        y = np.hstack([data.y, np.zeros_like(data.y)])
        return old.join(Data(data.X, y, old.loss, data.weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
