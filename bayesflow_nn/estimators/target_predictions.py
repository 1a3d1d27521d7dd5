r"""Predictions of real targets, averaged over networks of the posterior, in the targets' units.

.. math:: y_j = m_j + s_j t_j, \qquad \log p(y | x, D) = \log p(t | x, D) - \sum_j \log s_j

with a mean m and a standard deviation s per target j, of the data of the first fit; networks see
the scaled targets t.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from bayesflow_nn import predictive
from bayesflow_nn.estimators.networks import FlowBNN
from bayesflow_nn.predictive import RegressionMoments
from bayesflow_nn.predictive_distribution import draw_targets, predictive_quantiles
from bayesflow_nn.weights.random_state import RandomState


class TargetPredictions(FlowBNN):
    """What a fitted regression predicts, of inputs ``(n_inputs, ...)`` in their own units."""

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
        if not self._goes_on:
            scaler = StandardScaler().set_output(transform="default")
            self.target_scaler_ = (
                scaler.fit(y, sample_weight=sample_weight) if self.standardize else None
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
