"""What many networks predict together, and each alone."""

from bayesflow_nn.predictive.averages import PredictiveMoments, predict_moments, predict_proba
from bayesflow_nn.predictive.scores import (
    ClassificationScores,
    RegressionScores,
    network_scores,
)

__all__ = [
    "ClassificationScores",
    "PredictiveMoments",
    "RegressionScores",
    "network_scores",
    "predict_moments",
    "predict_proba",
]
