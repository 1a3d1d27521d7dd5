"""Predictions of a posterior: averages over its networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from bayesflow_nn import predictive
from bayesflow_nn.arviz_record import posterior_record
from bayesflow_nn.importance import ImportanceWeights
from bayesflow_nn.weights.population import TASKS
from bayesflow_nn.weights.random_state import RandomState
from bayesflow_nn.weights.validation import check_option

if TYPE_CHECKING:
    from bayesflow_nn.inference_data import InferenceData


def _predicts(*tasks: str) -> Callable[[PredictionMethods], bool]:
    """Condition under which a prediction method exists; scikit-learn shows its error as cause."""

    def check(posterior: PredictionMethods) -> bool:
        architecture = getattr(posterior, "architecture_", posterior.architecture)
        task = getattr(posterior, "task_", posterior.task)
        if architecture is None or task not in tasks:
            raise AttributeError(
                f"predictions need an architecture and a task in {list(tasks)}, got "
                f"architecture={architecture!r} and task={task!r}; pass them or fit a "
                f"WeightPopulation that has them."
            )
        return True

    return check


class PredictionMethods:
    """The part of :class:`bayesflow_nn.FlowPosterior` that predicts."""

    @available_if(_predicts("classification"))
    def predict_proba(
        self,
        X: ArrayLike,
        *,
        n_samples: int = 100,
        random_state: RandomState = 0,
        weights: str | ImportanceWeights | None = None,
        **sampling: Any,
    ) -> np.ndarray:
        """Class probabilities, averaged over sampled networks.

        Parameters
        ----------
        X : array of shape (n_inputs, ...)
            Network inputs.
        n_samples : int
            Networks in the average.
        random_state : int, RandomState or None
            By default every call averages over the same networks.
        weights : {"importance"}, ImportanceWeights or None
            Average over the weighted networks of `importance_weights` instead, the last ones or
            those given; `n_samples` and `random_state` have no meaning then.
        **sampling
            More parameters of `sample`, for example ``guidance=TaskGuidance(X_train, y_train)``;
            not with `weights`.

        Returns
        -------
        ndarray of shape (n_inputs, n_classes)

        Raises
        ------
        ValueError
            If `weights` is "importance" before `importance_weights` was called, or comes with
            parameters of `sample`.
        """
        networks, importance = self._networks(weights, n_samples, random_state, sampling)
        inputs = np.asarray(X, np.float32)
        return predictive.predict_proba(
            self.architecture_, networks, inputs, network_weights=importance
        )

    @available_if(_predicts(*TASKS))
    def predict(
        self,
        X: ArrayLike,
        *,
        n_samples: int = 100,
        random_state: RandomState = 0,
        weights: str | ImportanceWeights | None = None,
        **sampling: Any,
    ) -> np.ndarray:
        """Most probable class ``(n_inputs,)``, or mean output ``(n_inputs, n_outputs)``.

        Parameters and errors are those of `predict_proba`.
        """
        check_is_fitted(self)
        if self.task_ == "classification":
            sampling |= {"n_samples": n_samples, "random_state": random_state, "weights": weights}
            return self.predict_proba(X, **sampling).argmax(-1)
        networks, importance = self._networks(weights, n_samples, random_state, sampling)
        return predictive.predict_moments(
            self.architecture_, networks, np.asarray(X, np.float32), network_weights=importance
        ).mean

    def to_arviz(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, **options: Any
    ) -> InferenceData:
        """Draws of the posterior, their predictions and log likelihoods as a record for ArviZ.

        Parameters
        ----------
        X : array of shape (n_inputs, ...), optional
            Inputs, for drawn targets and, with `y`, for log likelihoods.
        y : array of shape (n_inputs,) or (n_inputs, n_outputs), optional
        **options
            See :func:`bayesflow_nn.arviz_record.posterior_record`.

        Returns
        -------
        arviz.InferenceData

        Examples
        --------
        >>> import numpy as np
        >>> from bayesflow_nn import FlowPosterior
        >>> x = np.random.default_rng(0).normal(size=(100, 2))
        >>> posterior = FlowPosterior(geometry="euclidean", max_iter=5, random_state=0).fit(x)
        >>> posterior.to_arviz(n_samples=50, random_state=0).posterior["weights"].shape
        (1, 50, 2)
        """
        check_is_fitted(self)
        return posterior_record(self, X, y, **options)

    def _networks(
        self,
        weights: str | ImportanceWeights | None,
        n_samples: int,
        random_state: RandomState,
        sampling: dict[str, Any],
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Networks to average over, and their weights."""
        if weights is None:
            return self.sample(n_samples, random_state=random_state, **sampling), None
        if sampling:
            raise ValueError(
                f"weights must be None with parameters of `sample`, got {weights!r} with "
                f"{sorted(sampling)}: ratios belong to the flow as it is."
            )
        if isinstance(weights, str):
            check_option("weights", weights, ("importance",))
            weights = getattr(self, "importance_", None)
            if weights is None:
                raise ValueError(
                    "weights='importance' needs the ratios of a posterior; call "
                    "importance_weights(X, y) with the training data first."
                )
        return weights.networks, weights.weights
