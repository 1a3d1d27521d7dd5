"""What ArviZ does for posteriors over networks. The only file that imports it.

Rows are networks, ``(n_networks, ...)``; ArviZ has chains and draws, ``(n_chains, n_draws, ...)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from arviz import InferenceData
    from pandas import DataFrame
    from xarray import Dataset

_MIN_CHAINS, _MIN_DRAWS = 2, 4  # below which a split R-hat has no meaning


class Convergence(NamedTuple):
    """How well chains agree on quantities of any shape ``(...)``; all three have that shape.

    Attributes
    ----------
    r_hat : ndarray
        Rank-normalised split R-hat, 1 at convergence; NaN for a quantity that never changes.
    ess_bulk, ess_tail : ndarray
        Independent draws that they are worth for the centre and for the 5 % and 95 % quantiles.
    """

    r_hat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray


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
    log_ratios = np.array(log_ratios, dtype=float)
    arviz = _import_arviz()
    if hasattr(arviz, "psislw"):
        smoothed, pareto_k = arviz.psislw(log_ratios.copy(), normalize=False)
        return np.asarray(smoothed), float(pareto_k)
    from arviz_stats.base import array_stats  # ArviZ 1, which takes log likelihoods left out

    weights, pareto_k = array_stats.psislw(-log_ratios)
    # Its weights have sum one. The smallest ratios are not in the tail, and tell the constant.
    body = np.argmin(np.where(np.isfinite(log_ratios), log_ratios, np.inf))
    return np.asarray(weights) + (log_ratios[body] - weights[body]), float(pareto_k)


def convergence(values: ArrayLike) -> Convergence:
    """R-hat and effective sample sizes of many quantities (Vehtari et al. 2021, section 4).

    Parameters
    ----------
    values : array of shape (n_chains, n_draws, ...)
        At least 2 chains of at least 4 draws.

    Returns
    -------
    Convergence
        Arrays of shape ``(...)``.

    Raises
    ------
    ValueError
        If there are too few chains or draws.

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(size=(4, 500, 2))
    >>> draws[0, :, 1] += 3.0
    >>> convergence(draws).r_hat < 1.01
    array([ True, False])
    """
    values = np.asarray(values, dtype=float)
    (n_chains, n_draws), shape = values.shape[:2], values.shape[2:]
    check_chains(n_chains, n_draws)
    arviz = _import_arviz()
    data = _dataset({"x": values.reshape(n_chains, n_draws, -1)}, ("chain", "draw"), {})
    with np.errstate(invalid="ignore", divide="ignore"):
        measures = (
            arviz.rhat(data, method="rank"),
            arviz.ess(data, method="bulk"),
            arviz.ess(data, method="tail", prob=(0.05, 0.95)),
        )
    return Convergence(*(measure["x"].to_numpy().reshape(shape) for measure in measures))


def compare(records: Mapping[str, InferenceData]) -> DataFrame:
    """Compare models by leave-one-out cross-validation, and stack them (``arviz.compare``).

    Parameters
    ----------
    records : mapping from name to arviz.InferenceData
        With log likelihoods of the same targets.

    Returns
    -------
    DataFrame
        One row per model, best first; column "weight" has the stacking weights.
    """
    with warnings.catch_warnings():
        # ArviZ 0.23 calls pandas in a way that pandas 4 will drop.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _import_arviz().compare(dict(records), method="stacking")


def check_chains(n_chains: int, n_draws: int) -> None:
    """Raise unless there are enough chains and draws for a split R-hat."""
    if n_chains < _MIN_CHAINS or n_draws < _MIN_DRAWS:
        raise ValueError(
            f"chains must be at least {_MIN_CHAINS}, of at least {_MIN_DRAWS} draws each, to be "
            f"compared, got {n_chains} of {n_draws}; keep more networks of each trajectory and say "
            f"with `chain` and `draw` which these are."
        )


def chain_rows(chain: ArrayLike | None, draw: ArrayLike | None, n_networks: int) -> np.ndarray:
    """Rows of the networks of each chain, in the order of their draws.

    Chains of unequal length are cut to the shortest: the last draws stay, which are those nearest
    to convergence.

    Parameters
    ----------
    chain, draw : array of shape (n_networks,) or None
        Trajectory of each network and its place on it. Without `chain` all networks are one chain,
        without `draw` they are in order.
    n_networks : int

    Returns
    -------
    ndarray of shape (n_chains, n_draws)
        Indices of rows; chains in ascending order.

    Raises
    ------
    ValueError
        If `chain` or `draw` has another shape.

    Warns
    -----
    UserWarning
        If draws were dropped, and how many.

    Examples
    --------
    >>> chain_rows([1, 0, 1, 0], [7, 3, 5, 2], 4)
    array([[3, 1], [2, 0]])
    """
    chain = np.zeros(n_networks, int) if chain is None else np.asarray(chain)
    draw = np.zeros(n_networks, int) if draw is None else np.asarray(draw)
    for name, column in (("chain", chain), ("draw", draw)):
        if column.shape != (n_networks,):
            raise ValueError(
                f"{name} must have one entry per network, shape ({n_networks},), got "
                f"{column.shape}."
            )
    order = np.lexsort((draw, chain))
    lengths = np.unique(chain, return_counts=True)[1]
    shortest = lengths.min()
    n_dropped = n_networks - shortest * len(lengths)
    if n_dropped:
        warnings.warn(
            f"chains have {shortest} to {lengths.max()} draws and were cut to the last {shortest} "
            f"of each: {n_dropped} of {n_networks} draws were dropped. Leave out chains that are "
            f"too short to keep more.",
            UserWarning,
            stacklevel=3,
        )
    return np.stack([rows[-shortest:] for rows in np.split(order, lengths.cumsum()[:-1])])


def to_inference_data(
    parameters: Mapping[str, np.ndarray],
    *,
    chain: ArrayLike | None = None,
    draw: ArrayLike | None = None,
    log_likelihood: np.ndarray | None = None,
    posterior_predictive: np.ndarray | None = None,
    y: np.ndarray | None = None,
    X: np.ndarray | None = None,
    sample_stats: Mapping[str, np.ndarray] | None = None,
) -> InferenceData:
    """Record networks and their predictions as ArviZ expects them.

    Parameters
    ----------
    parameters : mapping from name to ndarray of shape (n_networks, *shape)
        Group `posterior`, with dimensions ``<name>_dim_0`` and so on.
    chain, draw : array of shape (n_networks,), optional
        Trajectory of each network and its place on it. Without `chain` all networks are one chain,
        as independent draws are. Chains of unequal length are cut (see `chain_rows`).
    log_likelihood : ndarray of shape (n_networks, n_inputs), optional
        Log likelihood of each target, in nats; variable "y" of its group.
    posterior_predictive : ndarray of shape (n_networks, n_inputs[, n_outputs]), optional
        Targets drawn for each network; variable "y" of its group.
    y : ndarray of shape (n_inputs[, n_outputs]), optional
        Group `observed_data`.
    X : ndarray of shape (n_inputs, ...), optional
        Group `constant_data`.
    sample_stats : mapping from name to ndarray of shape (n_networks,), optional
        Numbers of each network, for example its log density "lp" in nats.

    Returns
    -------
    arviz.InferenceData
        With ArviZ 1.x an ``xarray.DataTree`` of the same groups. A group without data is left out.

    Raises
    ------
    ValueError
        If an array has not one row per network, or is named "chain" or "draw".

    Warns
    -----
    UserWarning
        If chains were cut, and by how many draws.

    Examples
    --------
    >>> record = to_inference_data({"bias": np.zeros((6, 2))}, chain=[0, 0, 0, 1, 1, 1])
    >>> dict(record.posterior["bias"].sizes)
    {'chain': 2, 'draw': 3, 'bias_dim_0': 2}
    """
    n_networks = len(next(iter(parameters.values())))
    samples = {
        ("posterior", "chain", "draw"): parameters,
        ("posterior_predictive", "chain", "draw", "input"): _variable("y", posterior_predictive),
        ("log_likelihood", "chain", "draw", "input"): _variable("y", log_likelihood),
        ("sample_stats", "chain", "draw"): sample_stats or {},
    }
    data = {
        ("observed_data", "input"): _variable("y", y),
        ("constant_data", "input"): _variable("X", X),
    }
    for name, values in [kv for group in samples.values() for kv in group.items()]:
        _check_rows(name, values, n_networks)
    rows = chain_rows(chain, draw, n_networks)
    labels = {"chain": _labels(chain, rows)[:, 0], "draw": _draw_labels(draw, rows)}
    groups = {
        key: {name: values[rows] for name, values in group.items()}
        for key, group in samples.items()
    }
    return _join(
        {
            name: _dataset(group, leading, labels)
            for (name, *leading), group in (groups | data).items()
            if group
        }
    )


def _variable(name: str, values: np.ndarray | None) -> dict[str, np.ndarray]:
    return {} if values is None else {name: values}


def _check_rows(name: str, values: np.ndarray, n_networks: int) -> None:
    if name in ("chain", "draw"):
        raise ValueError(
            f"parameters and statistics must not be named as the dimensions of a record, got "
            f"{name!r}; rename it."
        )
    if len(values) != n_networks:
        raise ValueError(
            f"{name} must have one row per network, {n_networks} in all, got shape {values.shape}."
        )


def _labels(column: ArrayLike | None, rows: np.ndarray) -> np.ndarray:
    return np.zeros(rows.shape, int) if column is None else np.asarray(column)[rows]


def _draw_labels(draw: ArrayLike | None, rows: np.ndarray) -> np.ndarray:
    """Labels of the draws if all chains have the same, each once; else their places."""
    labels = _labels(draw, rows)
    agree = (labels == labels[0]).all() and len(np.unique(labels[0])) == rows.shape[1]
    return labels[0] if agree else np.arange(rows.shape[1])


def _dataset(
    group: Mapping[str, np.ndarray], leading: Sequence[str], labels: Mapping[str, np.ndarray]
) -> Dataset:
    """Arrays of one group, which begin with the same dimensions and go on with their own."""
    import xarray

    variables = {
        name: ([*leading, *(f"{name}_dim_{i}" for i in range(values.ndim - len(leading)))], values)
        for name, values in group.items()
    }
    data = xarray.Dataset(variables, attrs={"inference_library": "bayesflow_nn"})
    return data.assign_coords({dim: labels.get(dim, np.arange(n)) for dim, n in data.sizes.items()})


def _join(groups: Mapping[str, Dataset]) -> InferenceData:
    arviz = _import_arviz()
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(**groups)
    from xarray import DataTree

    return DataTree.from_dict(dict(groups))


def _import_arviz() -> ModuleType:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\nArviZ is undergoing", FutureWarning)
        import arviz
    return arviz
