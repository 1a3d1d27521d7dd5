"""Neural-network weights as data: architectures, populations of networks, and their training."""

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.constant_noise import ConstantNoise
from bayesflow_nn.weights.dense import DenseLayer
from bayesflow_nn.weights.likelihoods import (
    Categorical,
    HeteroscedasticNormal,
    Likelihood,
    Normal,
    StudentT,
)
from bayesflow_nn.weights.log_posterior import LogPosterior
from bayesflow_nn.weights.population import PopulationSplit, WeightPopulation
from bayesflow_nn.weights.priors import LaplacePrior, NormalPrior
from bayesflow_nn.weights.sampling import sample_population
from bayesflow_nn.weights.training import train_population

__all__ = [
    "Architecture",
    "Categorical",
    "ConstantNoise",
    "DenseLayer",
    "HeteroscedasticNormal",
    "LaplacePrior",
    "Likelihood",
    "LogPosterior",
    "Normal",
    "NormalPrior",
    "PopulationSplit",
    "StudentT",
    "WeightPopulation",
    "sample_population",
    "train_population",
]
