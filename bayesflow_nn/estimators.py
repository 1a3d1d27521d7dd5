"""Data in, Bayesian predictions out: a population, a flow over it and an average, as one estimator.

`fit` trains many networks together, learns a :class:`bayesflow_nn.FlowPosterior` from them, and
draws the networks whose predictions are averaged from then on. Nothing here needs to know what a
weight vector is.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from bayesflow_nn import predictive
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.predictive import RegressionMoments, Uncertainty
from bayesflow_nn.predictive_distribution import draw_targets, fit_noise, predictive_quantiles
from bayesflow_nn.weights import (
    Architecture,
    HeteroscedasticNormal,
    Likelihood,
    Normal,
    WeightPopulation,
    train_population,
)
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_integer, check_option, check_real

NOISES = ("constant", "predicted")
_LEAST_FEATURES = 4
"""From how many inputs on neurons of classifiers live on spheres by default. Directions of two
weights are points on a circle, which flows learn worse: on two moons generated networks have a
negative log likelihood of .20 nats there and of .096 in flat space, trained ones .091. Regressions
stay in flat space: on diabetes (10-16-16-1) generated networks have a dispersion of .97 there, and
of 1.8 on spheres."""


class _FlowBNN(BaseEstimator):
    """What both estimators do with scaled inputs and targets."""

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

    def _scale_inputs(self, X: np.ndarray) -> np.ndarray:
        self.scaler_ = StandardScaler().fit(X) if self.standardize else None
        return self._scaled(X)

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        return (X if self.scaler_ is None else self.scaler_.transform(X)).astype(np.float32)

    def _read_inputs(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        return self._scaled(validate_data(self, X, reset=False, dtype=np.float64))

    def _fit_networks(
        self, X: np.ndarray, y: np.ndarray, n_outputs: int, loss: str | Likelihood
    ) -> None:
        """Train the population, fit the flow and draw the networks of the average."""
        seed = draw_seed(self.random_state) % 2**32
        sizes = [X.shape[1], *np.atleast_1d(self.hidden_layer_sizes).astype(int), n_outputs]
        start = time.perf_counter()
        self.population_: WeightPopulation = train_population(
            Architecture.mlp([int(size) for size in sizes], self.activation),
            X,
            y,
            n_networks=self.n_networks,
            loss=loss,
            learning_rate=self.learning_rate_init,
            weight_decay=self.alpha / len(X),
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


class FlowBNNClassifier(ClassifierMixin, _FlowBNN):
    """Bayesian neural network for classification.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int
        Neurons of every hidden layer.
    activation : str
        As in :meth:`bayesflow_nn.Architecture.mlp`.
    alpha : float
        Precision of a normal prior on all weights: the loss of n inputs has ``alpha / 2 |w|^2``
        beside the sum of their negative log likelihoods.
    learning_rate_init : float
        Step size of Adam.
    max_iter : int
        Epochs of every network.
    batch_size : int
    n_networks : int
        Networks trained, from which the flow learns.
    n_samples : int
        Networks drawn from the flow, whose predictions are averaged.
    posterior : FlowPosterior or None
        Cloned and fitted to the networks. By default one of 300 steps, on spheres for classifiers
        with ReLU and four inputs or more, else in flat space.
    standardize : bool
        Whether inputs are scaled to mean zero and variance one.
    random_state : int, RandomState or None
    verbose : bool

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    population_ : WeightPopulation
        The trained networks, which see scaled inputs.
    posterior_ : FlowPosterior
    networks_ : ndarray of shape (n_samples, n_weights)
        What predictions average over.
    scaler_ : StandardScaler or None
    fit_times_ : dict from "train", "flow" and "sample" to float
        Seconds.
    n_iter_ : int
        Epochs of every network.
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from bayesflow_nn import FlowBNNClassifier, FlowPosterior
    >>> X, y = load_iris(return_X_y=True)
    >>> model = FlowBNNClassifier(
    ...     n_networks=100, learning_rate_init=1e-2, random_state=0,
    ...     posterior=FlowPosterior(geometry="euclidean", max_iter=30),
    ... ).fit(X, y)
    >>> model.predict_proba(X[:1]).shape, model.score(X, y) > 0.8
    ((1, 3), True)
    """

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (16, 16),
        activation: str = "relu",
        *,
        alpha: float = 1e-4,
        learning_rate_init: float = 1e-3,
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

    def fit(self, X: ArrayLike, y: ArrayLike) -> FlowBNNClassifier:
        """Train networks, learn the flow and draw from it.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features)
        y : array of shape (n_inputs,)
            Labels, at least two different ones, of any kind.

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._check_settings()
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold at least 2 classes, got one class, {self.classes_[0]!r}; nothing "
                f"can be told apart."
            )
        self._fit_networks(self._scale_inputs(X), labels, len(self.classes_), "cross_entropy")
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Class probabilities ``(n_inputs, n_classes)``, averaged over networks."""
        inputs = self._read_inputs(X)
        proba = predictive.predict_proba(self.population_.architecture, self.networks_, inputs)
        # Float32 sums miss one by more than metrics accept of float64 arrays made from them.
        proba = proba.astype(np.float64)
        return proba / proba.sum(1, keepdims=True)

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithms of `predict_proba`, in nats."""
        return np.log(self.predict_proba(X))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Most probable class of every input ``(n_inputs,)``."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(-1)]

    def uncertainty(self, X: ArrayLike) -> Uncertainty:
        """Entropy of the class of every input, in nats, and its parts; ``(n_inputs,)`` each.

        See :mod:`bayesflow_nn.predictive.uncertainty`.
        """
        inputs = self._read_inputs(X)
        return predictive.predict_uncertainty(self.population_.architecture, self.networks_, inputs)


