r"""Several posteriors in one prediction, with the weights that predict best.

.. math::
    p(y | x) = \sum_m w_m \, p_m(y | x, D), \qquad
    w = \arg\max_{w \ge 0, \sum w = 1} \sum_i \log \sum_m w_m \, p_m(y_i | x_i, D_{-i})

stacks the predictive distributions of posteriors m [Y18], each judged at every input without its
own target, by Pareto-smoothed leave-one-out cross-validation. Unlike their evidences, these weights
do not settle on one posterior where two complement each other.

[Y18] Y. Yao, A. Vehtari, D. Simpson and A. Gelman, Using stacking to average Bayesian predictive
distributions, Bayesian Analysis 13 (2018), arXiv 1704.02030, eq. 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bayesflow_nn.arviz_record import posterior_record
from bayesflow_nn.inference_data import compare
from bayesflow_nn.weights.random_state import RandomState, draw_seed

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class StackedPosterior:
    """Posteriors with their weights. They may have different architectures.

    Attributes
    ----------
    posteriors : mapping from name to FlowPosterior
    weights : dict from name to float
        Non-negative, of sum one.
    table : DataFrame
        What ``arviz.compare`` says: expected log predictive density in nats, its standard error,
        and differences, best posterior first.
    """

    posteriors: Mapping[str, Any]
    weights: dict[str, float]
    table: DataFrame

    def predict_proba(self, X: ArrayLike, **sampling: Any) -> np.ndarray:
        """Class probabilities ``(n_inputs, n_classes)`` of the weighted average.

        Parameters
        ----------
        X : array of shape (n_inputs, ...)
        **sampling
            Parameters of :meth:`bayesflow_nn.FlowPosterior.predict_proba`, for every posterior.
        """
        return sum(
            weight * self.posteriors[name].predict_proba(X, **sampling)
            for name, weight in self.weights.items()
            if weight > 0
        )

    def predict(self, X: ArrayLike, **sampling: Any) -> np.ndarray:
        """Most probable class of every input ``(n_inputs,)``."""
        return self.predict_proba(X, **sampling).argmax(-1)


def stack_posteriors(
    posteriors: Mapping[str, Any],
    X: ArrayLike,
    y: ArrayLike,
    *,
    n_samples: int = 200,
    random_state: RandomState = None,
) -> StackedPosterior:
    """Weigh posteriors by how they predict each target without it.

    Parameters
    ----------
    posteriors : mapping from name to FlowPosterior
        At least two, fitted, of one task, with a likelihood.
    X : array of shape (n_inputs, ...)
    y : array of shape (n_inputs,) or (n_inputs, n_targets)
        The data that the posteriors are posteriors of. Leaving a target out corrects for what a
        *posterior* learned from it; networks that were trained beyond it are overconfident at their
        own data, and ArviZ warns of large k-hat.
    n_samples : int
        Networks of each.
    random_state : int, RandomState or None

    Returns
    -------
    StackedPosterior

    Raises
    ------
    ValueError
        If there are fewer than two posteriors, or the data do not fit.

    Examples
    --------
    >>> from bayesflow_nn import Architecture, FlowPosterior
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 1))
    >>> y = (X[:, 0] + rng.normal(size=60) > 0).astype(int)
    >>> def posterior_of(slope):
    ...     slopes = slope + 0.05 * rng.normal(size=(100, 1))
    ...     return FlowPosterior(
    ...         architecture=Architecture.mlp([1, 2], bias=False), task="classification",
    ...         geometry="euclidean", max_iter=5, n_steps=4, random_state=0,
    ...     ).fit(np.hstack([-slopes, slopes]))
    >>> posteriors = {"right": posterior_of(1.0), "wrong": posterior_of(-1.0)}
    >>> stacked = stack_posteriors(posteriors, X, y, random_state=0)
    >>> stacked.table.index[0], stacked.weights["right"] > 0.5
    ('right', True)
    """
    if len(posteriors) < 2:
        raise ValueError(f"posteriors must be at least two, got {list(posteriors)}.")
    seed = draw_seed(random_state)
    table = compare(
        {
            name: posterior_record(posterior, X, y, n_samples=n_samples, random_state=seed)
            for name, posterior in posteriors.items()
        }
    )
    weights = {name: float(table.loc[name, "weight"]) for name in posteriors}
    return StackedPosterior(dict(posteriors), weights, table)
