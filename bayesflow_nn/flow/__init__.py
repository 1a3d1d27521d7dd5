"""Flow matching on products of spheres and Euclidean blocks; knows no network layer."""

from bayesflow_nn.flow.coupling import COUPLINGS
from bayesflow_nn.flow.density import DensityMethod, LogDensity
from bayesflow_nn.flow.exponential import GaussianFlow
from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.flow_map import FlowMap
from bayesflow_nn.flow.guidance import Guidance, TaskGuidance
from bayesflow_nn.flow.guided import GuidedField, Setting
from bayesflow_nn.flow.noise import Noise, Refresh, StepNoise
from bayesflow_nn.flow.ode import (
    DENSITY_SOLVERS,
    SOLVERS,
    NonFiniteError,
    SolverError,
    StepLimitError,
    StepUnderflowError,
    integrate,
)
from bayesflow_nn.flow.path import GeodesicPath, PathSample
from bayesflow_nn.flow.regression import Regression, TrainingHistory
from bayesflow_nn.flow.sampling import Integrator, Sampler
from bayesflow_nn.flow.source import StandardSource, StudentSource, contract
from bayesflow_nn.flow.time_grid import equal_error_grid
from bayesflow_nn.flow.trace import PROBE_DISTRIBUTIONS, TRACES
from bayesflow_nn.flow.training import FlowTrainer, Targets

__all__ = [
    "COUPLINGS",
    "DENSITY_SOLVERS",
    "PROBE_DISTRIBUTIONS",
    "SOLVERS",
    "TRACES",
    "DensityMethod",
    "FlowField",
    "FlowMap",
    "FlowTrainer",
    "GaussianFlow",
    "GeodesicPath",
    "Guidance",
    "GuidedField",
    "Integrator",
    "LogDensity",
    "Noise",
    "NonFiniteError",
    "PathSample",
    "Refresh",
    "Regression",
    "Sampler",
    "Setting",
    "SolverError",
    "StandardSource",
    "StepLimitError",
    "StepNoise",
    "StepUnderflowError",
    "StudentSource",
    "Targets",
    "TaskGuidance",
    "TrainingHistory",
    "contract",
    "equal_error_grid",
    "integrate",
]
