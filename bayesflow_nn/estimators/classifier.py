"""Bayesian neural networks that classify."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from torch import nn

from bayesflow_nn import predictive
from bayesflow_nn.estimators.class_predictions import ClassPredictions
from bayesflow_nn.estimators.input_weights import apply_class_weight, drop_weightless
from bayesflow_nn.estimators.population import Data
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.weights.random_state import RandomState
from bayesflow_nn.weights.soft_targets import SoftCategorical


class FlowBNNClassifier(ClassifierMixin, ClassPredictions):
    """Bayesian neural network for classification.

    By default the population is drawn by Markov chains, and predictions average over 200 of these
    draws, without a flow. This was chosen by ``examples/benchmarks/classifications.py``, which
    prints a table of seventeen data sets beside deep ensembles and models of scikit-learn. Each
    step of a chain evaluates all data; ``population="ensemble"`` trains by minibatches, for data or
    modules that are too large for that, and lets a flow draw the networks.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int
        Neurons of every hidden layer.
    activation : str
        As in :meth:`bayesflow_nn.Architecture.mlp`.
    module : torch.nn.Module or None
        A network of any kind instead of a perceptron of `hidden_layer_sizes` and `activation`,
        which are not used then. It is copied; its own weights do not matter. Inputs may have more
        than two dimensions, as the module takes them. It must have one output per class.
    population : {"ensemble", "mcmc"}
        Networks that are trained from different initial weights, or draws of the posterior by
        Markov chains (microcanonical Langevin), each of which starts at a trained network. Chains
        are closer to the posterior and evaluate all data in each step.
    alpha : float or "auto"
        Precision of a normal prior on all weights: the loss of n inputs has ``alpha / 2 |w|^2``
        beside the sum of their negative log likelihoods, each times the weight of its input. "auto"
        is 1e-4 for an ensemble, which is nearly no prior, and 1 for chains, which draw from what
        the prior leaves open.
    learning_rate_init : float
        Step size of Adam.
    max_iter : int
        Epochs of every network, at most so many with `early_stopping`.
    batch_size : int
    n_networks : int
        Networks of the population. Chains record as many, rounded up to whole draws:
        ``ceil(n_networks / n_chains)`` each.
    n_chains : int
        Chains of ``population="mcmc"``, and networks trained for them.
    n_tune : int or "auto"
        Steps of every chain before it records, to forget its start and to tune itself. "auto" is
        4,000 for up to 5,000 inputs, and half of that for more, where steps take longer.
    thinning : int or "auto"
        Steps from one recorded network to the next; "auto" is 16, and 8 for more than 5,000 inputs.
    n_samples : int
        Networks whose predictions are averaged; at most those of the population, if it is averaged.
    average : {"auto", "flow", "population"}
        Where they come from: the flow draws them, or they are those of the population, evenly
        spread. "auto" is the flow for an ensemble, and the population for chains, whose draws are
        of the posterior already.
    posterior : FlowPosterior or None
        Cloned and fitted to the population, whatever is averaged. By default, if the flow is
        averaged over, one of 300 steps, on spheres for perceptrons that classify with ReLU and have
        four inputs or more, else in flat space; otherwise there is no flow.
    standardize : bool
        Whether inputs are scaled to mean zero and variance one: every feature of rows, and every
        channel, the second dimension, of inputs with more dimensions. Integers that a module is to
        look up, as tokens, take False and reach it as they are.
    early_stopping : bool
        Whether every network keeps its best epoch on held-out inputs and stops when it stalls, as
        scikit-learn's `MLPClassifier` does, by the loss. Each network is judged for itself. Chains
        start at such networks and see the held-out inputs too.
    validation_fraction : float
        Share of the inputs that is held out.
    n_iter_no_change : int
        Epochs in a row with a gain below `tol` after which a network stops.
    tol : float
        In nats per input.
    warm_start : bool
        Whether another `fit` goes on from the networks of the last one, in its units of inputs; if
        more are asked for, the others are drawn as for the average; without a flow they are copies
        of old ones at first. A flow is fitted anew.
    class_weight : dict from class to float, "balanced" or None
        Factors of the weights of the inputs of every class; 1 for classes that are not named.
        "balanced" gives all classes of `y` the same total weight, and the sum of weights stays.
    random_state : int, RandomState or None
    verbose : bool

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    population_ : WeightPopulation
        The networks trained or sampled, which see scaled inputs. After early stopping its metrics
        tell the "best_epoch" and the "n_epochs" of each trained network.
    posterior_ : FlowPosterior
        Only if there is a flow.
    networks_ : ndarray of shape (n_samples, n_weights)
        What predictions average over; fewer rows if the population that is averaged has fewer.
    scaler_ : StandardScaler or None
        Of features or channels.
    seen_inputs_ : SeenInputs
        At most 1,024 scaled inputs of all data so far, for `partial_fit`, with the weight of all.
    alpha_ : float
        Precision that was used.
    fit_times_ : dict from "train", "chains", "flow" and "sample" to float
        Seconds of each stage that there was.
    n_iter_ : int
        Epochs of training, of the network that took most.
    n_features_in_ : int
        Length of the second dimension of `X`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only if `X` had names.
    input_shape_ : tuple
        Shape of one input.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from bayesflow_nn import FlowBNNClassifier, FlowPosterior
    >>> X, y = load_iris(return_X_y=True)
    >>> model = FlowBNNClassifier(
    ...     population="ensemble", n_networks=100, learning_rate_init=1e-2, random_state=0,
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
        module: nn.Module | None = None,
        population: str = "mcmc",
        alpha: float | str = "auto",
        learning_rate_init: float = 1e-3,
        max_iter: int = 50,
        batch_size: int = 32,
        n_networks: int = 2000,
        n_chains: int = 10,
        n_tune: int | str = 2000,
        thinning: int | str = 8,
        n_samples: int = 200,
        average: str = "auto",
        posterior: FlowPosterior | None = None,
        standardize: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        warm_start: bool = False,
        class_weight: dict | str | None = None,
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.population = population
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
        self.class_weight = class_weight
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FlowBNNClassifier:
        """Make the population, and choose or draw the networks of the average.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features), or as the module takes it
        y : array of shape (n_inputs,)
            Labels, at least two different ones, of any kind.
        sample_weight : array of shape (n_inputs,), optional
            Weights of the inputs in the loss, in the scale of inputs and in what early stopping
            judges by, non-negative and not all zero. In the loss a weight of 2 is an input given
            twice, so that the sum of weights says how many inputs stand against `alpha`, as in
            scikit-learn. Inputs of weight zero are left out, and classes that have no others.

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._begin(goes_on=self.warm_start)
        return self._fit_labels(X, y, None, sample_weight)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> FlowBNNClassifier:
        """Update the posterior with new data; the old data are not needed.

        Training, or chains, go on from draws of the old posterior. That enters as well through the
        class probabilities it predicts at the inputs it has seen, each with the weight of the
        inputs it stands for: where old data were, networks keep what they knew. See
        :mod:`bayesflow_nn.estimators.seen_inputs`. The units of inputs stay those of the first
        call; there is no early stopping. Each call trains `max_iter` epochs; a flow is fitted anew.

        Parameters
        ----------
        X : array of shape (n_inputs, n_features), or as the module takes it
        y : array of shape (n_inputs,)
            Labels, all of them among the classes of the first call.
        classes : array of shape (n_classes,), optional
            All labels that there will ever be, for the first call.
        sample_weight : array of shape (n_inputs,), optional
            Weights of the new inputs, as in `fit`.

        Raises
        ------
        ValueError, TypeError
            If data or a parameter are wrong; the message says which and what to do.
        """
        self._begin(goes_on=True)
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight must be a dict or None for partial_fit, got 'balanced': labels that "
                "are yet to come are not counted; pass the factors of all classes as a dict."
            )
        return self._fit_labels(X, y, classes, sample_weight, update=self._goes_on)

    def _fit_labels(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None,
        sample_weight: ArrayLike | None,
        update: bool = False,
    ) -> FlowBNNClassifier:
        X, y = self._read_data(X, y)
        check_classification_targets(y)
        X, y, weight = drop_weightless(X, y, sample_weight)
        labels = self._read_labels(y, classes)
        weight = apply_class_weight(self.class_weight, self.classes_, labels, weight)
        X, labels, weight = drop_weightless(X, labels, weight)
        data = Data(self._scale_inputs(X, weight), labels, "cross_entropy", weight)
        if self.early_stopping and not update:
            data = self._hold_out(data, stratify=labels)
        self._fit_networks(data, len(self.classes_), update)
        return self

    def _read_labels(self, y: np.ndarray, classes: ArrayLike | None) -> np.ndarray:
        """Places of labels in `classes_`, which the first data, or `classes`, decide."""
        if classes is not None:
            classes = np.unique(classes)
        if not self._goes_on:
            self.classes_ = np.unique(y) if classes is None else classes
        elif classes is not None and not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"classes must be those of the first call, {self.classes_}, got {classes}."
            )
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold at least 2 classes, got one class, {self.classes_[0]!r}; nothing "
                f"can be told apart."
            )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y must hold labels among {self.classes_}, got {unknown}; pass all classes to the "
                f"first partial_fit, or fit a clone."
            )
        return np.searchsorted(self.classes_, y)

    def _join_old_data(self, data: Data) -> Data:
        inputs, weights = self.seen_inputs_
        proba = self._average_old(predictive.predict_proba)
        old = Data(inputs, proba, SoftCategorical(), weights)
        return old.join(Data(data.X, np.eye(len(self.classes_))[data.y], old.loss, data.weights))

    _output_meaning = "one per class"
