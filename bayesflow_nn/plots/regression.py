"""What a regression of one input predicts, how sure it is, and why it is not.

    Var y = aleatoric + epistemic           (see :mod:`bayesflow_nn.predictive.mixture`)

The outer band holds new targets, noise included; the inner one, the networks' own means, grows
where there are no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.calibration.inputs import as_array, check_fractions
from bayesflow_nn.plots.inputs import check_vector
from bayesflow_nn.plots.style import FLOW, TRAINED, canvas, finish
from bayesflow_nn.weights.validation import check_real


class Band(NamedTuple):
    """Lower and upper ends ``(n_inputs,)`` each, in the units of y, and what they hold."""

    lower: np.ndarray
    upper: np.ndarray
    label: str


@dataclass(eq=False, repr=False)
class PredictiveBandDisplay:
    """Predicted targets over one input, with bands and training data.

    Make one with `from_predictions`, `from_quantiles` or `from_estimator`.

    Parameters
    ----------
    x : array of shape (n_inputs,)
        In any order.
    center : array of shape (n_inputs,)
        Mean or median.
    bands : tuple of Band
        The widest first.
    label : str
        What `center` is.
    x_train, y_train : array of shape (n_training,), optional

    Attributes
    ----------
    line_ : matplotlib Line2D
    bands_ : list of matplotlib PolyCollection
    points_ : matplotlib PathCollection or None
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    x: np.ndarray
    center: np.ndarray
    bands: tuple[Band, ...]
    label: str = "mean"
    x_train: np.ndarray | None = None
    y_train: np.ndarray | None = None

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> PredictiveBandDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.
        **kwargs
            For ``Axes.plot`` of the line; bands take its colour.

        Returns
        -------
        PredictiveBandDisplay
            Itself.
        """
        self.figure_, self.ax_ = canvas(ax)
        order = np.argsort(self.x, kind="stable")
        x = self.x[order]
        style = {"color": FLOW, "label": self.label}
        (self.line_,) = self.ax_.plot(x, self.center[order], **style | kwargs)
        self.bands_ = [
            self.ax_.fill_between(
                x,
                band.lower[order],
                band.upper[order],
                color=self.line_.get_color(),
                alpha=0.2 + 0.4 * k / len(self.bands),  # an inner band is darker in the legend too
                linewidth=0,
                label=band.label,
            )
            for k, band in enumerate(self.bands)
        ]
        self.points_ = None
        if self.x_train is not None:
            self.points_ = self.ax_.scatter(
                self.x_train, self.y_train, s=12, color=TRAINED, linewidth=0, label="training data"
            )
        self.ax_.set(xlabel="input x", ylabel="target y")
        finish(self.ax_)
        return self

    @classmethod
    def from_predictions(
        cls,
        x: ArrayLike | Tensor,
        mean: ArrayLike | Tensor,
        std: ArrayLike | Tensor,
        *,
        epistemic_std: ArrayLike | Tensor | None = None,
        n_std: float = 2.0,
        x_train: ArrayLike | Tensor | None = None,
        y_train: ArrayLike | Tensor | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> PredictiveBandDisplay:
        """Draw means, with bands of some standard deviations around them.

        Parameters
        ----------
        x : array or Tensor of shape (n_inputs,) or (n_inputs, 1)
        mean, std : array or Tensor of shape (n_inputs,) or (n_inputs, 1)
            Of new targets, noise included, for example what
            ``estimator.predict(X, return_std=True)`` returns.
        epistemic_std : array or Tensor of shape (n_inputs,) or (n_inputs, 1), optional
            Of the networks' means.
        n_std : float
            Half width of the bands, in standard deviations.
        x_train, y_train : array or Tensor of shape (n_training,) or (n_training, 1), optional
        ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If a shape is wrong, a number not finite, a standard deviation negative, or only one of
            `x_train` and `y_train` given.

        Examples
        --------
        >>> display = PredictiveBandDisplay.from_predictions([0, 1], [1.0, 2.0], [0.1, 0.2])
        >>> display.bands[0].upper
        array([1.2, 2.4])
        """
        n_std = check_real("n_std", n_std, 0, strict=True)
        x = check_vector("x", x)
        mean = check_vector("mean", mean, len(x))
        bands = [_band("std", mean, std, n_std, f"± {n_std:g} std of targets")]
        if epistemic_std is not None:
            label = f"± {n_std:g} std of networks"
            bands.append(_band("epistemic_std", mean, epistemic_std, n_std, label))
        data = _check_data(x_train, y_train)
        return cls(x, mean, tuple(bands), "mean", *data).plot(ax, **kwargs)

    @classmethod
    def from_quantiles(
        cls,
        x: ArrayLike | Tensor,
        quantiles: ArrayLike | Tensor,
        levels: ArrayLike = (0.05, 0.5, 0.95),
        *,
        x_train: ArrayLike | Tensor | None = None,
        y_train: ArrayLike | Tensor | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> PredictiveBandDisplay:
        """Draw the middle quantile, with a band between each two others.

        Parameters
        ----------
        x : array or Tensor of shape (n_inputs,) or (n_inputs, 1)
        quantiles : array or Tensor of shape (n_inputs, n_levels)
            Of new targets, as ``predict_quantiles(X, levels)`` returns them.
        levels : array of shape (n_levels,)
            Their probabilities, ascending, and of an odd number.
        x_train, y_train : array or Tensor of shape (n_training,) or (n_training, 1), optional
        ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If `levels` are no ascending probabilities of an odd number, or a shape is wrong.

        Examples
        --------
        >>> display = PredictiveBandDisplay.from_quantiles([0, 1], [[-1, 0, 1], [0, 1, 3]])
        >>> display.bands[0].label, display.bands[0].upper
        ('5 % to 95 % of targets', array([1., 3.]))
        """
        x, levels = check_vector("x", x), check_fractions("levels", levels)
        n = len(levels) if levels.ndim == 1 else 0
        if n % 2 == 0 or (np.diff(levels) <= 0).any():
            raise ValueError(
                f"levels must be ascending probabilities of an odd number, the middle one for the "
                f"line, got {levels.tolist()}."
            )
        columns = as_array(quantiles)
        if columns.shape != (len(x), n):
            raise ValueError(
                f"quantiles must have shape ({len(x)}, {n}), inputs by levels, got "
                f"{columns.shape}; of several targets pass one."
            )
        columns = [check_vector("quantiles", column) for column in columns.T]
        names = [f"{100 * level:g} %" for level in levels]
        bands = tuple(
            Band(columns[k], columns[-1 - k], f"{names[k]} to {names[-1 - k]} of targets")
            for k in range(n // 2)
        )
        label = "median" if levels[n // 2] == 0.5 else f"{names[n // 2]} quantile"
        data = _check_data(x_train, y_train)
        return cls(x, columns[n // 2], bands, label, *data).plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        x: ArrayLike,
        *,
        sampling: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> PredictiveBandDisplay:
        """Draw what a posterior or a regressor of this library predicts, and both its bands.

        Parameters
        ----------
        estimator : object with `predict_moments`
            Of one input and one target.
        x : array of shape (n_inputs,) or (n_inputs, 1)
            For example a fine grid that extends beyond the data.
        sampling : mapping, optional
            Parameters of :meth:`bayesflow_nn.FlowPosterior.predict_moments`, for example
            ``{"n_samples": 200}``; for a posterior.
        **kwargs
            As in `from_predictions`.

        Raises
        ------
        ValueError
            As `from_predictions`; for several targets as well.
        """
        x = check_vector("x", x)
        moments = estimator.predict_moments(x[:, None], **sampling or {})
        return cls.from_predictions(
            x, moments.mean, moments.std, epistemic_std=moments.epistemic_std, **kwargs
        )


def _band(name: str, mean: np.ndarray, std: ArrayLike | Tensor, n_std: float, label: str) -> Band:
    std = check_vector(name, std, len(mean))
    if (std < 0).any():
        raise ValueError(f"{name} must not be negative, got {std.min():g}; is it a logarithm?")
    return Band(mean - n_std * std, mean + n_std * std, label)


def _check_data(
    x_train: ArrayLike | Tensor | None, y_train: ArrayLike | Tensor | None
) -> tuple[np.ndarray, np.ndarray] | tuple[()]:
    if x_train is None and y_train is None:
        return ()
    if x_train is None or y_train is None:
        missing = "x_train" if x_train is None else "y_train"
        raise ValueError(f"x_train and y_train must be given together, got {missing}=None.")
    x = check_vector("x_train", x_train)
    return x, check_vector("y_train", y_train, len(x))
