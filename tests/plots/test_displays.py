"""What figures draw equals the numbers they are about, computed here on their own."""

from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from bayesflow_nn import FlowPosterior
from bayesflow_nn.plots import (
    DiversityDisplay,
    LossCurveDisplay,
    MarginalsDisplay,
    PitDisplay,
    PredictiveBandDisplay,
    ReliabilityDisplay,
    TrajectoryDisplay,
    UncertaintyHistogramDisplay,
    UncertaintySurfaceDisplay,
)

RNG = np.random.default_rng(0)
PROBA = RNG.dirichlet([1.0, 1.0, 1.0], 200)
LABELS = RNG.integers(0, 3, 200)


@pytest.fixture(autouse=True)
def figures():
    """Figures without a window, closed after each test."""
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.figure().subplots()


@pytest.fixture(scope="module")
def posterior():
    rows = np.random.default_rng(1).normal(size=(100, 3))
    return FlowPosterior(geometry="euclidean", max_iter=50, n_steps=4, random_state=0).fit(rows)


def test_a_reliability_diagram_shows_accuracy_in_bins_of_confidence(ax):
    display = ReliabilityDisplay.from_predictions(LABELS, PROBA, n_bins=5, name="flow", ax=ax)
    confidence, right = PROBA.max(1), PROBA.argmax(1) == LABELS
    bins = np.minimum((confidence * 5).astype(int), 4)
    filled = [b for b in range(5) if (bins == b).any()]
    expected = [(confidence[bins == b].mean(), right[bins == b].mean()) for b in filled]
    np.testing.assert_allclose(display.line_.get_xydata(), expected, atol=1e-12)
    heights = [bar.get_height() for bar in display.bars_]
    np.testing.assert_allclose(heights, np.bincount(bins, minlength=5) / 200)
    gaps = [np.mean(bins == b) * abs(c - a) for b, (c, a) in zip(filled, expected, strict=True)]
    assert display.line_.get_label() == f"flow (ECE = {sum(gaps):.3f})"
    assert display.ax_ is ax and display.figure_ is ax.figure


def test_a_classifier_is_drawn_as_its_probabilities(ax):
    names = np.array(["a", "b", "c"])
    classifier = SimpleNamespace(predict_proba=lambda X: PROBA, classes_=names)
    display = ReliabilityDisplay.from_estimator(classifier, None, names[LABELS], ax=ax)
    other = ReliabilityDisplay.from_predictions(LABELS, PROBA)
    assert np.array_equal(display.line_.get_xydata(), other.line_.get_xydata())


def test_pit_bars_are_densities_and_the_band_is_binomial(ax):
    pit = RNG.random(300)
    display = PitDisplay.from_values(pit, n_bins=10, ax=ax)
    heights = [bar.get_height() for bar in display.bars_]
    np.testing.assert_allclose(heights, np.histogram(pit, 10, (0, 1), density=True)[0])
    # 300 targets in 10 bins: 30 +- 1.96 sqrt(27) in each, by the normal approximation.
    low, high = display.band_.get_y(), display.band_.get_y() + display.band_.get_height()
    assert low == pytest.approx(1 - 1.96 * np.sqrt(27) / 30, abs=0.03)
    assert high == pytest.approx(1 + 1.96 * np.sqrt(27) / 30, abs=0.03)


def test_bands_are_deviations_around_the_mean(ax):
    x, mean, std = np.linspace(0, 1, 5), RNG.normal(size=5), RNG.random(5)
    moments = SimpleNamespace(mean=mean[:, None], std=std[:, None], epistemic_std=std[:, None] / 2)
    asked = {}

    def predict_moments(X, **sampling):
        asked.update(sampling)
        return moments

    regressor = SimpleNamespace(predict_moments=predict_moments)
    display = PredictiveBandDisplay.from_estimator(
        regressor, x, sampling={"n_samples": 9}, x_train=x, y_train=mean, ax=ax
    )
    assert asked == {"n_samples": 9}
    np.testing.assert_allclose(display.bands[0].upper, mean + 2 * std)
    np.testing.assert_allclose(display.bands[1].lower, mean - std)
    (line,) = (line for line in ax.lines if line.get_label() == "mean")
    np.testing.assert_allclose(line.get_xydata(), np.stack([x, mean], 1))
    outline = ax.collections[0].get_paths()[0].vertices
    assert outline[:, 1].max() == pytest.approx((mean + 2 * std).max())


