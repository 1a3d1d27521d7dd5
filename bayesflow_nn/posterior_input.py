"""What `FlowPosterior` accepts: parameters, weights and chains, checked before anything runs.

The weights come as a population, a tensor or an array of scikit-learn's kind and leave as a tensor;
below here all is torch.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from bayesflow_nn.flow import (
    COUPLINGS,
    DENSITY_SOLVERS,
    PROBE_DISTRIBUTIONS,
    SOLVERS,
    TRACES,
)
from bayesflow_nn.sampling_input import read_noise
from bayesflow_nn.symmetry.alignment import METHODS
from bayesflow_nn.symmetry.chart import GEOMETRIES, OUTPUT_LAYERS
from bayesflow_nn.symmetry.weight_input import check_architecture
from bayesflow_nn.weights import Architecture, Likelihood, WeightPopulation
from bayesflow_nn.weights.likelihoods import resolve_likelihood
from bayesflow_nn.weights.population import TASKS
from bayesflow_nn.weights.reduction import check_reducer
from bayesflow_nn.weights.validation import check_integer, check_option, check_real, name_rows

Weights = WeightPopulation | Tensor | ArrayLike

_CHOICES = {
    "geometry": GEOMETRIES,
    "output_layer": OUTPUT_LAYERS,
    "coupling": tuple(COUPLINGS),
    "prediction": ("target", "velocity"),
    "time_distribution": ("auto", "uniform", "beta", "late"),
    "solver": SOLVERS,
    "time_grid": ("uniform", "error"),
    "density_solver": DENSITY_SOLVERS,
    "trace": ("auto", *TRACES),
    "probe_distribution": PROBE_DISTRIBUTIONS,
    "early_stopping": (True, False),
    "verbose": (True, False),
}
_MOST_DEVIATIONS = 30  # beyond which one network makes the variance of a coordinate
_COUNTS = ("max_iter", "batch_size", "n_iter_no_change", "n_steps", "n_probes")


def check_parameters(parameters: Mapping[str, Any], velocities: Collection[str]) -> None:
    """Raise unless the parameters of a posterior are of the right kind and in range.

    Parameters
    ----------
    parameters : mapping
        What ``FlowPosterior.get_params(deep=False)`` returns.
    velocities : collection of str
        Short names of velocities.

    Raises
    ------
    TypeError, ValueError
        Names the first wrong parameter, what was expected and what came.
    """
    check_architecture(parameters["architecture"])
    if parameters["task"] is not None:
        check_option("task", parameters["task"], TASKS)
    for name, choices in _CHOICES.items():
        check_option(name, parameters[name], choices)
    for name in _COUNTS:
        check_integer(name, parameters[name])
    if parameters["trace"] == "hutch++":
        # A quarter of the products finds directions; the others are probes.
        check_integer("n_probes for trace='hutch++'", parameters["n_probes"], low=4)
    check_real("learning_rate", parameters["learning_rate"], 0, strict=True)
    check_real("weight_decay", parameters["weight_decay"], 0)
    check_real("tolerance", parameters["tolerance"], 0, strict=True)
    read_noise(parameters["noise"])
    check_fraction("sigma", parameters["sigma"])
    check_fraction("ema_decay", parameters["ema_decay"])
    check_fraction("condition_dropout", parameters["condition_dropout"], zero=True)
    check_fraction("validation_fraction", parameters["validation_fraction"], zero=True)
    _check_alignment(parameters["alignment"])
    check_reducer(parameters["reducer"])
    _check_velocity(parameters["velocity"], velocities)
    _check_device(parameters["device"])


def check_fraction(name: str, value: float, *, zero: bool = False, one: bool = False) -> float:
    """Return `value`, or raise unless it lies between 0 and 1, or at an end that is allowed."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
        return float(value)
    interval = f"{'[' if zero else '('}0, 1{']' if one else ')'}"
    raise ValueError(f"{name} must be a number in {interval}, got {value!r}.")


