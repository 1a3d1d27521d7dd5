r"""Correction of a flow to a posterior by importance sampling.

Networks :math:`\theta_k` drawn from the flow, with the density q on the canonical chart, get the
ratios

.. math::
    r_k = p(D | \theta_k) \, p(\theta_k) / q(\theta_k),

smoothed by a generalised Pareto distribution [V24]. Averages with these weights are averages over
the posterior, and the mean ratio is the evidence p(D). A flow over aligned networks covers one of
the n! arrangements of n hidden neurons, which have equal shares in the posterior. For predictions,
the same in all, that is enough; the evidence is multiplied by their number. Where the flow reaches
into other arrangements it counts these twice, and the evidence is too high by their share.

[V24] A. Vehtari et al., Pareto Smoothed Importance Sampling, JMLR 25 (2024), arXiv 1507.02646.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from bayesflow_nn.inference_data import pareto_smoothed
from bayesflow_nn.weights import Architecture, Likelihood
from bayesflow_nn.weights.likelihoods import resolve_likelihood
from bayesflow_nn.weights.training_data import check_data

JointLikelihood = Callable[[Tensor, Tensor], Tensor]
"""Outputs ``(n_networks, n_inputs, n_outputs)`` and targets to logarithms ``(n_networks,)``."""

LARGEST_K = 0.7  # up to which averages are reliable at any sample size ([V24] 3.2.4)
_CHUNK = 2**16  # network-input pairs evaluated at once


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """Networks from a flow, weighted as a sample of the posterior.

    Attributes
    ----------
    networks : ndarray of shape (n_samples, n_weights)
        As drawn, canonical.
    log_ratios : ndarray of shape (n_samples,)
        Log of posterior (not normalised) over flow density, in nats, Pareto-smoothed.
    pareto_k : float
        Shape of the tail. Below 0.7 averages and evidence can be trusted; from there on the flow
        misses too much of the posterior, and their errors are not known.
    log_evidence : float
        Log p(D) in nats.
    """

    networks: np.ndarray
    log_ratios: np.ndarray
    pareto_k: float
    log_evidence: float

    @property
    def weights(self) -> np.ndarray:
        """Weights of the networks ``(n_samples,)``, of sum one."""
        return np.exp(self.log_ratios - logsumexp(self.log_ratios))

    @property
    def effective_sample_size(self) -> float:
        """Number of independent draws from the posterior that these are worth ([V24] 2)."""
        return float(1 / np.square(self.weights).sum())

    @property
    def log_evidence_std(self) -> float:
        """Standard error of `log_evidence`, in nats."""
        n = len(self.weights)
        return float(np.std(n * self.weights, ddof=1) / math.sqrt(n))

    def average(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean of values ``(n_samples, ...)`` of the networks, and its standard error."""
        values = np.asarray(values)
        weights = self.weights.reshape(-1, *[1] * (values.ndim - 1))
        mean = (weights * values).sum(0)
        return mean, np.sqrt((np.square(weights) * np.square(values - mean)).sum(0))

    def __str__(self) -> str:
        verdict = "reliable" if self.pareto_k <= LARGEST_K else "not to be trusted"
        return (
            f"Pareto k-hat           {self.pareto_k:.2f} ({verdict}; limit {LARGEST_K})\n"
            f"effective sample size  {self.effective_sample_size:.1f} of {len(self.weights)}\n"
            f"log evidence           {self.log_evidence:.3f} +- {self.log_evidence_std:.3f} nats"
        )


def weigh(networks: np.ndarray, log_ratios: np.ndarray, log_multiplicity: float):
    """Smooth the ratios and judge them.

    Parameters
    ----------
    networks : ndarray of shape (n_samples, n_weights)
    log_ratios : ndarray of shape (n_samples,)
    log_multiplicity : float
        Log of the number of networks with the same function that each stands for.

    Returns
    -------
    ImportanceWeights

    Raises
    ------
    ValueError
        If all ratios are zero, or one is not a number.

    Warns
    -----
    UserWarning
        If k-hat exceeds 0.7.
    """
    if np.isnan(log_ratios).any() or (log_ratios == np.inf).any() or np.isneginf(log_ratios).all():
        n_bad = int((np.isnan(log_ratios) | (log_ratios == np.inf)).sum())
        raise ValueError(
            f"prior and likelihood must give finite log densities, not all of them minus infinity; "
            f"of {len(log_ratios)} networks {n_bad} have no finite one, and "
            f"{int(np.isneginf(log_ratios).sum())} minus infinity."
        )
    smoothed, pareto_k = pareto_smoothed(log_ratios)
    log_evidence = logsumexp(smoothed) - math.log(len(smoothed)) + log_multiplicity
    result = ImportanceWeights(networks, smoothed, pareto_k, float(log_evidence))
    if not pareto_k <= LARGEST_K:
        warnings.warn(
            f"k-hat is {pareto_k:.2f}, above {LARGEST_K}: the ratios of posterior and flow have so "
            f"heavy a tail that a few of the {len(smoothed)} networks carry the average (effective "
            f"sample size {result.effective_sample_size:.1f}). Corrected averages and evidence are "
            f"not to be trusted; fit the flow to a sample nearer to this posterior.",
            UserWarning,
            stacklevel=3,
        )
    return result


def log_likelihood(
    architecture: Architecture,
    weights: Tensor,
    X: object,
    y: object,
    *,
    task: str,
    likelihood: float | Likelihood | JointLikelihood | None,
) -> Tensor:
    """Log likelihood of data under each network, ``(n_networks,)`` in nats.

    Parameters
    ----------
    architecture : Architecture
    weights : Tensor of shape (n_networks, n_weights)
    X, y : array
        Inputs and targets.
    task : {"classification", "regression"}
    likelihood : Likelihood, float, callable or None
        None for class probabilities, a float for the standard deviation of normal noise. A callable
        takes all outputs and targets, and returns one value per network.

    Raises
    ------
    ValueError, TypeError
        If the data do not fit, or regression has no likelihood.
    """
    if callable(likelihood):
        loss, measure = "cross_entropy" if task == "classification" else "mse", likelihood
    else:
        loss = resolve_likelihood(task, likelihood)

        def measure(outputs: Tensor, y: Tensor) -> Tensor:
            return loss.log_prob(outputs, y).sum(-1)

    data = check_data(architecture, X, y, loss, weights.device)
    inputs = data.X.to(weights)
    targets = data.y.to(weights) if data.y.is_floating_point() else data.y
    size = max(1, _CHUNK // len(inputs))
    parts = (measure(architecture.apply(part, inputs), targets) for part in weights.split(size))
    values = torch.cat(list(parts))
    if values.shape != (len(weights),):
        raise ValueError(
            f"likelihood must return one value per network, shape ({len(weights)},) in all, got "
            f"{tuple(values.shape)}; sum over inputs."
        )
    return values
