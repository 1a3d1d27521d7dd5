"""Scores against sums over networks, and detection against counts of pairs and thresholds."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from bayesflow_nn.predictive.out_of_distribution import (
    Detection,
    detection,
    out_of_distribution_scores,
)
from bayesflow_nn.weights import Architecture


@pytest.fixture
def mlp():
    return Architecture.mlp([4, 6, 3])


@pytest.fixture
def weights(mlp):
    return torch.randn(
        7, mlp.n_weights, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def X():
    return torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("chunk_size", [1, 5, 13, 10_000])
def test_scores_are_those_of_the_weighted_average(mlp, weights, X, chunk_size):
    w = np.arange(7) / 21
    scores = out_of_distribution_scores(
        mlp, weights, X, network_weights=np.arange(7), chunk_size=chunk_size
    )
    proba = [mlp.to_module(row)(X).softmax(-1).detach().numpy() for row in weights]
    for i in range(9):
        average = sum(w[k] * proba[k][i] for k in range(7))
        information = entropy(average) - sum(w[k] * entropy(proba[k][i]) for k in range(7))
        expected = -max(average), entropy(average), information
        np.testing.assert_allclose([s[i] for s in scores], expected, rtol=1e-9)


def test_scores_keep_the_ranks_of_confident_predictions():
    # Logits of 20 and 21 round to the same probability in float32, 1.
    linear = Architecture.mlp([1, 2], bias=False)
    scores = out_of_distribution_scores(linear, torch.tensor([[1.0, 0.0]]), [[20.0], [21.0]])
    assert scores.negative_max_probability.astype(np.float32).tolist() == [-1, -1]
    for score in scores[:2]:
        assert score[0] > score[1]


def test_networks_that_disagree_far_away_tell_far_inputs():
    generator = torch.Generator().manual_seed(0)
    linear = Architecture.mlp([2, 2])
    weights = torch.randn(50, linear.n_weights, generator=generator)
    near, far = torch.randn(2, 100, 2, generator=generator)
    # Logits grow with the distance, so networks are surer there and disagree more. A hundred times
    # as far only a few inputs near the origin lie closer than some usual ones.
    scores = [out_of_distribution_scores(linear, weights, X) for X in (near, 100 * far)]
    assert detection(scores[0].mutual_information, scores[1].mutual_information).auroc > 0.95


def _scores(n_inside, n_outside, *, ties):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=n_inside), rng.normal(1.5, size=n_outside)
    return (inside.round(0), outside.round(0)) if ties else (inside, outside)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sizes", [(30, 40), (200, 20), (3, 100)])
def test_detection_counts_pairs_and_thresholds(sizes, ties):
    inside, outside = _scores(*sizes, ties=ties)
    ours = detection(inside, outside)
    pairs = [float(o > i) + 0.5 * float(o == i) for i in inside for o in outside]
    assert ours.auroc == pytest.approx(np.mean(pairs), rel=1e-12)
    # From the highest threshold down: recall, precision and false alarms of "score >= threshold".
    precision, recall, alarms = [], [0.0], []
    for threshold in sorted({*inside, *outside}, reverse=True):
        found, false = (outside >= threshold).sum(), (inside >= threshold).sum()
        precision.append(found / (found + false))
        recall.append(found / len(outside))
        alarms.append(false / len(inside))
    assert ours.aupr == pytest.approx(np.diff(recall) @ precision, rel=1e-12)
    enough = [alarm for alarm, r in zip(alarms, recall[1:], strict=True) if r >= 0.95]
    assert ours.fpr_at_95_tpr == min(enough)


def test_scores_apart_detect_all_and_equal_scores_nothing():
    assert detection([0.0, 1.0], [2.0, 3.0]) == Detection(1, 1, 0)
    assert detection([1.0, 1.0, 1.0], [1.0]) == Detection(0.5, 0.25, 1)
    assert detection([2.0, 3.0], torch.tensor([0.0, 1.0])).auroc == 0


def test_the_first_threshold_past_95_percent_counts_on_a_slope_of_ties():
    # The receiver's curve is one straight line, whose inner points curves may leave out.
    assert detection(range(100), range(100)).fpr_at_95_tpr == 0.95


@pytest.mark.parametrize("name", ["inside", "outside"])
@pytest.mark.parametrize("scores", [[], [[0.0]], [np.nan], 0.0])
def test_bad_scores_are_named(name, scores):
    with pytest.raises(ValueError, match=f"{name} must be a vector of at least one finite score"):
        detection(**{"inside": [0.0], "outside": [1.0], name: scores})


def test_one_output_has_no_scores():
    with pytest.raises(ValueError, match="one output per class, at least 2, .* got 1"):
        out_of_distribution_scores(Architecture.mlp([1, 1], bias=False), [[1.0]], [[1.0]])