def read_task(
    task: str | None, likelihood: float | Likelihood | None
) -> tuple[str | None, Likelihood | None]:
    """Task and likelihood as far as they are known; each says something about the other.

    Raises
    ------
    ValueError, TypeError
        If they do not fit, or `likelihood` is none.

    Examples
    --------
    >>> read_task("classification", None), read_task("regression", 0.5)
    (('classification', Categorical()), ('regression', Normal(scale=0.5)))
    """
    if likelihood is None:
        known = task == "classification"
        return task, resolve_likelihood(task, None) if known else None
    if task is None:
        task = getattr(likelihood, "task", "regression")
    return task, resolve_likelihood(task, likelihood)


def predicts(*tasks: str) -> Callable[[Any], bool]:
    """Condition under which a prediction method exists; scikit-learn shows its error as cause."""

    def check(posterior: Any) -> bool:
        architecture = getattr(posterior, "architecture_", posterior.architecture)
        task = getattr(posterior, "task_", posterior.task)
        if architecture is None or task not in tasks:
            raise AttributeError(
                f"predictions need an architecture and a task in {list(tasks)}, got "
                f"architecture={architecture!r} and task={task!r}; pass them or fit a "
                f"WeightPopulation that has them."
            )
        return True

    return check


def read_weights(
    posterior: BaseEstimator, weights: Weights, architecture: Architecture | None, *, reset: bool
) -> Tensor:
    """Networks as finite rows on the device of the posterior.

    Parameters
    ----------
    posterior : FlowPosterior
        Remembers the number of columns and their names, as scikit-learn's estimators do.
    weights : WeightPopulation, or array or Tensor of shape (n_networks, n_weights)
    architecture : Architecture or None
        That of the posterior, as far as it is known.
    reset : bool
        True in `fit`; later calls compare with what `fit` saw.

    Returns
    -------
    Tensor of shape (n_networks, n_weights)
        In `fit` float32, in which flows train; later float64, in which densities are computed.

    Raises
    ------
    ValueError
        If the population has another architecture, or rows are not finite (named by index), empty
        or of the wrong length.
    """
    if isinstance(weights, WeightPopulation):
        if architecture is not None and weights.architecture != architecture:
            raise ValueError(
                f"weights are a population of {weights.architecture!r}, but this posterior is "
                f"over {architecture!r}; one posterior holds one architecture."
            )
        weights = weights.weights
    is_tensor = isinstance(weights, Tensor)
    array = weights.numpy(force=True) if is_tensor else weights
    dtypes = [np.float64, np.float32]
    with warnings.catch_warnings():
        if is_tensor:  # which cannot have the names that are missed
            warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        rows = validate_data(posterior, array, reset=reset, dtype=dtypes, ensure_all_finite=False)
    # A copy: torch has no read-only tensors, and NumPy arrays may be read-only.
    dtype = torch.float32 if reset else torch.float64
    tensor = torch.tensor(rows, dtype=dtype, device=posterior.device)
    finite = tensor.isfinite().all(1)
    if not finite.all():
        raise ValueError(
            f"weights of networks {name_rows(~finite)} are not finite in {dtype} (NaN or inf); "
            f"drop these rows."
        )
    return tensor


def check_population(
    rows: Tensor,
    population: WeightPopulation | None,
    architecture: Architecture | None,
    geometry: str,
) -> None:
    """Raise unless a flow can be fitted to these networks; warn of what it will not model.

    Parameters
    ----------
    rows : Tensor of shape (n_networks, n_weights)
    population : WeightPopulation or None
        Where the rows are from, None for a plain array.
    architecture : Architecture or None
        What the rows mean.
    geometry : str
        That of the posterior.
    """
    if len(rows) < 2:
        raise ValueError(
            f"weights must hold at least 2 networks, got {len(rows)} sample; a flow needs a "
            f"population (see train_population)."
        )
    if (rows == rows[0]).all():
        raise ValueError(
            f"weights must differ from each other, got {len(rows)} equal rows; train the "
            f"networks from different initialisations."
        )
    if architecture is None and geometry != "euclidean":
        raise ValueError(
            f"geometry={geometry!r} needs an architecture, got architecture=None and a plain "
            f"array; pass architecture=, fit a WeightPopulation, or use geometry='euclidean'."
        )
    if architecture is not None and architecture.n_weights != rows.shape[1]:
        raise ValueError(
            f"weights must have {architecture.n_weights} columns for {architecture!r}, got "
            f"{rows.shape[1]}."
        )
    if population is not None and population.buffers:
        warnings.warn(
            f"the population has buffers {sorted(population.buffers)}, which the flow does not "
            f"model; generated networks run with those of the architecture's module.",
            stacklevel=3,
        )


