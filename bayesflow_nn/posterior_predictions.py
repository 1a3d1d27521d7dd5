"""Predictions of a posterior: averages over its networks, how sure they are, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from bayesflow_nn import predictive
from bayesflow_nn.arviz_record import posterior_record
from bayesflow_nn.importance import ImportanceWeights
from bayesflow_nn.pointwise import drop_single_output
from bayesflow_nn.posterior_input import predicts
from bayesflow_nn.predictive import PredictiveCurve, RegressionMoments, Uncertainty
from bayesflow_nn.predictive_distribution import draw_targets, fit_noise, predictive_quantiles
from bayesflow_nn.weights import Likelihood
from bayesflow_nn.weights.population import TASKS
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_option

if TYPE_CHECKING:
    from bayesflow_nn.inference_data import InferenceData

NetworkWeights = str | ImportanceWeights | ArrayLike | None


class PredictionMethods:
    """The part of :class:`bayesflow_nn.FlowPosterior` that predicts."""

    @available_if(predicts("classification"))
    def predict_proba(
        self,
        X: ArrayLike,
        *,
        n_samples: int = 100,
        random_state: RandomState = 0,
        weights: NetworkWeights = None,
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
        weights : {"importance"}, ImportanceWeights, array of shape (n_samples,) or None
            Average over the weighted networks of `importance_weights` instead, the last ones or
            those given; `n_samples` and `random_state` have no meaning then. An array weighs the
            sampled networks, for example by stacking.
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
        sampling |= {"n_samples": n_samples, "random_state": random_state, "weights": weights}
        return self._average(predictive.predict_proba, X, sampling)

    @available_if(predicts("classification"))
    def predict_log_proba(self, X: ArrayLike, **sampling: Any) -> np.ndarray:
        """Logarithms of `predict_proba`, in nats; parameters and errors are the same."""
        return np.log(self.predict_proba(X, **sampling))

    @available_if(predicts("classification"))
    def uncertainty(self, X: ArrayLike, **sampling: Any) -> Uncertainty:
        """Entropy of the predicted class, and how much of it is noise or disagreement, in nats.

        Parameters and errors are those of `predict_proba`.

        Returns
        -------
        Uncertainty
            `total`, `aleatoric` and `epistemic`, ``(n_inputs,)`` each; see
            :mod:`bayesflow_nn.predictive.uncertainty`.
        """
        return self._average(predictive.predict_uncertainty, X, sampling)

    @available_if(predicts(*TASKS))
    def predict(
        self, X: ArrayLike, *, return_std: bool = False, **sampling: Any
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Most probable class, or mean target.

        Parameters and errors not listed here are those of `predict_proba`.

        Parameters
        ----------
        return_std : bool
            Return the standard deviation of new targets as well, noise included.

        Returns
        -------
        ndarray of shape (n_inputs,) or, for several targets, (n_inputs, n_targets)
            Twice that with `return_std`.

        Raises
        ------
        ValueError
            If `return_std` is asked of a classifier, or of a regression whose noise is not known.
        """
        check_is_fitted(self)
        if self.task_ == "classification":
            if return_std:
                raise ValueError(
                    "return_std must be False for classification, got True; use uncertainty(X)."
                )
            return self.predict_proba(X, **sampling).argmax(-1)
        if self.likelihood_ is None and not return_std:
            return drop_single_output(self._average(predictive.output_moments, X, sampling).mean)
        moments = self.predict_moments(X, **sampling)
        mean, std = (drop_single_output(values) for values in (moments.mean, moments.std))
        return (mean, std) if return_std else mean

    @available_if(predicts("regression"))
    def predict_moments(self, X: ArrayLike, **sampling: Any) -> RegressionMoments:
        """Mean and standard deviation of new targets, and the parts due to noise and to networks.

        Parameters and errors are those of `predict_proba`; the noise must be known (`fit_noise`).

        Returns
        -------
        RegressionMoments
            `mean`, `std`, `aleatoric_std` and `epistemic_std`, ``(n_inputs, n_targets)`` each.
        """
        likelihood = self._known_likelihood()
        return self._average(predictive.predictive_moments, X, sampling, likelihood=likelihood)

    @available_if(predicts("regression"))
    def predict_quantiles(
        self, X: ArrayLike, quantiles: ArrayLike = (0.05, 0.5, 0.95), **sampling: Any
    ) -> np.ndarray:
        """Points below which new targets lie with the given probabilities.

        Parameters and errors not listed here are those of `predict_proba`; the noise must be known.

        Parameters
        ----------
        quantiles : array of shape (n_quantiles,)
            Probabilities strictly between 0 and 1.

        Returns
        -------
        ndarray of shape (n_inputs, n_quantiles[, n_targets])
        """
        likelihood = self._known_likelihood()
        return self._average(
            predictive_quantiles, X, sampling, likelihood=likelihood, quantiles=quantiles
        )

    @available_if(predicts(*TASKS))
    def sample_y(
        self, X: ArrayLike, n_draws: int = 1, *, random_state: RandomState = 0, **sampling: Any
    ) -> np.ndarray:
        """Draw targets: those of one draw are what one network expects, with its noise.

        Parameters and errors not listed here are those of `predict_proba`; a regression must know
        its noise.

        Parameters
        ----------
        n_draws : int
            Networks drawn with replacement, of the `n_samples` in the average.
        random_state : int, RandomState or None
            Decides networks, and noise.

        Returns
        -------
        ndarray of shape (n_draws, n_inputs[, n_targets])
            Labels, or targets.
        """
        seed = draw_seed(random_state)
        return self._average(
            draw_targets,
            X,
            sampling | {"random_state": seed},
            likelihood=self._known_likelihood(),
            n_draws=n_draws,
            random_state=seed,
        )

    @available_if(predicts(*TASKS))
    def log_predictive_density(self, X: ArrayLike, y: ArrayLike, **sampling: Any) -> np.ndarray:
        """Log density of targets, or log probability of labels, under the average ``(n_inputs,)``.

        The mean over networks is one of densities, not of their logarithms. In nats; parameters and
        errors are those of `predict_proba`, and a regression must know its noise.
        """
        likelihood = self._known_likelihood()
        return self._average(
            predictive.predictive_log_density, X, sampling, y=y, likelihood=likelihood
        )

    @available_if(predicts(*TASKS))
    def predictive_curve(
        self, X: ArrayLike, y: ArrayLike, *, n_samples: int = 200, **sampling: Any
    ) -> PredictiveCurve:
        """Loss of averages of more and more networks: how many are enough.

        Parameters and errors not listed here are those of `predict_proba`, without `weights`; a
        regression must know its noise.

        Parameters
        ----------
        X : array of shape (n_inputs, ...)
        y : array of shape (n_inputs,) or (n_inputs, n_targets)
            Test data.
        n_samples : int
            Networks, the most in an average.

        Returns
        -------
        PredictiveCurve
            Sizes, mean negative log likelihoods in nats and their standard errors; ``str`` of it is
            a table. See :func:`bayesflow_nn.predictive.deep_ensemble_equivalent`.
        """
        likelihood = self._known_likelihood()
        networks = self._networks(n_samples=n_samples, **sampling)[0]
        return predictive.predictive_curve(
            sampling.get("architecture") or self.architecture_,
            networks,
            np.asarray(X, np.float32),
            y,
            likelihood=likelihood,
            random_state=0,
        )

    @available_if(predicts("regression"))
    def fit_noise(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        **sampling: Any,
    ) -> PredictionMethods:
        """Fit the standard deviation of normal noise to data that no network was trained on.

        It becomes `likelihood_`, in the place of any other. Parameters not listed here are those of
        `predict_proba`.

        Parameters
        ----------
        X : array of shape (n_inputs, ...)
        y : array of shape (n_inputs,) or (n_inputs, n_outputs)
            Held-out data: residuals at training targets are too small.
        sample_weight : array of shape (n_inputs,), optional
            Weights of the inputs in the mean log density, non-negative and not all zero.

        Returns
        -------
        FlowPosterior
            Itself.
        """
        self.likelihood_ = self._average(fit_noise, X, sampling, y=y, sample_weight=sample_weight)
        return self

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

    def _average(
        self, average: Callable, X: ArrayLike, sampling: Mapping[str, Any], **arguments: Any
    ) -> Any:
        """What a function of `predictive` makes of networks, inputs and other arguments."""
        check_is_fitted(self)
        networks, network_weights = self._networks(**sampling)
        return average(
            sampling.get("architecture") or self.architecture_,
            networks,
            np.asarray(X, np.float32),
            network_weights=network_weights,
            **arguments,
        )

    def _known_likelihood(self) -> Likelihood:
        check_is_fitted(self)
        if self.likelihood_ is None:
            raise ValueError(
                "likelihood is needed for distributions of targets, got None; call fit_noise(X, y) "
                "with held-out data, or pass FlowPosterior(likelihood=...)."
            )
        return self.likelihood_

    def _networks(
        self,
        *,
        n_samples: int = 100,
        random_state: RandomState = 0,
        weights: NetworkWeights = None,
        **sampling: Any,
    ) -> tuple[np.ndarray, ArrayLike | None]:
        """Networks to average over, and their weights."""
        if weights is None or not isinstance(weights, str | ImportanceWeights):
            return self.sample(n_samples, random_state=random_state, **sampling), weights
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
