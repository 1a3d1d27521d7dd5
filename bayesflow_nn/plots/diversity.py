"""Good networks that are no copies: accuracy against overlap with training networks.

    IoU(A, B) = |A and B| / |A or B|                            A, B: inputs predicted wrongly

A network whose errors are those of a training network, at an IoU of 1, is a copy of it, and one of
low accuracy is noise; new and good ones lie at the upper left ([DWF] Figure 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from bayesflow_nn.diversity import Frontier
from bayesflow_nn.plots.inputs import check_vector
from bayesflow_nn.plots.style import MARKERS, canvas, colours_of, finish


@dataclass(eq=False, repr=False)
class DiversityDisplay:
    """Accuracy of single networks against the largest overlap of their errors, set by set.

    Make one with `from_sets` or `from_estimator`.

    Parameters
    ----------
    sets : dict from name to Frontier

    Attributes
    ----------
    points_ : dict from name to matplotlib PathCollection
        One point per network.
    means_ : dict from name to matplotlib PathCollection
        One large point per set.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    sets: dict[str, Frontier]

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> DiversityDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.
        **kwargs
            For ``Axes.scatter`` of the networks.

        Returns
        -------
        DiversityDisplay
            Itself.
        """
        self.figure_, self.ax_ = canvas(ax)
        self.points_, self.means_ = {}, {}
        colours = colours_of(self.sets)
        for k, (name, networks) in enumerate(self.sets.items()):
            style = {"color": colours[name], "marker": MARKERS[k % len(MARKERS)]}
            cloud = {"s": 14, "alpha": 0.35, "linewidth": 0}
            self.points_[name] = self.ax_.scatter(*networks, **style | cloud | kwargs)
            center = [values.mean() for values in networks]
            self.means_[name] = self.ax_.scatter(
                *center, s=90, edgecolor="white", zorder=3, label=name, **style
            )
        self.ax_.set(
            xlabel="max IoU of errors with those of training networks",
            ylabel="accuracy of one network",
        )
        finish(self.ax_)
        return self

    @classmethod
    def from_sets(
        cls,
        sets: Mapping[str, tuple[ArrayLike, ArrayLike]],
        *,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> DiversityDisplay:
        """Draw named sets of networks.

        Parameters
        ----------
        sets : mapping from name to (max_iou, accuracy), arrays of shape (n_networks,)
            For example ``diversity_report(...).frontier``.
        ax, **kwargs
            As in `plot`.

        Raises
        ------
        ValueError
            If there is no set, or a set has not as many accuracies as overlaps, all finite.

        Examples
        --------
        >>> sets = {"training": ([0.5, 0.6], [0.9, 0.92]), "generated": ([0.4], [0.91])}
        >>> display = DiversityDisplay.from_sets(sets)
        >>> display.points_["generated"].get_offsets().tolist()
        [[0.4, 0.91]]
        """
        if not sets:
            raise ValueError(
                "sets must hold at least one set of networks, got none; a report without labels "
                "knows no errors."
            )
        read = {}
        for name, (max_iou, accuracy) in sets.items():
            max_iou = check_vector(f"max_iou of {name!r}", max_iou)
            accuracy = check_vector(f"accuracy of {name!r}", accuracy, len(max_iou))
            read[name] = Frontier(max_iou, accuracy)
        return cls(read).plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        posterior: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        n_samples: int = 100,
        random_state: int | None = 0,
        **kwargs: Any,
    ) -> DiversityDisplay:
        """Draw the networks of a posterior beside those that it was fitted to.

        Parameters
        ----------
        posterior : FlowPosterior
            Of classifiers.
        X : array of shape (n_inputs, ...)
        y : array of shape (n_inputs,)
            Test data, labels as class indices.
        n_samples : int
            Networks of each set.
        random_state : int or None
        **kwargs
            As in `from_sets`.

        Raises
        ------
        ValueError
            As :meth:`bayesflow_nn.FlowPosterior.diversity`.
        """
        report = posterior.diversity(X, y, n_samples=n_samples, random_state=random_state)
        return cls.from_sets(report.frontier, **kwargs)
