"""Bayesian neural networks for regression: means, noise, and what networks leave open."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from bayesflow_nn import predictive
from bayesflow_nn.estimators.networks import FlowBNN, drop_weightless
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.predictive import RegressionMoments
from bayesflow_nn.predictive_distribution import draw_targets, fit_noise, predictive_quantiles
from bayesflow_nn.weights import (
    HeteroscedasticNormal,
)
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_option, check_real

NOISES = ("constant", "predicted")


class FlowBNNRegressor(RegressorMixin, FlowBNN):
    """Bayesian neural network for regression, with one target or several.

    Parameters and attributes not listed here are those of :class:`FlowBNNClassifier`.

    Parameters
    ----------
    learning_rate_init : float
        Three times that of the classifier: few epochs of small data sets are few steps.
    noise : {"constant", "predicted"}
        Whether targets scatter with one standard deviation, fitted to held-out data, or with one
        that every network predicts for every input.
    validation_fraction : float
        Share of the inputs that is held out for the constant noise.
    standardize : bool
        Whether inputs and targets are scaled to mean zero and variance one.

    Attributes
    ----------
    likelihood_ : Likelihood
        Of scaled targets.
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
        noise: str = "constant",
        validation_fraction: float = 0.1,
        alpha: float = 1e-4,
        learning_rate_init: float = 3e-3,
        max_iter: int = 50,
        batch_size: int = 32,
        n_networks: int = 2000,
        n_samples: int = 100,
        posterior: FlowPosterior | None = None,
        standardize: bool = True,
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.noise = noise
        self.validation_fraction = validation_fraction
        self.alpha = alpha
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.n_networks = n_networks
        self.n_samples = n_samples
        self.posterior = posterior
        self.standardize = standardize
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FlowBNNRegressor:
        """Train networks, learn the flow, draw from it, and fit the noise.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features)
        y : array of shape (n_inputs,) or (n_inputs, n_targets)
        sample_weight : array of shape (n_inputs,), optional
            Weights of the inputs, as those of :meth:`FlowBNNClassifier.fit`; also in the scale of
            targets and in the constant noise.

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._check_settings()
        check_option("noise", self.noise, NOISES)
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        X, y, weight = drop_weightless(X, y, sample_weight)
        self.n_targets_ = None if y.ndim == 1 else y.shape[1]
        targets = self._scale_targets(y.reshape(len(y), -1), weight)
        X = self._scale_inputs(X, weight)
        if self.noise == "predicted":
            self.likelihood_ = HeteroscedasticNormal(min_scale=1e-2)
            self._fit_networks(X, targets, 2 * targets.shape[1], self.likelihood_, weight)
            return self
        X, X_held_out, targets, held_out, weight, held_out_weight = self._hold_out(
            X, targets, weight
        )
        self._fit_networks(X, targets, targets.shape[1], "mse", weight)
        self.likelihood_ = fit_noise(
            self.population_.architecture,
            self.networks_,
            X_held_out,
            held_out,
            sample_weight=held_out_weight,
        )
        return self

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

    def _scale_targets(self, y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
        self.target_scaler_ = (
            StandardScaler().fit(y, None, sample_weight) if self.standardize else None
        )
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

    def _hold_out(
        self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None
    ) -> list[np.ndarray | None]:
        """Inputs, targets and weights (None without), each of training and held out."""
        fraction = check_real("validation_fraction", self.validation_fraction, 0, strict=True)
        n = max(1, round(fraction * len(X)))
        if n >= len(X):
            raise ValueError(
                f"validation_fraction must leave inputs to train on, got {fraction:g} with "
                f"n_samples={len(X)}."
            )
        arrays = [X, y] if sample_weight is None else [X, y, sample_weight]
        parts = train_test_split(
            *arrays, test_size=n, random_state=draw_seed(self.random_state) % 2**32
        )
        return parts if len(parts) == 6 else [*parts, None, None]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
