"""Distances between sets against loops, and scipy's Wasserstein distance on a line."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from bayesflow_nn.diversity import set_distances


def test_on_a_line_the_wasserstein_distance_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), 1 + 2 * rng.normal(size=50)
    found = set_distances(a[:, None], b[:, None])
    assert found.wasserstein == pytest.approx(wasserstein_distance(a, b), abs=1e-12)


def test_means_over_pairs_are_those_of_loops():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(9, 3))
    pairs = cdist(a, b)
    found = set_distances(a, b)
    assert found.l2 == pytest.approx(pairs.mean(), abs=1e-12)
    assert found.nearest == pytest.approx(pairs.min(1).mean(), abs=1e-12)
    assert found.cosine == pytest.approx(1 - cdist(a, b, "cosine").mean(), abs=1e-12)


def test_larger_sets_are_thinned_evenly():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 2)), rng.normal(size=(10, 2))
    rows = [0, 3, 6, 9]
    found, small = set_distances(a, b), set_distances(a, b[rows])
    assert found.wasserstein == pytest.approx(small.wasserstein, abs=1e-12)
    assert set_distances(a, b, most=4).l2 == pytest.approx(small.l2, abs=1e-12)
    assert found.nearest == pytest.approx(cdist(a, b).min(1).mean(), abs=1e-12)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"reference must have shape \(n_points, 2\)"):
        set_distances([[0.0, 1.0]], [[0.0]])
    with pytest.raises(ValueError, match="most must be an integer"):
        set_distances([[0.0]], [[0.0]], most=0)
