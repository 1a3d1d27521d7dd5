"""How far a score tells unusual inputs from usual ones: both histograms, and the AUROC.

The AUROC is the probability that an unusual input has the larger score, with ties counted half
(see :mod:`bayesflow_nn.predictive.out_of_distribution`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.calibration.inputs import as_array
from bayesflow_nn.plots.decision import PARTS
from bayesflow_nn.plots.style import BASELINE, TRAINED, canvas, draw_histogram, finish
from bayesflow_nn.predictive import detection
from bayesflow_nn.weights.validation import check_integer, check_option


@dataclass(eq=False, repr=False)
class UncertaintyHistogramDisplay:
    """Scores of inputs from inside and from outside the distribution of the training data.

    Make one with `from_scores` or `from_estimator`.

    Parameters
    ----------
    inside, outside : array of shape (n_inside,) and (n_outside,)
    auroc : float
    score : str
        Label of the axis, with units.
    name : str, optional
        Of the model, in the legend.

    Attributes
    ----------
    inside_, outside_ : matplotlib StepPatch
        Outlines of the histograms, in per cent of the inputs of each kind.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    inside: np.ndarray
    outside: np.ndarray
    auroc: float
    score: str = "uncertainty (nats)"
    name: str | None = None

    def plot(
        self, ax: Axes | None = None, *, n_bins: int = 30, name: str | None = None
    ) -> UncertaintyHistogramDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.
        n_bins : int
            Bins of equal width over all scores.
        name : str, optional
            Instead of that of the display.

        Returns
        -------
        UncertaintyHistogramDisplay
            Itself.
        """
        self.figure_, self.ax_ = canvas(ax)
        edges = np.histogram_bin_edges(
            np.concatenate([self.inside, self.outside]), check_integer("n_bins", n_bins)
        )
        kinds = (self.inside, TRAINED, "in distribution"), (self.outside, BASELINE, "out of it")
        self.inside_, self.outside_ = (
            draw_histogram(self.ax_, scores, edges, *style) for scores, *style in kinds
        )
        self.ax_.set(xlabel=self.score, ylabel="% of inputs", ylim=(0, None))
        finish(self.ax_)
        name = self.name if name is None else name
        auroc = f"AUROC = {self.auroc:.3f}"
        self.ax_.get_legend().set_title(auroc if name is None else f"{name} ({auroc})")
        return self

    @classmethod
    def from_scores(
        cls,
        inside: ArrayLike | Tensor,
        outside: ArrayLike | Tensor,
        *,
        score: str = "uncertainty (nats)",
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> UncertaintyHistogramDisplay:
        """Draw scores of any kind, of which larger ones are more unusual.

        Parameters
        ----------
        inside, outside : array or Tensor of shape (n_inside,) and (n_outside,)
        score : str
            Label of the axis, with units.
        name : str, optional
            Of the model, in the legend.
        ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If either is no vector of at least one finite score.

        Examples
        --------
        >>> display = UncertaintyHistogramDisplay.from_scores([0.1, 0.2, 0.6], [0.5, 0.7, 0.9])
        >>> display.ax_.get_legend().get_title().get_text()
        'AUROC = 0.889'
        """
        auroc = detection(inside, outside).auroc
        scores = (as_array(values).astype(np.float64) for values in (inside, outside))
        return cls(*scores, auroc, score, name).plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X_inside: ArrayLike,
        X_outside: ArrayLike,
        *,
        part: str = "epistemic",
        name: str | None = None,
        **kwargs: Any,
    ) -> UncertaintyHistogramDisplay:
        """Draw the uncertainty of a classifier of this library at usual and unusual inputs.

        Parameters
        ----------
        estimator : object with `uncertainty`
            It returns a named tuple with a field `part`, in nats.
        X_inside, X_outside : array of shape (n_inside, ...) and (n_outside, ...)
        part : {"epistemic", "aleatoric", "total"}
        name : str, optional
            By default that of the class.
        **kwargs
            As in `from_scores`.

        Raises
        ------
        ValueError
            If `part` is unknown, or as `from_scores`.
        """
        check_option("part", part, PARTS)
        scores = (getattr(estimator.uncertainty(X), part) for X in (X_inside, X_outside))
        name = type(estimator).__name__ if name is None else name
        return cls.from_scores(*scores, score=f"{part} uncertainty (nats)", name=name, **kwargs)
