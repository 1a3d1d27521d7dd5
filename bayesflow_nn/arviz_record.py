r"""Populations and posteriors in ArviZ's terms: records, and convergence of functions.

A record holds, for networks :math:`\theta_k` and data :math:`(x_i, y_i)`, the weights by name,
the log likelihoods :math:`\log p(y_i | x_i, \theta_k)` in nats that leave-one-out cross-validation
[V17] and comparison of models need, and targets drawn from :math:`p(y | x_i, \theta_k)`.

Chains are compared by what their networks compute: permuted hidden neurons and rescaled ones are
the same function, so that weights of chains which agree need not agree.

[V17] A. Vehtari, A. Gelman and J. Gabry, Practical Bayesian model evaluation using leave-one-out
cross-validation and WAIC, Statistics and Computing 27 (2017), arXiv 1507.04544.
[V21] A. Vehtari et al., Rank-normalization, folding, and localization: an improved R-hat, Bayesian
Analysis 16 (2021), arXiv 1903.08008.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.inference_data import (
    Convergence,
    chain_rows,
    check_chains,
    convergence,
    to_inference_data,
)
from bayesflow_nn.pointwise import PointwiseModel, check_finite, drop_single_output, to_numpy
from bayesflow_nn.weights import Likelihood, WeightPopulation
from bayesflow_nn.weights.random_state import RandomState, draw_seed

if TYPE_CHECKING:
    from bayesflow_nn.inference_data import InferenceData


@dataclass(frozen=True, eq=False)
class FunctionDiagnostics:
    """How well chains of networks agree on functions.

    Attributes
    ----------
    n_chains, n_draws : int
        What was compared, after cutting chains to the shortest.
    predictions : Convergence
        Of class probabilities or regression means, arrays of shape ``(n_inputs, n_outputs)``.
    log_density : Convergence or None
        Of log p(y | x, network), arrays of shape ``(n_inputs,)``, if targets were given.
    """

    n_chains: int
    n_draws: int
    predictions: Convergence
    log_density: Convergence | None

    def __str__(self) -> str:
        lines = [
            f"{self.n_chains} chains of {self.n_draws} draws; over inputs, median (worst)",
            f"{'':20}{'R-hat':>16}{'bulk ESS':>18}{'tail ESS':>18}",
            _table_row("predictions", self.predictions),
        ]
        if self.log_density is not None:
            lines.append(_table_row("log density", self.log_density))
        return "\n".join(lines)


def population_record(
    population: WeightPopulation,
    X: ArrayLike | Tensor | None = None,
    y: ArrayLike | Tensor | None = None,
    *,
    likelihood: float | Likelihood | None = None,
    random_state: RandomState = None,
) -> InferenceData:
    """Record a population for ArviZ.

    Networks that are a chain each, an ensemble, are recorded as independent draws of one chain.

    Parameters
    ----------
    population : WeightPopulation
        Its metrics become `sample_stats`, "lp" among them the log density.
    X : array of shape (n_inputs, ...), optional
        Inputs; with them the record has predictions.
    y : array of shape (n_inputs,) or (n_inputs, n_outputs), optional
        Targets; with them the record has log likelihoods, summed over outputs.
    likelihood : Likelihood or float, optional
        By default that of the population. A float is the standard deviation of normal noise on the
        targets of a regression.
    random_state : int, RandomState or None
        Decides the drawn targets.

    Returns
    -------
    arviz.InferenceData
        Groups `posterior`, `sample_stats`, `posterior_predictive`, `log_likelihood`,
        `observed_data` and `constant_data`, each if there is something in it.

    Raises
    ------
    ValueError, TypeError
        If weights are not finite, the data do not fit, or the likelihood or the task is missing.

    Warns
    -----
    UserWarning
        If chains are of unequal length; they are cut to the shortest.

    Examples
    --------
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([1, 2])
    >>> draws = np.zeros((2, 5, mlp.n_weights))
    >>> population = WeightPopulation.from_array(draws, architecture=mlp, task="classification")
    >>> record = population_record(population, [[0.5], [1.0]], [0, 1], random_state=0)
    >>> record.log_likelihood["y"].mean().round(4).item()  # log of 1/2
    -0.6931
    """
    return _record(population, _predict(population, X, y, likelihood, random_state))


def posterior_record(
    posterior: Any,
    X: ArrayLike | Tensor | None = None,
    y: ArrayLike | Tensor | None = None,
    *,
    n_samples: int = 200,
    log_prob: bool = False,
    likelihood: float | Likelihood | None = None,
    random_state: RandomState = None,
    **sampling: Any,
) -> InferenceData:
    """Draw networks from a posterior and record them for ArviZ, as one chain of independent draws.

    Parameters not listed here, errors and groups are those of `population_record`.

    Parameters
    ----------
    posterior : FlowPosterior
        Fitted. Without an architecture the record has one parameter, "weights".
    n_samples : int
        Networks to draw.
    log_prob : bool
        Whether to record log densities, "lp" in `sample_stats`. One costs as much as dozens of
        samples.
    random_state : int, RandomState or None
        Decides networks and drawn targets. `sample_stats` says as "n_evaluations" how often the
        flow was evaluated on the way to each.
    **sampling
        More parameters of `sample`, for example ``condition="task"``.

    Returns
    -------
    arviz.InferenceData

    Examples
    --------
    >>> from bayesflow_nn import FlowPosterior
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> posterior = FlowPosterior(geometry="euclidean", max_iter=5, random_state=0).fit(x)
    >>> posterior_record(posterior, n_samples=50, random_state=0).posterior["weights"].shape
    (1, 50, 2)
    """
    if sampling.get("return_trajectory"):
        raise ValueError(
            "return_trajectory must be left out of a record, whose draws are networks at t = 1."
        )
    if sampling.get("architecture") is not None:
        raise ValueError(
            "architecture must be left out of a record, which holds networks of the posterior."
        )
    seed = draw_seed(random_state)
    architecture = posterior.architecture_
    if architecture is None and (X is not None or y is not None):
        raise ValueError(
            "X and y must be None for a posterior without an architecture, which makes no "
            "predictions; fit a WeightPopulation, or pass FlowPosterior(architecture=...)."
        )
    with _record_evaluations(posterior) as sizes:
        networks = posterior.sample(n_samples, random_state=seed, **sampling)
    if architecture is not None:
        population = WeightPopulation(
            torch.as_tensor(networks),
            architecture=architecture,
            task=posterior.task_,
            likelihood=posterior.likelihood_,
        )
        # Cheaper than densities, and may raise.
        predictions = _predict(population, X, y, likelihood, seed)
    statistics = {"n_evaluations": np.full(len(networks), sum(sizes) / len(networks))}
    if log_prob:
        statistics["lp"] = posterior.log_prob(networks, condition=sampling.get("condition"))
    if architecture is None:
        return to_inference_data({"weights": networks}, sample_stats=statistics)
    return _record(population, predictions, statistics)


def function_diagnostics(
    population: WeightPopulation,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor | None = None,
    *,
    likelihood: float | Likelihood | None = None,
) -> FunctionDiagnostics:
    """R-hat and effective sample sizes of what networks compute, per input ([V21] section 4).

    Parameters
    ----------
    population : WeightPopulation
        At least 2 chains of at least 4 draws.
    X : array of shape (n_inputs, ...)
    y : array of shape (n_inputs,) or (n_inputs, n_outputs), optional
        Targets, to compare chains by their log predictive densities as well.
    likelihood : Likelihood or float, optional
        As in `population_record`; a regression needs one with `y`.

    Returns
    -------
    FunctionDiagnostics
        ``str`` of it is a summary.

    Raises
    ------
    ValueError, TypeError
        If there are too few chains or draws, or as in `population_record`.

    Examples
    --------
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([1, 2])
    >>> draws = np.random.default_rng(0).normal(size=(4, 50, mlp.n_weights))
    >>> population = WeightPopulation.from_array(draws, architecture=mlp, task="classification")
    >>> function_diagnostics(population, [[0.5], [1.0]]).predictions.r_hat.shape
    (2, 2)
    """
    rows = chain_rows(to_numpy(population.chain), to_numpy(population.draw), len(population))
    check_chains(*rows.shape)
    model = PointwiseModel(population[rows.ravel()], X, y, likelihood, draws=False)
    predictions, log_densities = [], []
    for outputs in model:
        predictions.append(model.predictions(outputs))
        if model.y is not None:
            log_densities.append(model.log_likelihood(outputs))

    def compare(parts: list[Tensor]) -> Convergence:
        return convergence(to_numpy(torch.cat(parts).unflatten(0, rows.shape)))

    return FunctionDiagnostics(
        *rows.shape, compare(predictions), compare(log_densities) if log_densities else None
    )


@contextmanager
def _record_evaluations(posterior: Any) -> Iterator[list[int]]:
    """List the evaluations of the velocity inside a ``with``, by their numbers of networks."""
    few_step = getattr(posterior, "flow_map_", None)
    field = posterior.field_ if few_step is None else few_step.field
    sizes: list[int] = []

    def note(_: Any, inputs: tuple[Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))

    hook = field.predictor.register_forward_pre_hook(note)
    try:
        yield sizes
    finally:
        hook.remove()


def _record(
    population: WeightPopulation,
    predictions: Mapping[str, np.ndarray],
    statistics: Mapping[str, np.ndarray] | None = None,
) -> InferenceData:
    is_ensemble = population.n_chains == population.n_networks
    parameters = population.architecture.unflatten(population.weights)
    metrics = {name: to_numpy(values) for name, values in population.metrics.items()}
    return to_inference_data(
        {name: to_numpy(tensor) for name, tensor in parameters.items()},
        chain=None if is_ensemble else to_numpy(population.chain),
        draw=None if is_ensemble else to_numpy(population.draw),
        sample_stats=metrics | dict(statistics or {}),
        **predictions,
    )


def _predict(
    population: WeightPopulation,
    X: ArrayLike | Tensor | None,
    y: ArrayLike | Tensor | None,
    likelihood: float | Likelihood | None,
    random_state: RandomState,
) -> dict[str, np.ndarray]:
    """Arrays of a record that come from data; none without inputs."""
    if X is None:
        if y is not None:
            raise ValueError("X must be given with y, got None; pass the inputs of the targets.")
        check_finite("weights of networks", population.weights)
        return {}
    model = PointwiseModel(population, X, y, likelihood, draws=True)
    rng = np.random.default_rng(draw_seed(random_state))
    drawn, log_likelihood = [], []
    for outputs in model:
        drawn.append(model.draw_targets(outputs, rng))
        if model.y is not None:
            log_likelihood.append(to_numpy(model.log_likelihood(outputs)))
    arrays = {"X": to_numpy(model.X), "posterior_predictive": np.concatenate(drawn)}
    if model.y is not None:
        targets = to_numpy(model.y)
        arrays["y"] = targets if model.classifies else drop_single_output(targets)
        arrays["log_likelihood"] = np.concatenate(log_likelihood)
    return arrays


def _table_row(name: str, measured: Convergence) -> str:
    changes = ~np.isnan(measured.r_hat)
    if not changes.any():
        return f"{name:20}the same in all draws"
    r_hat, bulk, tail = (values[changes] for values in measured)
    cells = (
        f"{np.median(r_hat):.3f} ({r_hat.max():.3f})",
        *(f"{np.median(ess):.0f} ({ess.min():.0f})" for ess in (bulk, tail)),
    )
    constant = "" if changes.all() else f"  ({(~changes).sum()} the same in all draws left out)"
    return f"{name:20}{cells[0]:>16}{cells[1]:>18}{cells[2]:>18}{constant}"