class FlowBNNRegressor(RegressorMixin, _FlowBNN):
    """Bayesian neural network for regression, with one target or several.

    Parameters and attributes not listed here are those of :class:`FlowBNNClassifier`.

    Parameters
    ----------
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

    def fit(self, X: ArrayLike, y: ArrayLike) -> FlowBNNRegressor:
        """Train networks, learn the flow, draw from it, and fit the noise.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features)
        y : array of shape (n_inputs,) or (n_inputs, n_targets)

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._check_settings()
        check_option("noise", self.noise, NOISES)
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        self.n_targets_ = None if y.ndim == 1 else y.shape[1]
        X, targets = self._scale_inputs(X), self._scale_targets(y.reshape(len(y), -1))
        if self.noise == "predicted":
            self.likelihood_ = HeteroscedasticNormal(min_scale=1e-2)
            self._fit_networks(X, targets, 2 * targets.shape[1], self.likelihood_)
            return self
        X, X_held_out, targets, held_out = self._hold_out(X, targets)
        self._fit_networks(X, targets, targets.shape[1], "mse")
        self.likelihood_ = self._fit_noise(X_held_out, held_out)
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
        inputs = self._read_inputs(X)
        mean, *stds = predictive.predictive_moments(
            self.population_.architecture, self.networks_, inputs, self.likelihood_
        )
        return RegressionMoments(self._unscaled(mean), *(std * self._unit for std in stds))

    def predict_quantiles(self, X: ArrayLike, quantiles: ArrayLike = (0.05, 0.5, 0.95)):
        """Points below which new targets lie, ``(n_inputs, n_quantiles[, n_targets])``."""
        inputs = self._read_inputs(X)
        scaled = predictive_quantiles(
            self.population_.architecture, self.networks_, inputs, self.likelihood_, quantiles
        )
        return self._like_targets(self._unscaled(scaled.reshape(*scaled.shape[:2], -1)))

    def sample_y(self, X: ArrayLike, n_draws: int = 1, random_state: RandomState = 0) -> np.ndarray:
        """Draw targets ``(n_draws, n_inputs[, n_targets])``, those of a draw from one network."""
        inputs = self._read_inputs(X)
        scaled = draw_targets(
            self.population_.architecture,
            self.networks_,
            inputs,
            self.likelihood_,
            n_draws=n_draws,
            random_state=random_state,
        )
        return self._like_targets(self._unscaled(scaled.reshape(*scaled.shape[:2], -1)))

    def log_predictive_density(self, X: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Log density of targets under the average of the networks' ``(n_inputs,)``, in nats."""
        inputs = self._read_inputs(X)
        y = np.asarray(y, float).reshape(len(inputs), -1)
        scaled = y if self.target_scaler_ is None else self.target_scaler_.transform(y)
        log_p = predictive.predictive_log_density(
            self.population_.architecture, self.networks_, inputs, scaled, self.likelihood_
        )
        return log_p - np.log(self._unit * np.ones(y.shape[1])).sum()

    def _scale_targets(self, y: np.ndarray) -> np.ndarray:
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

    def _hold_out(self, X: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        fraction = check_real("validation_fraction", self.validation_fraction, 0, strict=True)
        n = max(1, round(fraction * len(X)))
        if n >= len(X):
            raise ValueError(
                f"validation_fraction must leave inputs to train on, got {fraction:g} with "
                f"n_samples={len(X)}."
            )
        X, X_held_out, y, held_out = train_test_split(
            X, y, test_size=n, random_state=draw_seed(self.random_state) % 2**32
        )
        return [X, X_held_out, y, held_out]

    def _fit_noise(self, X: np.ndarray, y: np.ndarray) -> Normal:
        return fit_noise(self.population_.architecture, self.networks_, X, y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
