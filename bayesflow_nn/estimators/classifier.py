"""Bayesian neural networks that classify."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from bayesflow_nn import predictive
from bayesflow_nn.estimators.networks import FlowBNN, drop_weightless
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.predictive import Uncertainty
from bayesflow_nn.weights.random_state import RandomState


class FlowBNNClassifier(ClassifierMixin, FlowBNN):
    """Bayesian neural network for classification.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int
        Neurons of every hidden layer.
    activation : str
        As in :meth:`bayesflow_nn.Architecture.mlp`.
    alpha : float
        Precision of a normal prior on all weights: the loss of n inputs has ``alpha / 2 |w|^2``
        beside the sum of their negative log likelihoods, each times the weight of its input.
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
    class_weight : dict from class to float, "balanced" or None
        Factors of the weights of the inputs of every class; 1 for classes that are not named.
        "balanced" gives all classes the same total weight, and the sum of weights stays.
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
        class_weight: dict | str | None = None,
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
        self.class_weight = class_weight
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FlowBNNClassifier:
        """Train networks, learn the flow and draw from it.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features)
        y : array of shape (n_inputs,)
            Labels, at least two different ones, of any kind.
        sample_weight : array of shape (n_inputs,), optional
            Weights of the inputs in the loss and in the scale of inputs, non-negative and not all
            zero. In the loss a weight of 2 is an input given twice, so that the sum of weights says
            how many inputs stand against `alpha`, as in scikit-learn. Inputs of weight zero are
            left out, and classes that have no others.

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._check_settings()
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        X, y, weight = drop_weightless(X, y, sample_weight)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold at least 2 classes, got one class, {self.classes_[0]!r}; nothing "
                f"can be told apart."
            )
        weight = self._apply_class_weight(labels, weight)
        X = self._scale_inputs(X, weight)
        self._fit_networks(X, labels, len(self.classes_), "cross_entropy", weight)
        return self

    def _apply_class_weight(
        self, labels: np.ndarray, sample_weight: np.ndarray | None
    ) -> np.ndarray | None:
        if self.class_weight is None:
            return sample_weight
        factors = compute_class_weight(
            self.class_weight, classes=self.classes_, y=self.classes_[labels]
        )
        if isinstance(self.class_weight, str):
            # Of "balanced" scikit-learn 1.6 counts inputs without their weights.
            totals = np.bincount(labels, sample_weight)
            factors = totals.sum() / (len(totals) * totals)
        if not (np.isfinite(factors).all() and (factors >= 0).all() and factors.any()):
            raise ValueError(
                f"class_weight must hold finite, non-negative numbers that are not all zero, got "
                f"{self.class_weight!r}."
            )
        return factors[labels] if sample_weight is None else factors[labels] * sample_weight

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Class probabilities ``(n_inputs, n_classes)``, averaged over networks."""
        proba = self._average(predictive.predict_proba, X)
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
        return self._average(predictive.predict_uncertainty, X)
