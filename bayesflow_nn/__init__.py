"""Flow-matching posteriors over neural-network weights, as scikit-learn estimators.

Train many networks, remove the symmetries that make equal functions look different, and learn a
flow that carries noise to the distribution of their weights.
"""

from bayesflow_nn.arviz_record import function_diagnostics, population_record
from bayesflow_nn.estimators import FlowBNNClassifier, FlowBNNRegressor
from bayesflow_nn.flow import Guidance, Refresh, StepNoise, TaskGuidance
from bayesflow_nn.persistence import load, save
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    HeteroscedasticNormal,
    Normal,
    StudentT,
    WeightPopulation,
    sample_population,
    train_population,
)

__all__ = [
    "Architecture",
    "Categorical",
    "FlowBNNClassifier",
    "FlowBNNRegressor",
    "FlowPosterior",
    "Guidance",
    "HeteroscedasticNormal",
    "Normal",
    "Refresh",
    "StepNoise",
    "StudentT",
    "TaskGuidance",
    "WeightPopulation",
    "function_diagnostics",
    "load",
    "population_record",
    "sample_population",
    "save",
    "train_population",
]

__version__ = "0.1.0.dev0"
