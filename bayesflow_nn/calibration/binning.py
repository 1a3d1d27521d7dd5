"""Bins of equal width or of equal mass, the same for all values that are equal."""

from __future__ import annotations

import numpy as np

from bayesflow_nn.weights.validation import check_integer, check_option

STRATEGIES = ("uniform", "quantile")
"""Bins of equal width between 0 and 1; bins that hold about the same number of inputs."""


def assign_bins(values: np.ndarray, n_bins: int, strategy: str) -> tuple[np.ndarray, np.ndarray]:
    """Edges and the bin of every value.

    Bin b holds the values above ``edges[b]`` and up to ``edges[b + 1]``; the first also holds its
    lower edge. Quantiles are interpolated linearly, so that without ties the counts of two bins
    differ by at most one; tied values share a bin, and other bins may then be empty.

    Parameters
    ----------
    values : array of shape (n_inputs,)
        Numbers between 0 and 1.
    n_bins : int
    strategy : {"uniform", "quantile"}

    Returns
    -------
    edges : array of shape (n_bins + 1,)
    bins : array of shape (n_inputs,)
        Integers 0, ..., n_bins - 1.

    Raises
    ------
    ValueError
        If `n_bins` is no positive integer or `strategy` is unknown.

    Examples
    --------
    >>> assign_bins(np.array([0.1, 0.2, 0.3, 0.9]), 2, "uniform")[1]
    array([0, 0, 0, 1])
    >>> assign_bins(np.array([0.1, 0.2, 0.3, 0.9]), 2, "quantile")[1]
    array([0, 0, 1, 1])
    """
    check_option("strategy", strategy, STRATEGIES)
    fractions = np.linspace(0, 1, check_integer("n_bins", n_bins) + 1)
    edges = np.quantile(values, fractions) if strategy == "quantile" else fractions
    # Rounding may put a probability just above 1.
    return edges, np.clip(np.searchsorted(edges, values, side="left") - 1, 0, n_bins - 1)


def assign_bins_per_class(proba: np.ndarray, n_bins: int, strategy: str) -> np.ndarray:
    """Bins of the probabilities of each class, numbered through: class c has c n_bins, ....

    Parameters
    ----------
    proba : array of shape (n_inputs, n_classes)
    n_bins : int
    strategy : {"uniform", "quantile"}
        Quantiles are those of each class.

    Returns
    -------
    array of shape (n_inputs, n_classes)
        Integers 0, ..., n_classes * n_bins - 1.

    Raises
    ------
    ValueError
        As `assign_bins`.

    Examples
    --------
    >>> assign_bins_per_class(np.array([[0.9, 0.1], [0.2, 0.8]]), 2, "uniform")
    array([[1, 2],
           [0, 3]])
    """
    columns = [assign_bins(p, n_bins, strategy)[1] for p in proba.T]
    return np.stack(columns, 1) + n_bins * np.arange(proba.shape[1])
