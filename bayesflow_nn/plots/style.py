"""Colours and manner of all figures.

Colours are those of Okabe and Ito (2008, Color universal design), which people with any kind of
colour vision tell apart. Figures have no titles, and legends no frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import FigureBase
from matplotlib.patches import StepPatch

TRAINED, FLOW, BASELINE, UNSEEN = "#444444", "#0072b2", "#d55e00", "#009e73"
"""Trained networks and data; the flow and its networks; what they are compared with; held out."""

PALETTE = (FLOW, BASELINE, UNSEEN, "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Shapes in the order of `PALETTE`, for prints without colour."""

_KNOWN = {"training": TRAINED, "generated": FLOW, "noise": BASELINE, "held out": UNSEEN}


class Canvas(NamedTuple):
    """Where to draw."""

    figure: FigureBase
    ax: Axes


def canvas(ax: Axes | None) -> Canvas:
    """Return the given axes or new ones of pyplot, and their figure.

    Parameters
    ----------
    ax : matplotlib Axes or None

    Raises
    ------
    TypeError
        If `ax` is something else.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> canvas(ax).ax is ax
    True
    """
    if ax is None:
        return Canvas(*plt.subplots(layout="constrained"))
    if not isinstance(ax, Axes):
        raise TypeError(
            f"ax must be a matplotlib Axes or None, got {type(ax).__name__}; of an array of axes "
            f"pass one, for example axes[0]."
        )
    return Canvas(ax.figure, ax)


def finish(ax: Axes, *, legend: bool = True) -> None:
    """Leave only the axis lines that carry numbers, and show the legend."""
    ax.spines[["top", "right"]].set_visible(False)
    if legend:
        ax.legend(frameon=False, fontsize="small", title_fontsize="small", alignment="left")


def legend_above(ax: Axes, handles: Sequence[Artist], *, n_rows: int = 3) -> None:
    """Show the legend over axes that have no free place inside, in at most `n_rows` rows."""
    ax.legend(
        handles=handles,
        frameon=False,
        fontsize="small",
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.1,
        borderpad=0,
        ncols=max(2, -(-len(handles) // n_rows)),
        columnspacing=1,
    )


def next_colour(ax: Axes) -> str:
    """First colour of the palette that no line of the axes has, so that curves can be compared.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> _ = ax.plot([0, 1], color=next_colour(ax))
    >>> next_colour(ax) == PALETTE[1]
    True
    """
    used = {to_hex(line.get_color()) for line in ax.lines}
    return next((colour for colour in PALETTE if colour not in used), PALETTE[0])


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Colours of named sets of networks; "training" and "generated" look alike in all figures.

    Examples
    --------
    >>> colours_of(["training", "generated", "mine"])
    {'training': '#444444', 'generated': '#0072b2', 'mine': '#d55e00'}
    """
    names = list(names)
    taken = {_KNOWN[name] for name in names if name in _KNOWN}
    free = [colour for colour in PALETTE if colour not in taken]
    others = [name for name in names if name not in _KNOWN]
    chosen = {name: free[k % len(free)] for k, name in enumerate(others)}
    return {name: _KNOWN.get(name) or chosen[name] for name in names}


def draw_histogram(
    ax: Axes, values: np.ndarray, edges: np.ndarray, colour: str, label: str
) -> StepPatch:
    """Draw the share of the values in each bin, in per cent, and return the outline.

    Sets of different sizes can be compared, and overlap without hiding each other.
    """
    share = 100 * np.histogram(values, edges)[0] / len(values)
    ax.stairs(share, edges, fill=True, alpha=0.25, color=colour)
    return ax.stairs(share, edges, color=colour, label=label)
