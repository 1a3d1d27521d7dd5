"""Models that predict the target of a flow from a noisy point: u(t, x) up to the path's formula."""

from bayesflow_nn.velocity.affine import AffineDenoiser
from bayesflow_nn.velocity.conditional import ConditionalDenoiser
from bayesflow_nn.velocity.exchangeable import ExchangeableDenoiser
from bayesflow_nn.velocity.gaussian import GaussianDenoiser
from bayesflow_nn.velocity.gaussian_map import make_flow_map
from bayesflow_nn.velocity.graph_velocity import GraphVelocity
from bayesflow_nn.velocity.labelled import LabelledDenoiser
from bayesflow_nn.velocity.mlp import MLPVelocity
from bayesflow_nn.velocity.pna import PNAVelocity
from bayesflow_nn.velocity.probing import ProbeVelocity
from bayesflow_nn.velocity.problem import UnitVariance, VelocityProblem
from bayesflow_nn.velocity.relational_transformer import RelationalTransformer

__all__ = [
    "AffineDenoiser",
    "ConditionalDenoiser",
    "ExchangeableDenoiser",
    "GaussianDenoiser",
    "GraphVelocity",
    "LabelledDenoiser",
    "MLPVelocity",
    "PNAVelocity",
    "ProbeVelocity",
    "RelationalTransformer",
    "UnitVariance",
    "VelocityProblem",
    "make_flow_map",
]
