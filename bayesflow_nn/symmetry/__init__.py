"""Symmetries of weight space, removed without changing the function; charts of what is left."""

from bayesflow_nn.symmetry.alignment import PermutationAligner
from bayesflow_nn.symmetry.chart import WeightChart
from bayesflow_nn.symmetry.prior import log_prior
from bayesflow_nn.symmetry.scaling import ScaleCanonicalizer

__all__ = ["PermutationAligner", "ScaleCanonicalizer", "WeightChart", "log_prior"]