def warn_of_outliers(points: Tensor, fitted: Tensor) -> None:
    """Warn of networks that are all there is to the spread of a coordinate.

    A neuron that is nearly dead has a tiny weight vector, and a bias that is huge in its units. The
    standard deviation of that coordinate is then the work of one network, all others are alike in
    it, and generated biases are as huge.

    Parameters
    ----------
    points : Tensor of shape (n_fitted, n_coordinates)
        Of the chart: Euclidean coordinates have unit variance.
    fitted : Tensor of bool, shape (n_networks,)
        Which networks they are.
    """
    outlying = torch.zeros_like(fitted)
    outlying[fitted] = points.abs().amax(1) > _MOST_DEVIATIONS
    if outlying.any():
        warnings.warn(
            f"networks {name_rows(outlying)} have a coordinate more than {_MOST_DEVIATIONS} "
            f"standard deviations from the mean, and set its scale alone (a nearly dead neuron has "
            f"a huge bias in its units); drop them, or use geometry='euclidean'.",
            stacklevel=3,
        )


def split_chains(chain: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Choose the chains that are held out from training.

    Parameters
    ----------
    chain : Tensor of shape (n_networks,)
        Trajectory of each network.
    fraction : float
        Fraction of the chains, rounded down, to hold out.
    generator : torch.Generator

    Returns
    -------
    Tensor of bool, shape (n_networks,)
        True for networks of held-out chains; chains are never cut.

    Raises
    ------
    ValueError
        If fewer than two networks are left to train on.

    Warns
    -----
    UserWarning
        If there are too few chains to hold one out.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> split_chains(torch.tensor([5, 5, 5, 8, 8, 8]), 0.5, generator).sum()
    tensor(3)
    """
    chains = chain.unique()
    n_held_out = int(fraction * len(chains))
    if n_held_out == 0 and fraction > 0:
        warnings.warn(
            f"{len(chains)} chains are too few for validation_fraction={fraction}: nothing is held "
            f"out and training does not stop early.",
            stacklevel=3,
        )
    order = torch.randperm(len(chains), generator=generator, device=generator.device)
    held_out = torch.isin(chain, chains[order[:n_held_out].to(chains.device)])
    if (~held_out).sum() < 2:
        raise ValueError(
            f"validation_fraction must leave at least 2 networks to train on, got {fraction} for "
            f"{len(chain)} networks in {len(chains)} chains; lower it or train more networks."
        )
    return held_out


def _check_alignment(alignment: Any) -> None:
    if alignment is None or alignment in METHODS:
        return
    if not (hasattr(alignment, "fit") and hasattr(alignment, "transform")):
        raise ValueError(
            f"alignment must be one of {list(METHODS)}, None, or an object with fit and transform, "
            f"got {alignment!r}."
        )


def _check_velocity(velocity: Any, names: Collection[str]) -> None:
    if isinstance(velocity, str):
        check_option("velocity", velocity, ("auto", *names))
    elif not callable(velocity):
        raise TypeError(
            f"velocity must be a name or a callable that builds a module from a VelocityProblem, "
            f"got {type(velocity).__name__}."
        )


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be a torch device of this machine, for example 'cpu', got {device!r}: "
            f"{error}"
        ) from error
