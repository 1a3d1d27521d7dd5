"""Sets of networks are told apart by their colours, whatever their names."""

import pytest
from matplotlib.figure import Figure

from bayesflow_nn.plots.style import MARKERS, PALETTE, colours_of, next_colour


@pytest.mark.parametrize(
    "names",
    [
        ["training", "generated", "noise", "held out"],
        ["mine", "training", "yours", "held out"],
        ["a", "b", "c", "d", "e", "f", "g"],
        ["noise", "a", "b", "c"],
    ],
)
def test_no_two_sets_share_a_colour(names):
    colours = colours_of(names)
    assert list(colours) == names
    assert len(set(colours.values())) == len(names)


def test_a_known_set_has_the_same_colour_in_any_company():
    alone = colours_of(["generated"])["generated"]
    assert colours_of(["x", "y", "generated", "z"])["generated"] == alone


def test_there_is_a_marker_for_every_colour():
    assert len(MARKERS) == len(set(MARKERS)) == len(PALETTE) == len(set(PALETTE))


def test_curves_on_the_same_axes_take_the_palette_in_turn_and_begin_again():
    ax = Figure().subplots()
    taken = []
    for _ in PALETTE:
        taken.append(next_colour(ax))
        ax.plot([0, 1], color=taken[-1])
    assert taken == list(PALETTE)
    assert next_colour(ax) == PALETTE[0]
