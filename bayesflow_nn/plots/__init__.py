"""Figures in the manner of scikit-learn's displays: drawn by matplotlib, on any axes."""

from bayesflow_nn.plots.curve import PredictiveCurveDisplay
from bayesflow_nn.plots.decision import UncertaintySurfaceDisplay
from bayesflow_nn.plots.diversity import DiversityDisplay
from bayesflow_nn.plots.fit import LossCurveDisplay, TrajectoryDisplay
from bayesflow_nn.plots.pit import PitDisplay
from bayesflow_nn.plots.posterior import MarginalsDisplay, weight_names
from bayesflow_nn.plots.regression import Band, PredictiveBandDisplay
from bayesflow_nn.plots.reliability import ReliabilityDisplay
from bayesflow_nn.plots.uncertainty import UncertaintyHistogramDisplay

__all__ = [
    "Band",
    "DiversityDisplay",
    "LossCurveDisplay",
    "MarginalsDisplay",
    "PitDisplay",
    "PredictiveBandDisplay",
    "PredictiveCurveDisplay",
    "ReliabilityDisplay",
    "TrajectoryDisplay",
    "UncertaintyHistogramDisplay",
    "UncertaintySurfaceDisplay",
    "weight_names",
]
