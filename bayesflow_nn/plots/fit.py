"""How the fit of a flow went: its losses, and the way from noise to networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from torch import Tensor

from bayesflow_nn.calibration.inputs import as_array
from bayesflow_nn.flow.regression import TrainingHistory
from bayesflow_nn.plots.inputs import check_posterior, check_vector
from bayesflow_nn.plots.style import BASELINE, FLOW, TRAINED, canvas, finish, next_colour
from bayesflow_nn.weights.training_data import spread_rows


@dataclass(eq=False, repr=False)
class LossCurveDisplay:
    """Training loss and loss on held-out chains, and the iteration whose model was kept.

    Make one with `from_estimator`.

    Parameters
    ----------
    history : TrainingHistory
    name : str, optional
        In the legend.

    Attributes
    ----------
    training_line_ : matplotlib Line2D
    validation_line_ : matplotlib Line2D or None
        None if no chains were held out.
    kept_line_ : matplotlib Line2D
        Upright, at the iteration that was kept; 0 is the start.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    history: TrainingHistory
    name: str | None = None

    def plot(
        self, ax: Axes | None = None, *, name: str | None = None, **kwargs: Any
    ) -> LossCurveDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure. Several displays may share one.
        name : str, optional
            Instead of that of the display.
        **kwargs
            For ``Axes.plot`` of both curves.

        Returns
        -------
        LossCurveDisplay
            Itself.
        """
        self.figure_, self.ax_ = canvas(ax)
        history, name = self.history, self.name if name is None else name
        prefix = "" if name is None else f"{name}: "
        style = {"color": next_colour(self.ax_)} | kwargs
        (self.training_line_,) = self.ax_.plot(
            history.iterations,
            history.training_loss,
            **{"linestyle": "--", "linewidth": 1, "label": f"{prefix}training"} | style,
        )
        self.validation_line_ = None
        if np.isfinite(history.validation_loss).any():
            (self.validation_line_,) = self.ax_.plot(
                history.iterations,
                history.validation_loss,
                **{"marker": "o", "markersize": 4, "label": f"{prefix}held-out chains"} | style,
            )
        best = history.best_iteration
        self.kept_line_ = self.ax_.axvline(
            best,
            color=self.training_line_.get_color(),
            linestyle=":",
            label=f"{prefix}kept (iteration {best})" if best else f"{prefix}kept (the start)",
        )
        self.ax_.set(xlabel="iteration", ylabel="flow-matching loss per coordinate")
        finish(self.ax_)
        return self

    @classmethod
    def from_estimator(
        cls, posterior: Any, *, name: str | None = None, ax: Axes | None = None, **kwargs: Any
    ) -> LossCurveDisplay:
        """Draw the losses of a fitted posterior.

        Parameters
        ----------
        posterior : FlowPosterior
        name, ax, **kwargs
            As in `plot`.

        Raises
        ------
        TypeError
            If the posterior is not fitted.

        Examples
        --------
        >>> from bayesflow_nn import FlowPosterior
        >>> x = np.random.default_rng(0).normal(size=(100, 2))
        >>> posterior = FlowPosterior(geometry="euclidean", max_iter=50, random_state=0).fit(x)
        >>> display = LossCurveDisplay.from_estimator(posterior)
        >>> len(display.validation_line_.get_xdata()) == len(posterior.history_.iterations)
        True
        """
        check_posterior(posterior, "history_")
        return cls(posterior.history_, name).plot(ax, **kwargs)


@dataclass(eq=False, repr=False)
class TrajectoryDisplay:
    """Paths of networks from noise, t = 0, to samples, t = 1, in two principal components.

    Make one with `from_trajectory` or `from_estimator`.

    Parameters
    ----------
    times : array of shape (n_times,)
    paths : array of shape (n_times, n_samples, 2)
    explained : array of shape (2,)
        Shares of the variance in which the components were found.
    training : array of shape (n_training, 2), optional

    Attributes
    ----------
    paths_ : matplotlib LineCollection
    source_, samples_ : matplotlib PathCollection
        Both ends.
    training_ : matplotlib PathCollection or None
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    times: np.ndarray
    paths: np.ndarray
    explained: np.ndarray
    training: np.ndarray | None = None

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> TrajectoryDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.
        **kwargs
            For ``matplotlib.collections.LineCollection`` of the paths.

        Returns
        -------
        TrajectoryDisplay
            Itself.
        """
        self.figure_, self.ax_ = canvas(ax)
        self.training_ = None
        if self.training is not None:
            dots = {"s": 8, "color": TRAINED, "alpha": 0.3, "linewidth": 0}
            self.training_ = self.ax_.scatter(*self.training.T, label="training networks", **dots)
        style = {"colors": FLOW, "linewidths": 0.7, "alpha": 0.5}
        lines = LineCollection(list(self.paths.transpose(1, 0, 2)), **style | kwargs)
        self.paths_ = self.ax_.add_collection(lines)
        start, end = (f"t = {time:g}" for time in self.times[[0, -1]])
        self.source_ = self.ax_.scatter(
            *self.paths[0].T,
            s=16,
            facecolor="white",
            edgecolor=BASELINE,
            zorder=3,
            label=f"source ({start})",
        )
        self.samples_ = self.ax_.scatter(
            *self.paths[-1].T, s=16, color=FLOW, linewidth=0, zorder=3, label=f"samples ({end})"
        )
        shares = 100 * self.explained
        names = [f"component {k + 1} ({shares[k]:.0f} % of variance)" for k in range(2)]
        self.ax_.set(xlabel=names[0], ylabel=names[1])
        finish(self.ax_)
        return self

    @classmethod
    def from_trajectory(
        cls,
        times: ArrayLike | Tensor,
        weights: ArrayLike | Tensor,
        training_weights: ArrayLike | Tensor | None = None,
        *,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> TrajectoryDisplay:
        """Draw what ``posterior.sample(n, return_trajectory=True)`` returned.

        Parameters
        ----------
        times : array or Tensor of shape (n_times,)
        weights : array or Tensor of shape (n_times, n_samples, n_weights)
        training_weights : array or Tensor of shape (n_training, n_weights), optional
            Aligned and canonical, as samples are:
            ``posterior.chart_.to_weights(posterior.training_points_)``. Components are those of
            these weights, else those of the samples.
        ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If a shape is wrong, a weight not finite, or there are fewer than two weights, or
            fewer than two networks to find components in.
        """
        times, weights = check_vector("times", times), as_array(weights)
        if weights.ndim != 3 or len(weights) != len(times) or weights.shape[2] < 2:
            raise ValueError(
                f"weights must have shape ({len(times)}, n_samples, n_weights) with at least two "
                f"weights, got {weights.shape}."
            )
        known = weights[-1] if training_weights is None else as_array(training_weights)
        if known.ndim != 2 or len(known) < 2 or known.shape[1] != weights.shape[2]:
            raise ValueError(
                f"training_weights must have shape (n_training, {weights.shape[2]}) with at least "
                f"two networks, got {known.shape}; without them there must be two samples."
            )
        pca = PCA(2, random_state=0).fit(known)
        paths = pca.transform(weights.reshape(-1, weights.shape[2])).reshape(*weights.shape[:2], 2)
        training = None if training_weights is None else pca.transform(known)
        return cls(times, paths, pca.explained_variance_ratio_, training).plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        posterior: Any,
        *,
        n_samples: int = 50,
        n_training: int = 1000,
        random_state: int | None = 0,
        **kwargs: Any,
    ) -> TrajectoryDisplay:
        """Draw paths along the flow of a fitted posterior, from fresh source points.

        Parameters
        ----------
        posterior : FlowPosterior
        n_samples : int
            Paths, of which all points are in memory: ``n_steps * n_samples * n_weights`` numbers.
        n_training : int
            Training networks at most.
        random_state : int or None
        **kwargs
            As in `from_trajectory`.

        Raises
        ------
        TypeError
            If the posterior is not fitted.
        """
        check_posterior(posterior, "chart_", "training_points_")
        trajectory = posterior.sample(
            n_samples, random_state=random_state, noise=0, return_trajectory=True
        )
        training = posterior.chart_.to_weights(spread_rows(posterior.training_points_, n_training))
        return cls.from_trajectory(trajectory.times, trajectory.weights, training, **kwargs)
