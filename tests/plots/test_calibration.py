"""Reliability in bins of equal mass, ranks of targets among draws, and the binomial band."""

from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from bayesflow_nn.plots import PitDisplay, ReliabilityDisplay

RNG = np.random.default_rng(0)
PROBA = RNG.dirichlet([1.0, 1.0, 1.0], 60)
LABELS = RNG.integers(0, 3, 60)

REGRESSOR = SimpleNamespace(sample_y=lambda X, n_draws: np.zeros((n_draws, 1)))


def heights(display):
    return [bar.get_height() for bar in display.bars_]


def test_bins_of_equal_mass_lie_between_quantiles_of_the_confidence():
    display = ReliabilityDisplay.from_predictions(LABELS, PROBA, n_bins=4, strategy="quantile")
    edges = np.quantile(PROBA.max(1), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose([bar.get_x() for bar in display.bars_], edges[:-1])
    np.testing.assert_allclose([bar.get_width() for bar in display.bars_], np.diff(edges))
    np.testing.assert_allclose(heights(display), 0.25)


def test_empty_bins_have_no_point():
    proba = [[0.9, 0.1], [0.2, 0.8], [0.45, 0.55]]
    display = ReliabilityDisplay.from_predictions([0, 0, 1], proba, n_bins=10)
    # Bins are closed above: .8 lies in (.7, .8], .9 in (.8, .9].
    np.testing.assert_allclose(display.line_.get_xydata(), [[0.55, 1], [0.8, 0], [0.9, 1]])
    np.testing.assert_allclose(heights(display), np.array([0, 0, 0, 0, 0, 1, 0, 1, 1, 0]) / 3)


def test_a_classifier_of_scikit_learn_is_drawn_by_its_labels():
    X, y = RNG.normal(size=(60, 2)), np.array(["no", "yes", "maybe"])[LABELS]
    classifier = LogisticRegression().fit(X, y)
    display = ReliabilityDisplay.from_estimator(classifier, X, y, n_bins=5)
    indices = np.searchsorted(["maybe", "no", "yes"], y)
    same = ReliabilityDisplay.from_predictions(indices, classifier.predict_proba(X), n_bins=5)
    assert np.array_equal(display.line_.get_xydata(), same.line_.get_xydata())
    assert heights(display) == heights(same)
    assert display.line_.get_label() == f"LogisticRegression ({same.line_.get_label()})"


def test_two_models_on_the_same_axes_differ_in_colour_and_share_the_diagonal():
    ax = Figure().subplots()
    first = ReliabilityDisplay.from_predictions(LABELS, PROBA, name="one", ax=ax)
    second = ReliabilityDisplay.from_predictions(LABELS, PROBA, name="two", ax=ax)
    assert first.line_.get_color() != second.line_.get_color()
    assert len(ax.lines) == 3
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [label.split(" ")[0] for label in labels] == ["calibrated", "one", "two"]


def test_a_colour_and_a_name_of_ones_own_are_used():
    display = ReliabilityDisplay.from_predictions(LABELS, PROBA, name="flow", color="black")
    assert display.line_.get_color() == "black"
    again = display.plot(name="mine")
    assert again.line_.get_label().startswith("mine (ECE")


def test_an_unknown_label_is_named():
    classifier = SimpleNamespace(predict_proba=lambda X: PROBA, classes_=np.array([3, 5, 7]))
    with pytest.raises(ValueError, match=r"previously unseen labels: .*4"):
        ReliabilityDisplay.from_estimator(classifier, None, np.full(60, 4))


def test_ranks_of_targets_count_the_draws_below_and_half_of_those_that_tie():
    draws = RNG.integers(0, 6, (9, 40)).astype(float)
    y = RNG.integers(0, 6, 40).astype(float)
    pit = []
    for i in range(40):
        rank = 0.0
        for draw in draws[:, i]:
            rank += 1 if draw < y[i] else 0.5 if draw == y[i] else 0
        pit.append((rank + 0.5) / 10)
    # Multiples of 1 / 20 never lie on an edge of three bins.
    display = PitDisplay.from_predictions(y, draws, n_bins=3)
    counts = [sum(k / 3 < p < (k + 1) / 3 for p in pit) for k in range(3)]
    np.testing.assert_allclose(heights(display), np.array(counts) * 3 / 40)


def test_all_bins_can_hold_the_same_number_of_ranks():
    # Every rank from 0 to 19 once, in ten bins.
    draws = np.tile(np.arange(19.0)[:, None], 20)
    display = PitDisplay.from_predictions(np.arange(20) - 0.5, draws, n_bins=10)
    assert heights(display) == [1.0] * 10


def test_a_regressor_is_drawn_as_its_draws():
    y = RNG.normal(size=30)

    def sample_y(X, n_draws):
        return np.random.default_rng(1).normal(X[:, 0], size=(n_draws, len(X)))

    X = RNG.normal(size=(30, 1))
    regressor = SimpleNamespace(sample_y=sample_y)
    display = PitDisplay.from_estimator(regressor, X, y, n_draws=99)
    same = PitDisplay.from_predictions(y, sample_y(X, 99))
    assert heights(display) == heights(same)
    assert [bars.get_label() for bars in (display.bars_, same.bars_)] == [
        "SimpleNamespace",
        "targets",
    ]


def test_the_band_holds_the_central_95_percent_of_a_binomial_count():
    n, m = 50, 4
    display = PitDisplay.from_values(RNG.random(n), n_bins=m)
    below = np.cumsum([comb(n, k) * (m - 1) ** (n - k) / m**n for k in range(n + 1)])
    low, high = (next(k for k in range(n + 1) if below[k] >= q) for q in (0.025, 0.975))
    assert display.band_.get_y() == pytest.approx(low * m / n)
    assert display.band_.get_y() + display.band_.get_height() == pytest.approx(high * m / n)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: PitDisplay.from_values([0.5, 1.5]), "pit must hold numbers between 0 and 1"),
        (lambda: PitDisplay.from_values([0.5], n_bins=0), "n_bins must be"),
        (lambda: PitDisplay.from_predictions([np.nan], [[0.0]]), "y_true must be finite"),
        (lambda: PitDisplay.from_predictions([0.0], np.zeros((0, 1))), r"got \(0, 1\)"),
        (lambda: PitDisplay.from_estimator(REGRESSOR, None, [0.0], n_draws=0), "n_draws must be"),
        (lambda: ReliabilityDisplay.from_predictions([0], [[0.7, 0.7]]), "proba must hold prob"),
        (
            lambda: ReliabilityDisplay.from_predictions([0], [[1.0, 0.0]], strategy="mass"),
            "strategy must be",
        ),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises((ValueError, TypeError), match=message):
        draw()
