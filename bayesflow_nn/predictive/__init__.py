"""What many networks predict together, how sure of it they are, and what each says alone."""

from bayesflow_nn.predictive.averages import OutputMoments, output_moments, predict_proba
from bayesflow_nn.predictive.curve import (
    Equivalent,
    PredictiveCurve,
    deep_ensemble_equivalent,
    predictive_curve,
)
from bayesflow_nn.predictive.mixture import (
    RegressionMoments,
    predictive_log_density,
    predictive_moments,
)
from bayesflow_nn.predictive.out_of_distribution import (
    Detection,
    OutOfDistributionScores,
    detection,
    out_of_distribution_scores,
)
from bayesflow_nn.predictive.scores import (
    ClassificationScores,
    RegressionScores,
    network_scores,
)
from bayesflow_nn.predictive.uncertainty import Uncertainty, network_proba, predict_uncertainty

__all__ = [
    "ClassificationScores",
    "Detection",
    "Equivalent",
    "OutOfDistributionScores",
    "OutputMoments",
    "PredictiveCurve",
    "RegressionMoments",
    "RegressionScores",
    "Uncertainty",
    "deep_ensemble_equivalent",
    "detection",
    "network_proba",
    "network_scores",
    "out_of_distribution_scores",
    "output_moments",
    "predict_proba",
    "predict_uncertainty",
    "predictive_curve",
    "predictive_log_density",
    "predictive_moments",
]
