"""Six panels about networks that were generated, beside trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bayesflow_nn.demonstration.comparison import Comparison, Row
from bayesflow_nn.demonstration.findings import Findings
from bayesflow_nn.plots import (
    DiversityDisplay,
    PredictiveCurveDisplay,
    ReliabilityDisplay,
    UncertaintyHistogramDisplay,
)
from bayesflow_nn.plots.style import BASELINE, FLOW, TRAINED, draw_histogram, finish
from bayesflow_nn.predictive import network_scores


def draw_figure(
    comparison: Comparison,
    findings: Findings,
    *,
    flow_rows: dict[float, Row],
    gaussian_rows: Sequence[Row],
    title: str,
    path: Path,
) -> None:
    """Draw and save the figure.

    Parameters
    ----------
    comparison : Comparison
        With networks of temperature 1.
    findings : Findings
    flow_rows : dict from float to Row
        Of generated networks, by temperature.
    gaussian_rows : sequence of Row
        Of tempered Gaussians.
    title : str
    path : Path
        Its ending decides the format.
    """
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, 3)
    held_out = comparison.network_row("held-out trained", comparison.held_out.weights)
    _draw_frontier(axes[0, 0], held_out, flow_rows, gaussian_rows)
    _draw_single_networks(axes[0, 1], comparison)
    _draw_averages(axes[0, 2], findings)
    for (name, proba), colour in zip(findings.averages.items(), (TRAINED, FLOW), strict=True):
        ReliabilityDisplay.from_predictions(
            comparison.data.y_test, proba, n_bins=5, ax=axes[1, 0], color=colour, label=name
        )
    sure = findings.sureness["generated"]
    UncertaintyHistogramDisplay.from_scores(
        sure.uncertainty.total,
        sure.shuffled.total,
        score="entropy of the average of generated networks (nats)",
        ax=axes[1, 1],
    )
    _name_inputs(axes[1, 1])
    DiversityDisplay.from_sets(findings.diversity.frontier, ax=axes[1, 2])
    titles = (
        "Quality against dispersion",
        "Single networks",
        "Averages of more and more networks",
        "Do probabilities come true?",
        "Are strange inputs noticed?",
        "Do networks make errors of their own?",
    )
    for ax, text in zip(axes.flat, titles, strict=True):
        ax.set_title(text)
    figure.savefig(path, dpi=150)


def _draw_frontier(
    ax: Axes, held_out: Row, flow_rows: dict[float, Row], gaussian_rows: Sequence[Row]
) -> None:
    gaussian = sorted(gaussian_rows, key=lambda row: row.dispersion)
    lines = (
        (gaussian, BASELINE, "s", "tempered Gaussian"),
        (list(flow_rows.values()), FLOW, "o", "flow, at temperature T"),
    )
    for rows, colour, marker, label in lines:
        x, y = [row.dispersion for row in rows], [row.nll for row in rows]
        ax.plot(x, y, color=colour, marker=marker, markersize=5, label=label)
    losses = [row.nll for _, row in sorted(flow_rows.items())]
    cold_is_worse = losses[0] > losses[-1]  # the line rises to the left
    for temperature, row in flow_rows.items():
        ax.annotate(
            f"T = {temperature:g}",
            (row.dispersion, row.nll),
            xytext=(-3, -3 if cold_is_worse else 3),
            textcoords="offset points",
            ha="right",
            va="top" if cold_is_worse else "bottom",
            color=FLOW,
            fontsize=9,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    star = {"color": TRAINED, "marker": "*", "markersize": 13, "linestyle": ""}
    ax.plot(held_out.dispersion, held_out.nll, **star, label="held-out trained")
    ax.margins(x=0.12)
    ax.set(
        xlabel="dispersion (1: as spread out as trained networks)",
        ylabel="mean test NLL of one network (nats)",
    )
    finish(ax)


def _draw_single_networks(ax: Axes, comparison: Comparison) -> None:
    sets = {
        "held-out trained": (comparison.held_out.weights, TRAINED),
        "generated": (comparison.generated[1.0], FLOW),
    }
    architecture, data = comparison.train.architecture, comparison.data
    losses = {
        name: network_scores(architecture, weights, data.X_test, data.y_test).nll.numpy()
        for name, (weights, _) in sets.items()
    }
    edges = np.linspace(*np.quantile(np.concatenate(list(losses.values())), [0, 0.98]), 21)
    for name, (_, colour) in sets.items():
        # The few networks beyond the last edge are counted in the last bin.
        draw_histogram(ax, np.clip(losses[name], None, edges[-1]), edges, colour, name)
    ax.set(xlabel="test NLL of one network (nats)", ylabel="% of networks")
    finish(ax)


def _draw_averages(ax: Axes, findings: Findings) -> None:
    for (name, curve), colour in zip(findings.curves.items(), (TRAINED, FLOW), strict=True):
        PredictiveCurveDisplay.from_curve(curve, name=name, ax=ax, color=colour)


def _name_inputs(ax: Axes) -> None:
    names = ("test inputs", "their features shuffled")
    for text, name in zip(ax.get_legend().get_texts(), names, strict=True):
        text.set_text(name)
