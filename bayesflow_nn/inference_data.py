"""What ArviZ does for posteriors over networks. The only file that imports it."""

from __future__ import annotations

import warnings

import numpy as np


def pareto_smoothed(log_ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smooth importance ratios (Vehtari et al. 2024).

    Parameters
    ----------
    log_ratios : ndarray of shape (n_samples,)
        Log ratios of target and proposal; minus infinity where the target is zero.

    Returns
    -------
    log_ratios : ndarray of shape (n_samples,)
        The largest ones replaced by quantiles of a generalised Pareto distribution.
    pareto_k : float
        Its shape: beyond 0.7 averages with these ratios cannot be trusted.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\nArviZ is undergoing", FutureWarning)
        import arviz
    smoothed, pareto_k = arviz.psislw(np.array(log_ratios, dtype=float), normalize=False)
    return np.asarray(smoothed), float(pareto_k)
