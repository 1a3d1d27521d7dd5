"""Symmetries of weight space, removed without changing the function; charts of what is left."""

from bayesflow_nn.symmetry.alignment import PermutationAligner
from bayesflow_nn.symmetry.barrier import interpolation_losses, loss_barrier
from bayesflow_nn.symmetry.chart import WeightChart
from bayesflow_nn.symmetry.discovery import discover, verify_groups
from bayesflow_nn.symmetry.groups import PermutationGroup, Slot
from bayesflow_nn.symmetry.objectives import L2Objective, MidpointObjective, RandomPointObjective
from bayesflow_nn.symmetry.prior import log_prior
from bayesflow_nn.symmetry.scale_discovery import discover_scales
from bayesflow_nn.symmetry.scale_groups import ScaleGroup
from bayesflow_nn.symmetry.scaling import ScaleCanonicalizer
from bayesflow_nn.symmetry.sinkhorn import match_sinkhorn
from bayesflow_nn.symmetry.transfer import carry, check_same_roles, transfer_chart

__all__ = [
    "L2Objective",
    "MidpointObjective",
    "PermutationAligner",
    "PermutationGroup",
    "RandomPointObjective",
    "ScaleCanonicalizer",
    "ScaleGroup",
    "Slot",
    "WeightChart",
    "carry",
    "check_same_roles",
    "discover",
    "discover_scales",
    "interpolation_losses",
    "log_prior",
    "loss_barrier",
    "match_sinkhorn",
    "transfer_chart",
    "verify_groups",
]
