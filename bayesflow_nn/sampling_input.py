"""What `FlowPosterior.sample` accepts for the way from noise to networks, checked beforehand."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

from bayesflow_nn.flow import Guidance, Noise, Refresh, StepNoise
from bayesflow_nn.weights.validation import check_real


def read_noise(noise: float | Noise | None, temperature: float = 1.0) -> Noise | None:
    """Noise on the way; a number is the rate of a `Refresh`, 0 and None are none.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    if noise is None or isinstance(noise, StepNoise):
        return noise
    if isinstance(noise, numbers.Real) and not isinstance(noise, bool):
        check_real("noise", noise, 0)
        noise = Refresh(float(noise)) if noise else None
    elif not isinstance(noise, Refresh):
        raise TypeError(
            f"noise must be a number, the rate at which noise is drawn anew, StepNoise(scale) or "
            f"Refresh(rate), got {noise!r}; noise=0 follows the flow."
        )
    return noise and dataclasses.replace(noise, temperature=temperature)


def check_sampling(solver: str, noise: Any, guidance: Any) -> None:
    """Raise unless noise and guidance are of the right kind and go with the solver."""
    if read_noise(noise) is not None and solver == "dopri5":
        raise ValueError(
            "solver must take fixed steps with noise, got 'dopri5'; use 'midpoint' or 'euler'."
        )
    if guidance is None:
        return
    if not isinstance(guidance, Guidance):
        raise TypeError(
            f"guidance must be TaskGuidance(X, y), Guidance(objective) or None, got "
            f"{type(guidance).__name__}."
        )
    if guidance.source_steps and solver == "dopri5":
        raise ValueError(
            "solver must take fixed steps for source_steps, which are differentiated through them, "
            "got 'dopri5'; use 'midpoint' or 'euler'."
        )


def check_few_step(
    solver: str | None,
    n_steps: int | None,
    noise: Any,
    guidance: Guidance | None,
    return_trajectory: bool,
) -> None:
    """Raise if a distilled posterior is asked for what only a solver can do."""
    given = {"solver": solver, "n_steps": n_steps, "noise": noise}
    given["return_trajectory"] = return_trajectory or None
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} must be left out for a distilled posterior, whose map replaces the "
                f"solver, got {value!r}; sample from the posterior that was distilled."
            )
    check_sampling("map", noise, guidance)
    if guidance is not None and guidance.strength:
        raise ValueError(
            f"guidance must have strength=0 for a distilled posterior, whose map has no way to act "
            f"on, got {guidance.strength:g}; finish_steps and source_steps can guide it."
        )
