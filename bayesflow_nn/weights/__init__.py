"""Neural-network weights as data: architectures, populations of networks, and their training."""

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.dense import DenseLayer
from bayesflow_nn.weights.population import PopulationSplit, WeightPopulation
from bayesflow_nn.weights.training import train_population

__all__ = ["Architecture", "DenseLayer", "PopulationSplit", "WeightPopulation", "train_population"]