def test_a_surface_shades_the_uncertainty_of_the_grid(ax):
    def epistemic(X):
        return X[:, 0] ** 2 + X[:, 1]

    def proba(X):
        p = 1 / (1 + np.exp(-X[:, 0]))
        return np.stack([1 - p, p], 1)

    classifier = SimpleNamespace(
        predict_proba=proba, uncertainty=lambda X: SimpleNamespace(epistemic=epistemic(X))
    )
    X = np.array([[0.0, 0.0], [2.0, 1.0]])
    display = UncertaintySurfaceDisplay.from_estimator(
        classifier, X, [0, 1], grid_resolution=7, eps=1.0, ax=ax
    )
    xx, yy = np.meshgrid(np.linspace(-1, 3, 7), np.linspace(-1, 2, 7))
    shade = np.asarray(display.surface_.get_array()).reshape(7, 7)
    np.testing.assert_allclose(shade, xx**2 + yy)
    # Two classes tie at the first input zero.
    (boundary,) = display.boundaries_
    np.testing.assert_allclose(boundary.get_paths()[0].vertices[:, 0], 0, atol=0.05)


def test_histograms_of_scores_are_shares_with_their_auroc(ax):
    inside, outside = RNG.random(50), RNG.random(80) + 0.3
    display = UncertaintyHistogramDisplay.from_scores(inside, outside, ax=ax)
    shares = display.inside_.get_data()
    counts = np.histogram(inside, shares.edges)[0]
    np.testing.assert_allclose(shares.values, 100 * counts / 50)
    auroc = roc_auc_score(np.repeat([0, 1], [50, 80]), np.concatenate([inside, outside]))
    assert ax.get_legend().get_title().get_text() == f"AUROC = {auroc:.3f}"


def test_sets_of_networks_are_points_and_means(ax):
    sets = {"training": RNG.random((2, 6)), "generated": RNG.random((2, 4))}
    display = DiversityDisplay.from_sets(sets, ax=ax)
    for name, values in sets.items():
        np.testing.assert_allclose(display.points_[name].get_offsets(), values.T)
        np.testing.assert_allclose(display.means_[name].get_offsets(), values.mean(1)[None])


def test_loss_curves_are_the_history(posterior, ax):
    display = LossCurveDisplay.from_estimator(posterior, ax=ax)
    history = posterior.history_
    assert np.array_equal(display.training_line_.get_ydata(), history.training_loss)
    assert np.array_equal(display.validation_line_.get_ydata(), history.validation_loss)
    assert list(display.kept_line_.get_xdata()) == [history.best_iteration] * 2


def test_paths_are_principal_components_of_the_trajectory(posterior, ax):
    display = TrajectoryDisplay.from_estimator(posterior, n_samples=5, ax=ax)
    trajectory = posterior.sample(5, random_state=0, noise=0, return_trajectory=True)
    training = posterior.chart_.to_weights(posterior.training_points_).numpy()
    pca = PCA(2, random_state=0).fit(training)
    ends = pca.transform(trajectory.weights[-1])
    np.testing.assert_allclose(display.samples_.get_offsets(), ends, atol=1e-5)
    np.testing.assert_allclose(display.training_.get_offsets(), pca.transform(training), atol=1e-5)
    assert len(display.paths_.get_segments()) == 5


def test_marginals_are_histograms_of_columns(posterior, ax):
    samples = {"training": RNG.normal(size=(60, 4)), "generated": RNG.normal(size=(40, 4))}
    display = MarginalsDisplay.from_samples(samples, [3, 1], labels=list("abcd"), ax=ax)
    assert [panel.get_xlabel() for panel in display.axes_] == ["d", "b"]
    for name, rows in samples.items():
        for outline, column in zip(display.histograms_[name], (3, 1), strict=True):
            shares = outline.get_data()
            counts = np.histogram(rows[:, column], shares.edges)[0]
            np.testing.assert_allclose(shares.values, 100 * counts / len(rows))


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: PitDisplay.from_values([0.5], ax=[1]), TypeError, "ax must be a matplotlib Axes"),
        (
            lambda: PitDisplay.from_predictions([0.0], np.zeros((9, 2))),
            ValueError,
            r"draws must have shape \(n_draws, 1\)",
        ),
        (
            lambda: PredictiveBandDisplay.from_predictions([0.0], [1.0], [-1.0]),
            ValueError,
            "std must not be negative",
        ),
        (
            lambda: PredictiveBandDisplay.from_predictions([0.0], [1.0], [1.0], x_train=[0.0]),
            ValueError,
            "y_train=None",
        ),
        (
            lambda: UncertaintySurfaceDisplay.from_estimator(None, np.zeros((3, 4))),
            ValueError,
            r"X must have shape \(n_points, 2\)",
        ),
        (
            lambda: UncertaintySurfaceDisplay(*(3 * [np.zeros((2, 2))]), np.zeros(2)).plot(
                level=90
            ),
            ValueError,
            "level must be a probability between 0 and 1, got 90",
        ),
        (lambda: DiversityDisplay.from_sets({}), ValueError, "sets must hold at least one"),
        (lambda: LossCurveDisplay.from_estimator(3), TypeError, "must be a fitted FlowPosterior"),
        (
            lambda: TrajectoryDisplay.from_trajectory([0, 1], np.zeros((3, 5, 2))),
            ValueError,
            r"weights must have shape \(2, n_samples, n_weights\)",
        ),
    ],
)
def test_bad_input_is_named(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
