"""What generated networks predict, how sure they are and how they differ, beside trained ones."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesflow_nn.arviz_record import population_record
from bayesflow_nn.demonstration.comparison import N_GENERATED, Comparison
from bayesflow_nn.diversity import DiversityReport
from bayesflow_nn.inference_data import compare
from bayesflow_nn.predictive import (
    OutOfDistributionScores,
    PredictiveCurve,
    Uncertainty,
    out_of_distribution_scores,
    predict_proba,
    predict_uncertainty,
    predictive_curve,
)
from bayesflow_nn.weights import WeightPopulation
from bayesflow_nn.weights.training_data import spread_rows

if TYPE_CHECKING:
    from pandas import DataFrame


class Sureness(NamedTuple):
    """How sure an average is, and where.

    Attributes
    ----------
    uncertainty : Uncertainty
        At test inputs, nats, ``(n_test,)`` each.
    is_right : Tensor of shape (n_test,)
        Whether the most probable class is the true one.
    shuffled : Uncertainty
        At inputs whose features have nothing to do with each other.
    usual_scores, shuffled_scores : OutOfDistributionScores
        How unusual the average finds both kinds.
    """

    uncertainty: Uncertainty
    is_right: Tensor
    shuffled: Uncertainty
    usual_scores: OutOfDistributionScores
    shuffled_scores: OutOfDistributionScores


class Findings(NamedTuple):
    """Everything about predictions that the report prints and the figure draws.

    Attributes
    ----------
    averages : dict from name to Tensor of shape (n_test, n_classes)
        Probabilities of the deep ensemble and of all generated networks.
    curves : dict from name to PredictiveCurve
        Of all training networks and of all generated ones.
    sureness : dict from name to Sureness
        Of held-out trained networks and of generated ones, as many of each as one average has.
    diversity : DiversityReport
        Of the same generated networks.
    comparison : DataFrame
        Leave-one-out cross-validation on the training data, of the same two sets.
    sample_seconds : float
        To generate as many networks as one average has.
    """

    averages: dict[str, Tensor]
    curves: dict[str, PredictiveCurve]
    sureness: dict[str, Sureness]
    diversity: DiversityReport
    comparison: DataFrame
    sample_seconds: float


def investigate(comparison: Comparison, sample_seconds: float) -> Findings:
    """Find out how the networks predict that the flow generated at temperature 1."""
    data, train, posterior = comparison.data, comparison.train, comparison.posterior
    generated = comparison.generated[1.0]
    sets = {
        "held-out trained": spread_rows(comparison.held_out.weights, N_GENERATED),
        "generated": generated[:N_GENERATED],
    }
    averaged = {
        f"deep ensemble of {len(train)}": train.weights,
        f"average of {len(generated)} generated": generated,
    }
    curves = {"training networks": train.weights, "generated": generated}
    return Findings(
        {
            name: predict_proba(train.architecture, weights, data.X_test)
            for name, weights in averaged.items()
        },
        {
            name: predictive_curve(
                train.architecture, weights, data.X_test, data.y_test, random_state=0
            )
            for name, weights in curves.items()
        },
        {name: _sureness(comparison, weights) for name, weights in sets.items()},
        posterior.diversity(
            data.X_test,
            data.y_test,
            held_out=comparison.held_out,
            generated=sets["generated"],
            random_state=0,
        ),
        _cross_validate(comparison, sets),
        sample_seconds,
    )


def shuffle_features(X: Tensor) -> Tensor:
    """Permute every feature among the inputs: marginals stay, what binds features is lost."""
    return torch.as_tensor(np.random.default_rng(0).permuted(X.numpy(), axis=0))


def _sureness(comparison: Comparison, weights: Tensor) -> Sureness:
    architecture, (_, _, X, y) = comparison.train.architecture, comparison.data
    shuffled = shuffle_features(X)
    return Sureness(
        predict_uncertainty(architecture, weights, X),
        predict_proba(architecture, weights, X).argmax(-1) == y,
        predict_uncertainty(architecture, weights, shuffled),
        out_of_distribution_scores(architecture, weights, X),
        out_of_distribution_scores(architecture, weights, shuffled),
    )


def _cross_validate(comparison: Comparison, sets: dict[str, Tensor]) -> DataFrame:
    data, train = comparison.data, comparison.train
    records = {
        name: population_record(
            WeightPopulation(weights, architecture=train.architecture, task=train.task),
            data.X_train,
            data.y_train,
            random_state=0,
        )
        for name, weights in sets.items()
    }
    with warnings.catch_warnings():
        # The table says of which models the estimate is not to be trusted.
        warnings.filterwarnings("ignore", "Estimated shape parameter", UserWarning)
        return compare(records)
