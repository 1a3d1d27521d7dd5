"""Marginal distributions of single weights, of sets of networks side by side.

A weight has a meaning only modulo symmetry: compare networks that are aligned and canonical, as
`MarginalsDisplay.from_estimator` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.calibration.inputs import as_array
from bayesflow_nn.plots.inputs import check_posterior
from bayesflow_nn.plots.style import canvas, colours_of, draw_histogram, finish, legend_above
from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.training_data import spread_rows
from bayesflow_nn.weights.validation import check_integer


def weight_names(architecture: Architecture) -> list[str]:
    """Names of all weights, in the order of the flat vector.

    Parameters
    ----------
    architecture : Architecture

    Returns
    -------
    list of str, of length n_weights

    Examples
    --------
    >>> weight_names(Architecture.mlp([2, 1]))
    ['0.weight[0, 0]', '0.weight[0, 1]', '0.bias[0]']
    """
    return [
        f"{name}[{', '.join(map(str, index))}]" if shape else name
        for name, shape in zip(architecture.names, architecture.shapes, strict=True)
        for index in np.ndindex(*shape)
    ]


@dataclass(eq=False, repr=False)
class MarginalsDisplay:
    """Histograms of single weights, one panel for each.

    Make one with `from_samples` or `from_estimator`.

    Parameters
    ----------
    samples : dict from name to array of shape (n_networks, n_columns)
        Only the weights that are drawn.
    labels : list of str, of length n_columns

    Attributes
    ----------
    histograms_ : dict from name to list of matplotlib StepPatch
        Outlines, in per cent of the networks of each set.
    axes_ : array of matplotlib Axes of shape (n_columns,)
        Panels.
    ax_ : matplotlib Axes
        Their frame, which is not drawn itself.
    figure_ : matplotlib Figure
    """

    samples: dict[str, np.ndarray]
    labels: list[str]

    def plot(
        self, ax: Axes | None = None, *, n_bins: int = 30, n_panels_per_row: int = 3
    ) -> MarginalsDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Divided into panels. By default those of a new figure.
        n_bins : int
            Bins of equal width in each panel.
        n_panels_per_row : int

        Returns
        -------
        MarginalsDisplay
            Itself.

        Raises
        ------
        ValueError
            If a number is no positive integer, or `ax` is not part of a grid of subplots.
        """
        check_integer("n_bins", n_bins)
        n_columns = min(check_integer("n_panels_per_row", n_panels_per_row), len(self.labels))
        self.figure_, self.ax_ = canvas(ax)
        place = self.ax_.get_subplotspec()
        if place is None:
            raise ValueError(
                "ax must be one of a grid of subplots, which can be divided; make it with "
                "figure.subplots() or figure.add_subplot()."
            )
        self.ax_.set_axis_off()
        n_rows = -(-len(self.labels) // n_columns)
        # A layout engine makes room for labels by itself, but not for the legend, which lies in an
        # empty row above the panels.
        has_engine = self.figure_.get_layout_engine() is not None
        space = {} if has_engine else {"hspace": 0.5, "wspace": 0.3}
        heights = [0.15 if has_engine else 0.01] + n_rows * [1]
        grid = place.subgridspec(1 + n_rows, n_columns, height_ratios=heights, **space)
        self.axes_ = np.array(
            [self.figure_.add_subplot(grid[n_columns + k]) for k in range(len(self.labels))]
        )
        self.histograms_ = {name: [] for name in self.samples}
        for k, panel in enumerate(self.axes_):
            self._draw_panel(panel, k, n_bins)
            if k % n_columns == 0:
                panel.set_ylabel("% of networks", fontsize="small")
        legend_above(self.axes_[0], self.axes_[0].get_legend_handles_labels()[0], n_rows=1)
        self.axes_[0].get_legend().set_in_layout(False)  # as it is wider than its panel
        return self

    def _draw_panel(self, panel: Axes, k: int, n_bins: int) -> None:
        columns = {name: rows[:, k] for name, rows in self.samples.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(columns.values())), n_bins)
        for (name, values), colour in zip(
            columns.items(), colours_of(columns).values(), strict=True
        ):
            outline: StepPatch = draw_histogram(panel, values, edges, colour, name)
            self.histograms_[name].append(outline)
        panel.set_xlabel(self.labels[k], fontsize="small")
        panel.set_ylim(bottom=0)
        panel.locator_params(nbins=3)
        panel.tick_params(labelsize="small")
        finish(panel, legend=False)

    @classmethod
    def from_samples(
        cls,
        samples: Mapping[str, ArrayLike | Tensor],
        columns: Sequence[int] | None = None,
        *,
        labels: Sequence[str] | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> MarginalsDisplay:
        """Draw chosen columns of named sets of rows.

        Parameters
        ----------
        samples : mapping from name to array or Tensor of shape (n_networks, n_weights)
        columns : sequence of int, optional
            Weights to draw; the first six by default.
        labels : sequence of str, of length n_weights, optional
            Names of all weights, for example `weight_names`.
        ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If shapes differ or are empty, a weight to draw is not finite or not there, or `labels`
            are not one per weight.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> samples = {"training": rng.normal(size=(90, 5)), "generated": rng.normal(size=(50, 5))}
        >>> display = MarginalsDisplay.from_samples(samples, [0, 3])
        >>> [panel.get_xlabel() for panel in display.axes_]
        ['weight 0', 'weight 3']
        """
        rows = {name: as_array(values) for name, values in samples.items()}
        shapes = {values.shape[1:] for values in rows.values()}
        if len(shapes) != 1 or any(v.ndim != 2 or v.size == 0 for v in rows.values()):
            raise ValueError(
                f"samples must hold sets of shape (n_networks, n_weights) with the same weights, "
                f"got { {name: values.shape for name, values in rows.items()} }."
            )
        ((n_weights,),) = shapes
        columns = np.arange(min(6, n_weights)) if columns is None else np.asarray(columns)
        _check_columns(columns, n_weights)
        labels = [f"weight {k}" for k in range(n_weights)] if labels is None else list(labels)
        if len(labels) != n_weights:
            raise ValueError(f"labels must name all {n_weights} weights, got {len(labels)} labels.")
        chosen = {name: values[:, columns].astype(np.float64) for name, values in rows.items()}
        for name, values in chosen.items():
            if not np.isfinite(values).all():
                raise ValueError(f"samples[{name!r}] must be finite, got NaN or infinity.")
        return cls(chosen, [labels[k] for k in columns]).plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        posterior: Any,
        columns: Sequence[int] | None = None,
        *,
        n_samples: int = 1000,
        random_state: int | None = 0,
        **kwargs: Any,
    ) -> MarginalsDisplay:
        """Draw training and generated networks of a fitted posterior.

        Parameters
        ----------
        posterior : FlowPosterior
        columns : sequence of int, optional
            As in `from_samples`.
        n_samples : int
            Networks to draw, and training networks at most.
        random_state : int or None
        **kwargs
            As in `from_samples`.

        Raises
        ------
        TypeError
            If the posterior is not fitted.
        ValueError
            As `from_samples`.
        """
        check_posterior(posterior, "chart_", "training_points_", "architecture_")
        training = posterior.chart_.to_weights(spread_rows(posterior.training_points_, n_samples))
        samples = {
            "training": training,
            "generated": posterior.sample(n_samples, random_state=random_state),
        }
        if posterior.architecture_ is not None:
            kwargs.setdefault("labels", weight_names(posterior.architecture_))
        return cls.from_samples(samples, columns, **kwargs)


def _check_columns(columns: np.ndarray, n_weights: int) -> None:
    whole = columns.ndim == 1 and len(columns) and columns.dtype.kind in "iu"
    if not whole or columns.min() < 0 or columns.max() >= n_weights:
        raise ValueError(
            f"columns must be integers from 0 to {n_weights - 1}, at least one, got "
            f"{columns.tolist()}; weight_names(architecture).index(name) finds one."
        )
