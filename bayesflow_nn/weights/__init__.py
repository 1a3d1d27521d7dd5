"""Neural-network weights as data: architectures, populations of networks, and their training."""

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.dense import DenseLayer
from bayesflow_nn.weights.likelihoods import (
    Categorical,
    HeteroscedasticNormal,
    Likelihood,
    Normal,
    StudentT,
)
from bayesflow_nn.weights.population import PopulationSplit, WeightPopulation
from bayesflow_nn.weights.training import train_population

__all__ = [
    "Architecture",
    "Categorical",
    "DenseLayer",
    "HeteroscedasticNormal",
    "Likelihood",
    "Normal",
    "PopulationSplit",
    "StudentT",
    "WeightPopulation",
    "train_population",
]
