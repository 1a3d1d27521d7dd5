"""Flow matching on products of spheres and Euclidean blocks; knows no network layer."""

from bayesflow_nn.flow.coupling import COUPLINGS
from bayesflow_nn.flow.density import LogDensity, log_density
from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.ode import SolverError, integrate
from bayesflow_nn.flow.path import GeodesicPath, PathSample
from bayesflow_nn.flow.source import StandardSource, contract
from bayesflow_nn.flow.training import FlowTrainer, TrainingHistory

__all__ = [
    "COUPLINGS",
    "FlowField",
    "FlowTrainer",
    "GeodesicPath",
    "LogDensity",
    "PathSample",
    "SolverError",
    "StandardSource",
    "TrainingHistory",
    "contract",
    "integrate",
    "log_density",
]
