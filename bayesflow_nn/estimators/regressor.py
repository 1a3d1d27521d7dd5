"""Bayesian neural networks for regression: means, noise, and what networks leave open."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import nn

from bayesflow_nn import predictive
from bayesflow_nn.estimators.networks import FlowBNN
from bayesflow_nn.estimators.population import Data
from bayesflow_nn.estimators.seen_inputs import pool_noise
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.predictive import RegressionMoments
from bayesflow_nn.predictive_distribution import draw_targets, fit_noise, predictive_quantiles
from bayesflow_nn.weights import ConstantNoise, HeteroscedasticNormal, Normal
from bayesflow_nn.weights.random_state import RandomState
from bayesflow_nn.weights.soft_targets import SoftNormal, soft_normal_targets
from bayesflow_nn.weights.validation import check_option

NOISES = ("constant", "predicted")


class FlowBNNRegressor(RegressorMixin, FlowBNN):
    """Bayesian neural network for regression, with one target or several.

    Parameters and attributes not listed here are those of :class:`FlowBNNClassifier`.

    Parameters
    ----------
    learning_rate_init : float
        Three times that of the classifier: few epochs of small data sets are few steps.
    module : torch.nn.Module or None
        Must have one output per target, and with ``noise="predicted"`` a second one for the
        logarithm of its standard deviation, after all means.
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
    >>> from bayesflow_nn import FlowBNNRegressor, FlowPosterior
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> y = X[:, 0] + 0.1 * rng.normal(size=200)
    >>> model = FlowBNNRegressor(
    ...     n_networks=50, posterior=FlowPosterior(geometry="euclidean", max_iter=20),
    ...     random_state=0,
    ... ).fit(X, y)
    >>> mean, std = model.predict(X[:3], return_std=True)
    >>> mean.shape, bool((std > 0.05).all())
    ((3,), True)
    """

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (16, 16),
        activation: str = "relu",
        *,
        module: nn.Module | None = None,
        population: str = "ensemble",
        noise: str = "constant",
        alpha: float | str = "auto",
        learning_rate_init: float = 3e-3,
        max_iter: int = 50,
        batch_size: int = 32,
        n_networks: int = 2000,
        n_chains: int = 10,
        n_tune: int = 2000,
        thinning: int = 8,
        n_samples: int = 100,
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
        self.posterior = posterior
        self.standardize = standardize
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike) -> FlowBNNRegressor:
        """Train networks, learn the flow, draw from it, and fit the noise.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features), or as the module takes it
        y : array of shape (n_inputs,) or (n_inputs, n_targets)

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._begin(goes_on=self.warm_start)
        return self._fit_targets(X, y)

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> FlowBNNRegressor:
        """Update the posterior with new data; the old data are not needed.

        As :meth:`FlowBNNClassifier.partial_fit`: the old posterior enters through the means and
        variances it predicts at the inputs it has seen. The units of targets stay those of the
        first call as well. The constant noise of an ensemble is the root mean square of those of
        all calls, weighted by their inputs.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features), or as the module takes it
        y : array of shape (n_inputs,) or (n_inputs, n_targets)

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._begin(goes_on=True)
        return self._fit_targets(X, y, update=self._goes_on)

    def _fit_targets(self, X: ArrayLike, y: ArrayLike, update: bool = False) -> FlowBNNRegressor:
        check_option("noise", self.noise, NOISES)
        X, y = self._read_data(X, y, multi_output=True, y_numeric=True)
        self._check_n_targets(y)
        X, y = self._scale_inputs(X), self._scale_targets(y.reshape(len(y), -1))
        n_seen = self.seen_inputs_.n_seen if update else 0
        fits_noise = self.population == "ensemble" and self.noise == "constant"
        held_out = None
        if fits_noise or (self.early_stopping and not update):
            X, X_held_out, y, y_held_out = self._hold_out(X, y)
            held_out = X_held_out, y_held_out
        n_outputs = y.shape[1] * (1 if self.noise == "constant" else 2)
        stops = held_out if self.early_stopping and not update else None
        self._fit_networks(X, y, n_outputs, self._loss(), stops, update)
        if not fits_noise:
            self.likelihood_ = self._loss()
            return self
        noise = fit_noise(self.population_.architecture, self.networks_, *held_out)
        self.likelihood_ = pool_noise(self.likelihood_, n_seen, noise, len(X)) if update else noise
        return self

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
        inputs, count = self.seen_inputs_.inputs, self.seen_inputs_.count
        moments = self._average_old(predictive.predictive_moments, likelihood=self.likelihood_)
        old = torch.as_tensor(moments.mean), torch.as_tensor(moments.std).square()
        y = torch.as_tensor(data.y).to(old[0])
        new = soft_normal_targets(y, torch.zeros_like(y), 1.0)
        # Squared errors, a mean over targets, are the log density of this scale, up to a constant.
        likelihood = Normal((y.shape[1] / 2) ** 0.5) if data.loss == "mse" else data.loss
        targets = torch.cat([soft_normal_targets(*old, count), new])
        return Data(np.concatenate([inputs, data.X]), targets.numpy(), SoftNormal(likelihood))

    def predict(
        self, X: ArrayLike, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Mean target ``(n_inputs[, n_targets])``.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features)
        return_std : bool
            Return the standard deviation of new targets as well, noise included.
        """
        moments = self.predict_moments(X)
        mean, std = (self._like_targets(values) for values in (moments.mean, moments.std))
        return (mean, std) if return_std else mean

    def predict_moments(self, X: ArrayLike) -> RegressionMoments:
        """Mean and deviation of new targets, and the parts due to noise and to networks.

        `mean`, `std`, `aleatoric_std` and `epistemic_std`, ``(n_inputs, n_targets)`` each.
        """
        check_is_fitted(self)
        mean, *stds = self._average(predictive.predictive_moments, X, likelihood=self.likelihood_)
        return RegressionMoments(self._unscaled(mean), *(std * self._unit for std in stds))

    def predict_quantiles(
        self, X: ArrayLike, quantiles: ArrayLike = (0.05, 0.5, 0.95)
    ) -> np.ndarray:
        """Points below which new targets lie, ``(n_inputs, n_quantiles[, n_targets])``."""
        check_is_fitted(self)
        scaled = self._average(
            predictive_quantiles, X, likelihood=self.likelihood_, quantiles=quantiles
        )
        return self._like_targets(self._unscaled(scaled.reshape(*scaled.shape[:2], -1)))

    def sample_y(self, X: ArrayLike, n_draws: int = 1, random_state: RandomState = 0) -> np.ndarray:
        """Draw targets ``(n_draws, n_inputs[, n_targets])``, those of a draw from one network."""
        check_is_fitted(self)
        scaled = self._average(
            draw_targets,
            X,
            likelihood=self.likelihood_,
            n_draws=n_draws,
            random_state=random_state,
        )
        return self._like_targets(self._unscaled(scaled.reshape(*scaled.shape[:2], -1)))

    def log_predictive_density(self, X: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Log density of targets under the average of the networks' ``(n_inputs,)``, in nats."""
        check_is_fitted(self)
        y = np.asarray(y, float)
        y = y.reshape(len(y), -1)
        scaled = y if self.target_scaler_ is None else self.target_scaler_.transform(y)
        log_p = self._average(
            predictive.predictive_log_density, X, y=scaled, likelihood=self.likelihood_
        )
        return log_p - np.log(self._unit * np.ones(y.shape[1])).sum()

    def _scale_targets(self, y: np.ndarray) -> np.ndarray:
        if not self._goes_on:
            self.target_scaler_ = StandardScaler().fit(y) if self.standardize else None
        return y if self.target_scaler_ is None else self.target_scaler_.transform(y)

    @property
    def _unit(self) -> np.ndarray | float:
        return 1.0 if self.target_scaler_ is None else self.target_scaler_.scale_

    def _unscaled(self, values: np.ndarray) -> np.ndarray:
        if self.target_scaler_ is None:
            return values
        return values * self.target_scaler_.scale_ + self.target_scaler_.mean_

    def _like_targets(self, values: np.ndarray) -> np.ndarray:
        return values[..., 0] if self.n_targets_ is None else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
