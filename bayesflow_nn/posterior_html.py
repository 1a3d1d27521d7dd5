"""What a fit found, as a table for notebooks, beside scikit-learn's diagram of the parameters."""

from __future__ import annotations

from html import escape
from typing import Any

from bayesflow_nn.flow.regression import TrainingHistory


def posterior_html(posterior: Any) -> str:
    """Write the facts of a fit as an HTML table.

    Parameters
    ----------
    posterior : FlowPosterior

    Returns
    -------
    str
        Empty before the fit.

    Examples
    --------
    >>> import numpy as np
    >>> from bayesflow_nn import FlowPosterior
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> posterior = FlowPosterior(geometry="euclidean", max_iter=5, random_state=0)
    >>> posterior_html(posterior)
    ''
    >>> "<td>90, and 10 held out</td>" in posterior_html(posterior.fit(x))
    True
    """
    if not hasattr(posterior, "history_"):
        return ""
    n_coordinates = posterior.training_points_.shape[1]
    held_out = posterior.held_out_points_
    n_held_out = 0 if held_out is None else len(held_out)
    rows = {
        "networks": f"{len(posterior.training_points_):,}, and {n_held_out:,} held out",
        "architecture": _known(posterior.architecture_),
        "task": posterior.task_ or "not known",
        "likelihood": _known(posterior.likelihood_),
        "flow": f"{posterior.n_features_in_:,} weights as {n_coordinates:,} coordinates, "
        f"{posterior.geometry}",
        "kept": _kept(posterior.history_),
    }
    if posterior.flow_map_ is not None:
        rows["sampling"] = f"distilled, evaluations per network: {posterior.flow_map_.n_steps}"
    cells = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    name = escape(type(posterior).__name__)
    return f"<table><caption>{name}, fitted</caption><tbody>{cells}</tbody></table>"


def _known(value: Any) -> str:
    return "not known" if value is None else repr(value)


def _kept(history: TrainingHistory) -> str:
    """Which model was kept, and its loss where one was measured."""
    best = history.best_iteration
    if best == 0:
        return "the start, the Gaussian flow: no step lowered the held-out loss"
    text = f"iteration {best:,} of {history.iterations[-1]:,}"
    loss = dict(zip(history.iterations, history.validation_loss, strict=True))[best]
    # Without held-out chains the loss is NaN, which equals nothing.
    return f"{text}, held-out loss {loss:.4g} per coordinate" if loss == loss else text
