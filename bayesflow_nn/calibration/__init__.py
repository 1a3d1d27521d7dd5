"""How far predictions can be believed: scores, calibration of classes and of distributions."""

from bayesflow_nn.calibration.classification import (
    BrierDecomposition,
    brier_decomposition,
    brier_score,
    negative_log_likelihood,
)
from bayesflow_nn.calibration.mixtures import (
    mixture_cdf,
    mixture_log_density,
    mixture_quantile,
)
from bayesflow_nn.calibration.regression import (
    IntervalCoverage,
    PitHistogram,
    crps_normal_mixture,
    crps_sample,
    interval_coverage,
    pit_histogram,
    pit_values,
)
from bayesflow_nn.calibration.reliability import (
    CalibrationErrorInterval,
    ReliabilityCurve,
    calibration_error_interval,
    classwise_calibration_error,
    expected_calibration_error,
    reliability_curve,
)
from bayesflow_nn.calibration.scorers import (
    ProbabilityScorer,
    neg_classwise_calibration_error_scorer,
    neg_expected_calibration_error_scorer,
)

__all__ = [
    "BrierDecomposition",
    "CalibrationErrorInterval",
    "IntervalCoverage",
    "PitHistogram",
    "ProbabilityScorer",
    "ReliabilityCurve",
    "brier_decomposition",
    "brier_score",
    "calibration_error_interval",
    "classwise_calibration_error",
    "crps_normal_mixture",
    "crps_sample",
    "expected_calibration_error",
    "interval_coverage",
    "mixture_cdf",
    "mixture_log_density",
    "mixture_quantile",
    "neg_classwise_calibration_error_scorer",
    "neg_expected_calibration_error_scorer",
    "negative_log_likelihood",
    "pit_histogram",
    "pit_values",
    "reliability_curve",
]
