"""A population as a table for notebooks."""

from __future__ import annotations

from html import escape
from typing import Any


def population_html(population: Any) -> str:
    """Write what a population is, and the means and deviations of its metrics, as an HTML table.

    Parameters
    ----------
    population : WeightPopulation

    Returns
    -------
    str

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.weights import Architecture, WeightPopulation
    >>> mlp = Architecture.mlp([2, 3])
    >>> population = WeightPopulation(torch.zeros(4, 9), architecture=mlp)
    >>> "<td>9 weights</td>" in population_html(population)
    True
    """
    n_chains = population.n_chains
    rows = {
        "architecture": repr(population.architecture),
        "size": f"{population.architecture.n_weights:,} weights",
        "networks": f"{len(population):,} in {n_chains:,} chain{'s' * (n_chains != 1)}",
        "task": population.task or "not known",
        "likelihood": "not known" if population.likelihood is None else repr(population.likelihood),
    }
    for name, values in population.metrics.items():
        values = values.double()
        rows[name] = f"{values.mean().item():.4g} ± {values.std(correction=0).item():.2g}"
    cells = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    return f"<table><caption>WeightPopulation</caption><tbody>{cells}</tbody></table>"
