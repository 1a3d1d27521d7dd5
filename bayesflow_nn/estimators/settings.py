"""Parameters that both estimators have, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.posterior_input import check_fraction
from bayesflow_nn.weights.validation import check_integer, check_option, check_real

PRECISIONS = {"ensemble": 1e-4, "mcmc": 1.0}
"""What ``alpha="auto"`` means for each kind of population: a prior so wide that it only bounds the
weights of networks that are trained, and one that chains can be drawn from."""

AVERAGES = ("auto", "flow", "population")

MANY_INPUTS = 5000
"""Inputs beyond which ``"auto"`` halves the steps of chains, each of which evaluates them all."""

STEPS = {"n_tune": 4000, "thinning": 16}
"""What ``"auto"`` means for the steps of chains on few inputs."""

_COUNTS = {
    "n_networks": 2,
    "n_samples": 1,
    "n_chains": 1,
    "max_iter": 1,
    "batch_size": 1,
    "n_iter_no_change": 1,
}


def check_settings(parameters: Mapping[str, Any]) -> None:
    """Raise unless the parameters of an estimator are of the right kind and in range.

    Parameters
    ----------
    parameters : mapping
        What ``get_params(deep=False)`` returns.

    Raises
    ------
    TypeError, ValueError
        Names the first wrong parameter, what was expected and what came.
    """
    for name, low in _COUNTS.items():
        check_integer(name, parameters[name], low)
    for name in STEPS:
        read_steps(name, parameters[name], n_inputs=1)
    check_option("population", parameters["population"], tuple(PRECISIONS))
    check_option("average", parameters["average"], AVERAGES)
    for name in ("standardize", "early_stopping", "warm_start"):
        check_option(name, parameters[name], (True, False))
    read_precision(parameters["alpha"], parameters["population"])
    check_real("learning_rate_init", parameters["learning_rate_init"], 0, strict=True)
    check_real("tol", parameters["tol"], 0)
    check_fraction("validation_fraction", parameters["validation_fraction"])
    for name, kind in (("posterior", FlowPosterior), ("module", nn.Module)):
        value = parameters[name]
        if value is not None and not isinstance(value, kind):
            raise TypeError(
                f"{name} must be a {kind.__name__}, which is copied, or None, got "
                f"{type(value).__name__}."
            )


def read_steps(name: str, value: int | str, n_inputs: int) -> int:
    """Steps of chains that are meant.

    Parameters
    ----------
    name : {"n_tune", "thinning"}
    value : int or "auto"
    n_inputs : int

    Examples
    --------
    >>> read_steps("n_tune", "auto", 500), read_steps("n_tune", "auto", 50_000)
    (4000, 2000)
    """
    if isinstance(value, str):
        check_option(name, value, ("auto",))
        return STEPS[name] if n_inputs <= MANY_INPUTS else STEPS[name] // 2
    return check_integer(name, value, 0 if name == "n_tune" else 1)


def read_precision(alpha: float | str, population: str) -> float:
    """Precision of the prior that is meant.

    Examples
    --------
    >>> read_precision("auto", "mcmc"), read_precision(0.5, "mcmc")
    (1.0, 0.5)
    """
    if isinstance(alpha, str):
        check_option("alpha", alpha, ("auto",))
        return PRECISIONS[population]
    return check_real("alpha", alpha, 0, strict=population == "mcmc")
