"""Whether predicted classes come true as often as their probabilities say.

A reliability diagram shows the accuracy of the predicted class against its probability, bin by bin
[Guo et al. 2017, On calibration of modern neural networks, Figure 1]; a calibrated prediction lies
on the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.calibration import (
    ReliabilityCurve,
    reliability_curve,
)
from bayesflow_nn.calibration.inputs import as_array
from bayesflow_nn.plots.inputs import class_indices, class_labels
from bayesflow_nn.plots.style import TRAINED, canvas, finish, next_colour

_DIAGONAL = "calibrated"


@dataclass(eq=False, repr=False)
class ReliabilityDisplay:
    """Accuracy against confidence, over bars for the share of the inputs in each bin.

    Make one with `from_predictions` or `from_estimator`.

    Parameters
    ----------
    curve : ReliabilityCurve
    name : str, optional
        In the legend, before the expected calibration error.

    Attributes
    ----------
    line_ : matplotlib Line2D
        Through the bins that are not empty.
    bars_ : matplotlib BarContainer
        Share of the inputs in each bin, on the same axis.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    curve: ReliabilityCurve
    name: str | None = None

    def plot(
        self, ax: Axes | None = None, *, name: str | None = None, **kwargs: Any
    ) -> ReliabilityDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure. Several displays may share one.
        name : str, optional
            Instead of that of the display.
        **kwargs
            For ``Axes.plot`` of the curve, for example ``color="black"``.

        Returns
        -------
        ReliabilityDisplay
            Itself.
        """
        self.figure_, self.ax_ = canvas(ax)
        curve, filled = self.curve, self.curve.count > 0
        name = self.name if name is None else name
        error = f"ECE = {curve.expected_calibration_error:.3f}"
        if _DIAGONAL not in self.ax_.get_legend_handles_labels()[1]:
            self.ax_.plot([0, 1], [0, 1], ":", color=TRAINED, linewidth=1, label=_DIAGONAL)
        style = {
            "color": next_colour(self.ax_),
            "marker": "o",
            "markersize": 5,
            "label": error if name is None else f"{name} ({error})",
        }
        (self.line_,) = self.ax_.plot(
            curve.confidence[filled], curve.accuracy[filled], **style | kwargs
        )
        self.bars_ = self.ax_.bar(
            curve.edges[:-1],
            curve.count / curve.count.sum(),
            np.diff(curve.edges),
            align="edge",
            color=self.line_.get_color(),
            alpha=0.18,
            edgecolor="white",
        )
        self.ax_.set(
            xlim=(0, 1.02),
            ylim=(0, 1.05),
            xlabel="confidence (probability of the predicted class)",
            ylabel="accuracy; bars: share of inputs",
        )
        finish(self.ax_)
        return self

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike | Tensor,
        proba: ArrayLike | Tensor,
        *,
        n_bins: int = 15,
        strategy: str = "uniform",
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> ReliabilityDisplay:
        """Draw the diagram of predicted class probabilities.

        Parameters
        ----------
        y_true : array or Tensor of shape (n_inputs,)
            Class indices 0, ..., n_classes - 1.
        proba : array or Tensor of shape (n_inputs, n_classes)
        n_bins, strategy
            As in :func:`bayesflow_nn.calibration.reliability_curve`.
        name, ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If `proba` holds no probabilities, `y_true` no class indices for them, or `n_bins` or
            `strategy` are wrong.

        Examples
        --------
        >>> proba = [[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]]
        >>> display = ReliabilityDisplay.from_predictions([0, 1, 1], proba, name="flow")
        >>> display.line_.get_label()
        'flow (ECE = 0.367)'
        """
        curve = reliability_curve(proba, y_true, n_bins=n_bins, strategy=strategy)
        return cls(curve, name).plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike, y: ArrayLike, *, name: str | None = None, **kwargs: Any
    ) -> ReliabilityDisplay:
        """Draw the diagram of a fitted classifier, of this library or of scikit-learn.

        Parameters
        ----------
        estimator : object with `predict_proba`
        X : array of shape (n_inputs, ...)
        y : array of shape (n_inputs,)
            Labels among ``estimator.classes_``; class indices if it has none.
        name : str, optional
            By default that of the class.
        **kwargs
            As in `from_predictions`.

        Raises
        ------
        ValueError
            If a label is unknown to the estimator, or as `from_predictions`.
        """
        proba = as_array(estimator.predict_proba(X))
        indices = class_indices(class_labels(estimator, proba.shape[1]), y)
        name = type(estimator).__name__ if name is None else name
        return cls.from_predictions(indices, proba, name=name, **kwargs)
