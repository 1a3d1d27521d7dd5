"""Where in their predictive distributions targets fall.

The probability integral transform (PIT) of a target is the share of its predictive distribution
below it. Its histogram is flat if predictions are calibrated: with n targets the count of each of m
bins is then binomial, B(n, 1 / m), and the band holds its central 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.stats import binom
from torch import Tensor

from bayesflow_nn.calibration import PitHistogram, pit_histogram
from bayesflow_nn.calibration.inputs import as_array
from bayesflow_nn.plots.inputs import check_vector
from bayesflow_nn.plots.style import FLOW, TRAINED, canvas, finish
from bayesflow_nn.weights.validation import check_integer

_LEVEL = 0.95


@dataclass(eq=False, repr=False)
class PitDisplay:
    """Histogram of PIT values, with the band in which bins of a calibrated prediction lie.

    A U is too narrow a prediction, a hump too wide a one, a slope is biased. Make one with
    `from_values`, `from_predictions` or `from_estimator`.

    Parameters
    ----------
    histogram : PitHistogram
    name : str, optional
        In the legend.

    Attributes
    ----------
    bars_ : matplotlib BarContainer
    band_ : matplotlib Patch
        Central 95 % for each bin alone: of 20 bins about one lies outside by chance.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    histogram: PitHistogram
    name: str | None = None

    def plot(self, ax: Axes | None = None, *, name: str | None = None, **kwargs: Any) -> PitDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.
        name : str, optional
            Instead of that of the display.
        **kwargs
            For ``Axes.bar``.

        Returns
        -------
        PitDisplay
            Itself.
        """
        self.figure_, self.ax_ = canvas(ax)
        edges, count = self.histogram.edges, self.histogram.count
        n, m = count.sum(), len(count)
        name = self.name if name is None else name
        style = {"color": FLOW, "alpha": 0.6, "edgecolor": "white"}
        style["label"] = "targets" if name is None else name
        self.bars_ = self.ax_.bar(
            edges[:-1], self.histogram.density, np.diff(edges), align="edge", **style | kwargs
        )
        low, high = np.array(binom.interval(_LEVEL, n, 1 / m)) * m / n
        self.band_ = self.ax_.axhspan(
            low,
            high,
            facecolor=TRAINED,
            alpha=0.2,
            linewidth=0,
            label=f"{100 * _LEVEL:.0f} % of bins if calibrated",
        )
        self.ax_.axhline(1, color=TRAINED, linewidth=1, linestyle=":")
        self.ax_.set(
            xlim=(0, 1), xlabel="share of the prediction below the target (PIT)", ylabel="density"
        )
        # The legend needs room that bars do not leave by themselves.
        self.ax_.set_ylim(0, 1.35 * max(high, self.histogram.density.max()))
        finish(self.ax_)
        return self

    @classmethod
    def from_values(
        cls,
        pit: ArrayLike | Tensor,
        *,
        n_bins: int = 10,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> PitDisplay:
        """Draw PIT values, for example those of :func:`bayesflow_nn.calibration.pit_values`.

        Parameters
        ----------
        pit : array or Tensor of shape (n_inputs,)
            Values between 0 and 1.
        n_bins : int
        name, ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If `pit` is no vector of numbers between 0 and 1, or `n_bins` no positive integer.

        Examples
        --------
        >>> display = PitDisplay.from_values([0.1, 0.2, 0.3, 0.9], n_bins=2)
        >>> [float(bar.get_height()) for bar in display.bars_]
        [1.5, 0.5]
        """
        return cls(pit_histogram(pit, n_bins=n_bins), name).plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls, y_true: ArrayLike | Tensor, draws: ArrayLike | Tensor, **kwargs: Any
    ) -> PitDisplay:
        """Draw the ranks of targets among draws of their predictive distributions.

        Parameters
        ----------
        y_true : array or Tensor of shape (n_inputs,)
        draws : array or Tensor of shape (n_draws, n_inputs)
            All bins can hold the same number of ranks, ``(n_draws + 1) / n_bins``, only if this is
            a whole number; 999 draws suit 10 bins.
        **kwargs
            As in `from_values`.

        Raises
        ------
        ValueError
            If a shape is wrong or a target not finite.
        """
        y, draws = check_vector("y_true", y_true), as_array(draws)
        if draws.ndim != 2 or draws.shape[1] != len(y) or len(draws) == 0:
            raise ValueError(
                f"draws must have shape (n_draws, {len(y)}), one column per target, got "
                f"{draws.shape}; draw several targets of an input in figures of their own."
            )
        below = (draws < y).sum(0) + 0.5 * (draws == y).sum(0)
        return cls.from_values((below + 0.5) / (len(draws) + 1), **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        n_draws: int = 999,
        name: str | None = None,
        **kwargs: Any,
    ) -> PitDisplay:
        """Draw the ranks of targets among draws of a posterior or a regressor of this library.

        Parameters
        ----------
        estimator : object with `sample_y`
        X : array of shape (n_inputs, ...)
        y : array of shape (n_inputs,)
        n_draws : int
            Draws for each input.
        name : str, optional
            By default that of the class.
        **kwargs
            As in `from_values`.

        Raises
        ------
        ValueError
            If `n_draws` is no positive integer, or as `from_predictions`.
        """
        draws = estimator.sample_y(X, check_integer("n_draws", n_draws))
        name = type(estimator).__name__ if name is None else name
        return cls.from_predictions(y, draws, name=name, **kwargs)
