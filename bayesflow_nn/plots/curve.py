"""How fast averages of more and more networks become better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter
from numpy.typing import ArrayLike

from bayesflow_nn.plots.style import canvas, finish, next_colour
from bayesflow_nn.predictive import PredictiveCurve


@dataclass(eq=False, repr=False)
class PredictiveCurveDisplay:
    """Test loss of averages of networks against their number, with standard errors.

    Make one with `from_curve` or `from_estimator`.

    Parameters
    ----------
    curve : PredictiveCurve
    name : str, optional
        In the legend.

    Attributes
    ----------
    line_ : matplotlib Line2D
        Mean losses.
    band_ : matplotlib FillBetweenPolyCollection
        One standard error to both sides, at the sizes that have one.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    curve: PredictiveCurve
    name: str | None = None

    def plot(
        self, ax: Axes | None = None, *, name: str | None = None, **kwargs: Any
    ) -> PredictiveCurveDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure. Several displays may share one.
        name : str, optional
            Instead of that of the display.
        **kwargs
            For ``Axes.plot`` of the losses, for example ``color="black"``.

        Returns
        -------
        PredictiveCurveDisplay
            Itself.
        """
        self.figure_, self.ax_ = canvas(ax)
        curve = self.curve
        name = self.name if name is None else name
        style = {
            "color": next_colour(self.ax_),
            "marker": "o",
            "markersize": 4,
            "label": "networks of the posterior" if name is None else name,
        }
        (self.line_,) = self.ax_.plot(curve.sizes, curve.nll, **style | kwargs)
        known = np.isfinite(curve.standard_error)
        nll, error = curve.nll[known], curve.standard_error[known]
        self.band_ = self.ax_.fill_between(
            curve.sizes[known],
            nll - error,
            nll + error,
            color=self.line_.get_color(),
            alpha=0.2,
            linewidth=0,
        )
        self.ax_.set_xscale("log")
        self.ax_.xaxis.set_major_formatter(LogFormatter())
        self.ax_.set(xlabel="networks in the average", ylabel="test NLL of the average (nats)")
        finish(self.ax_)
        return self

    @classmethod
    def from_curve(
        cls,
        curve: PredictiveCurve,
        *,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> PredictiveCurveDisplay:
        """Draw a curve that is there.

        Parameters
        ----------
        curve : PredictiveCurve
            Of :func:`bayesflow_nn.predictive.predictive_curve`.
        name : str, optional
            In the legend.
        ax, **kwargs
            As in `plot`.

        Raises
        ------
        TypeError
            If `curve` is something else.

        Examples
        --------
        >>> curve = PredictiveCurve(np.array([1, 10]), np.array([0.3, 0.2]), np.array([0.01, 0.02]))
        >>> PredictiveCurveDisplay.from_curve(curve, name="trained").line_.get_label()
        'trained'
        """
        if not isinstance(curve, PredictiveCurve):
            raise TypeError(
                f"curve must be a PredictiveCurve, got {type(curve).__name__}; make one with "
                f"predictive_curve."
            )
        return cls(curve, name).plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        posterior: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        n_samples: int = 200,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> PredictiveCurveDisplay:
        """Draw the curve of a posterior.

        Parameters
        ----------
        posterior : FlowPosterior
        X : array of shape (n_inputs, ...)
        y : array of shape (n_inputs,) or (n_inputs, n_targets)
            Test data, labels as class indices.
        n_samples : int
            Networks, the most in an average.
        name, ax, **kwargs
            As in `from_curve`.

        Raises
        ------
        ValueError
            As :meth:`bayesflow_nn.FlowPosterior.predictive_curve`.
        """
        curve = posterior.predictive_curve(X, y, n_samples=n_samples)
        return cls.from_curve(curve, name=name, ax=ax, **kwargs)
