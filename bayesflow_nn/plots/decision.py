"""Where a classifier of two inputs decides what, and where its networks disagree.

Shading is the uncertainty of a part, by default the epistemic one: the mutual information of class
and network, in nats (see :mod:`bayesflow_nn.predictive.uncertainty`). It is fog over places that
the data leave open. Lines are those of equal class probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.contour import QuadContourSet
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from bayesflow_nn.calibration.inputs import as_array
from bayesflow_nn.plots.inputs import class_indices, class_labels
from bayesflow_nn.plots.style import MARKERS, PALETTE, TRAINED, canvas, legend_above
from bayesflow_nn.weights.validation import check_integer, check_option, check_real

PARTS = ("epistemic", "aleatoric", "total")

_FOG = LinearSegmentedColormap.from_list("fog", ["white", "#707070"])


@dataclass(eq=False, repr=False)
class UncertaintySurfaceDisplay:
    """Class probabilities and uncertainty on a grid of two inputs.

    Make one with `from_estimator`.

    Parameters
    ----------
    xx0, xx1 : array of shape (n_rows, n_columns)
        Grid, as ``numpy.meshgrid`` returns it.
    proba : array of shape (n_rows, n_columns, n_classes)
    uncertainty : array of shape (n_rows, n_columns)
        In nats.
    part : {"epistemic", "aleatoric", "total"}
        What `uncertainty` is.
    labels : array of shape (n_classes,), optional
        Names of the classes; 0, ..., n_classes - 1 by default.

    Attributes
    ----------
    surface_ : matplotlib QuadMesh
        Shading.
    boundaries_ : list of matplotlib QuadContourSet
        For each class that wins somewhere and not everywhere: where it ties with the best other.
    contours_ : list of matplotlib QuadContourSet
        For each class with such a place: where its probability is `level`.
    colorbar_ : matplotlib Colorbar or None
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    xx0: np.ndarray
    xx1: np.ndarray
    proba: np.ndarray
    uncertainty: np.ndarray
    part: str = "epistemic"
    labels: np.ndarray | None = None

    def plot(
        self,
        ax: Axes | None = None,
        *,
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        level: float = 0.9,
        colorbar: bool = True,
        **kwargs: Any,
    ) -> UncertaintySurfaceDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.
        X : array of shape (n_points, 2), optional
            Data to draw on top.
        y : array of shape (n_points,), optional
            Their labels.
        level : float
            Class probability for which dashed lines are drawn.
        colorbar : bool
            Whether to show the scale of the shading beside the axes.
        **kwargs
            For ``Axes.pcolormesh`` of the shading, for example ``vmax=numpy.log(2)`` to compare
            figures.

        Returns
        -------
        UncertaintySurfaceDisplay
            Itself.
        """
        if not 0 < check_real("level", level, 0) < 1:
            raise ValueError(f"level must be a probability between 0 and 1, got {level!r}.")
        self.figure_, self.ax_ = canvas(ax)
        style = {"cmap": _FOG, "vmin": 0, "shading": "gouraud", "rasterized": True}
        self.surface_ = self.ax_.pcolormesh(self.xx0, self.xx1, self.uncertainty, **style | kwargs)
        self.colorbar_ = None
        if colorbar:
            label = f"{self.part} uncertainty (nats)"
            self.colorbar_ = self.figure_.colorbar(self.surface_, ax=self.ax_, label=label)
            self.colorbar_.outline.set_visible(False)
        self._draw_lines(level)
        if X is not None:
            self._draw_points(as_array(X), y)
        self.ax_.set(xlabel="$x_0$", ylabel="$x_1$")
        self._draw_legend(level)
        return self

    def _draw_lines(self, level: float) -> None:
        n_classes = self.proba.shape[-1]
        self.boundaries_, self.contours_ = [], []
        for c in range(n_classes):
            p = self.proba[..., c]
            margin = p - np.delete(self.proba, c, axis=-1).max(-1)
            if n_classes > 2 or c == 0:  # the boundary of two classes is one line
                self.boundaries_ += self._draw_line(margin, 0, TRAINED, "solid")
            self.contours_ += self._draw_line(p, level, PALETTE[c % len(PALETTE)], "dashed")

    def _draw_line(
        self, values: np.ndarray, level: float, colour: str, linestyle: str
    ) -> list[QuadContourSet]:
        if not values.min() < level < values.max():
            return []  # matplotlib warns about lines that are nowhere
        style = {"colors": colour, "linestyles": linestyle, "linewidths": 1.4}
        return [self.ax_.contour(self.xx0, self.xx1, values, levels=[level], **style)]

    def _draw_points(self, X: np.ndarray, y: ArrayLike | None) -> None:
        style = {"s": 18, "edgecolor": "white", "linewidth": 0.5, "zorder": 3}
        if y is None:
            self.ax_.scatter(*X.T, color=TRAINED, label="data", **style)
            return
        labels = class_labels(self, self.proba.shape[-1]) if self.labels is None else self.labels
        indices = class_indices(labels, y)
        for c, label in enumerate(labels):
            self.ax_.scatter(
                *X[indices == c].T,
                color=PALETTE[c % len(PALETTE)],
                marker=MARKERS[c % len(MARKERS)],
                label=f"class {label}",
                **style,
            )

    def _draw_legend(self, level: float) -> None:
        handles = self.ax_.get_legend_handles_labels()[0]
        if self.boundaries_:
            handles.append(Line2D([], [], color=TRAINED, label="boundary"))
        if self.contours_:
            handles.append(Line2D([], [], color=TRAINED, linestyle="--", label=f"p = {level:g}"))
        legend_above(self.ax_, handles)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        part: str = "epistemic",
        grid_resolution: int = 100,
        eps: float = 1.0,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> UncertaintySurfaceDisplay:
        """Evaluate a classifier on a grid around its data, and draw.

        Parameters
        ----------
        estimator : object with `predict_proba` and `uncertainty`
            The latter returns a named tuple with a field `part`, in nats.
        X : array of shape (n_points, 2)
            Data, which are drawn and say where the grid lies.
        y : array of shape (n_points,), optional
            Labels among ``estimator.classes_``; class indices if it has none.
        part : {"epistemic", "aleatoric", "total"}
            Uncertainty to shade.
        grid_resolution : int
            Points along either side of the grid.
        eps : float
            How far the grid extends beyond the data, in the units of `X`.
        ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If `X` has not two columns, a label is unknown to the estimator, or `part`,
            `grid_resolution` or `eps` are wrong.
        TypeError
            If the estimator has no `uncertainty`.
        """
        check_option("part", part, PARTS)
        n = check_integer("grid_resolution", grid_resolution, low=2)
        eps = check_real("eps", eps, 0)
        X = as_array(X)
        if X.ndim != 2 or X.shape[1] != 2 or len(X) == 0:
            raise ValueError(
                f"X must have shape (n_points, 2), got {X.shape}; of more inputs fix all but two."
            )
        if not hasattr(estimator, "uncertainty"):
            raise TypeError(
                f"estimator must have predict_proba and uncertainty, got "
                f"{type(estimator).__name__}; scikit-learn's DecisionBoundaryDisplay draws others."
            )
        sides = np.linspace(X.min(0) - eps, X.max(0) + eps, n)
        xx0, xx1 = np.meshgrid(*sides.T)
        grid = np.stack([xx0.ravel(), xx1.ravel()], 1)
        proba = as_array(estimator.predict_proba(grid)).reshape(n, n, -1)
        shade = as_array(getattr(estimator.uncertainty(grid), part)).reshape(n, n)
        labels = class_labels(estimator, proba.shape[-1])
        return cls(xx0, xx1, proba, shade, part, labels).plot(ax, X=X, y=y, **kwargs)
