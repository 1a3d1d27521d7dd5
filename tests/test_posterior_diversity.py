"""The diversity report of a posterior: its sets, and the networks they hold."""

import numpy as np
import pytest
import torch
from pandas import DataFrame

from bayesflow_nn import Architecture, FlowPosterior, train_population
from bayesflow_nn.diversity import max_iou, set_distances

MLP = Architecture.mlp([2, 6, 3])
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 2)).astype(np.float32)
Y = (X[:, 0] > 0) + (X[:, 1] > 0).astype(int)


@pytest.fixture(scope="module")
def population():
    return train_population(MLP, X, Y, n_networks=60, n_epochs=20, random_state=0)


@pytest.fixture(scope="module")
def posterior(population):
    return FlowPosterior(
        geometry="euclidean", velocity="mlp", max_iter=20, n_steps=4, random_state=0
    ).fit(population)


def test_sets_are_what_their_names_say(posterior):
    report = posterior.diversity(X, Y, n_samples=20, random_state=3)
    assert list(report.rows) == ["training", "held out", "generated", "noise"]
    assert [len(report.frontier[name].accuracy) for name in report.rows] == [20, 6, 20, 20]
    weights = torch.from_numpy(posterior.sample(20, random_state=3))
    labels = MLP.apply(weights, torch.from_numpy(X)).argmax(-1).numpy()
    accuracy = report.frontier["generated"].accuracy
    # Generated networks go through the chart and back, which moves logits by float32 roundings.
    np.testing.assert_allclose(accuracy, (labels == Y).mean(1), atol=1 / 80)
    scaled = posterior.training_points_ * posterior.unit_scale_
    points = posterior.to_points(weights) * posterior.unit_scale_
    expected = set_distances(points, scaled)
    assert report.rows["generated"].l2 == pytest.approx(expected.l2, rel=1e-5)
    assert report.rows["generated"].nearest == pytest.approx(expected.nearest, rel=1e-5)


def test_noise_is_as_far_from_the_training_networks_as_generated_ones(posterior):
    rows = posterior.diversity(X, Y, n_samples=20, random_state=3).rows
    # The scale of the noise is found to 1e-4.
    assert rows["noise"].nearest == pytest.approx(rows["generated"].nearest, rel=1e-3)


def test_copies_show_whichever_training_networks_they_are_of(posterior):
    """Copies of networks that the measures of pairs leave out are at distance 0 all the same."""
    n_samples, n = 5, len(posterior.training_points_)
    left_out = sorted({*range(n)} - {*torch.linspace(0, n - 1, n_samples).round().int().tolist()})
    copies = posterior.chart_.to_weights(posterior.training_points_[left_out[:n_samples]]).float()
    report = posterior.diversity(X, Y, generated=copies, n_samples=n_samples)
    # Through the chart and back in float32.
    assert report.rows["generated"].nearest < 1e-4 * report.rows["held out"].nearest
    assert report.rows["generated"].iou_reference == pytest.approx(1, abs=0.02)
    assert len(report.frontier["training"].max_iou) == n_samples


def test_given_networks_replace_samples_and_held_out_ones(posterior, population):
    report = posterior.diversity(
        X, Y, held_out=population[:10], generated=population[10:30], n_samples=20
    )
    wrong, reference = (
        population[rows].apply(torch.from_numpy(X)).argmax(-1) != torch.from_numpy(Y)
        for rows in (slice(10, 30), slice(0, 10))
    )
    assert len(report.frontier["held out"].accuracy) == len(reference)
    accuracy = 1 - wrong.double().mean(1)
    np.testing.assert_allclose(report.frontier["generated"].accuracy, accuracy, atol=1 / 80)
    within = max_iou(wrong).mean().item()
    # One flipped prediction among ten errors changes the overlap of one network by a tenth.
    assert report.rows["generated"].iou_within == pytest.approx(within, abs=0.05)


def test_wrong_requests_are_named(posterior):
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 2"):
        posterior.diversity(X, Y, n_samples=1)
    with pytest.raises(ValueError, match="y must hold one class"):
        posterior.diversity(X, Y[:3], n_samples=4)
    assert not hasattr(FlowPosterior(), "diversity")


def test_sure_and_wrong_is_not_infinitely_wrong(posterior):
    """Far away a softmax of single precision is exactly zero for some label."""
    far = 150 * X
    weights = posterior.sample(20, random_state=3)
    log_p = MLP.apply(torch.from_numpy(weights).double(), torch.from_numpy(far)).log_softmax(-1)
    of_label = log_p[:, torch.arange(len(Y)), torch.from_numpy(Y)]
    assert log_p.float().exp().min() == 0
    row = posterior.diversity(far, Y, generated=weights, n_samples=20, random_state=3).rows
    # Weights go through the chart and back in float32.
    assert row["generated"].nll == pytest.approx(-of_label.mean().item(), rel=1e-4)


def test_names_of_columns_are_not_missed_where_there_can_be_none(population):
    """Own samples, populations and tensors; an array is told, as scikit-learn does.

    Warnings are errors, so that calls which end have given none.
    """
    frame = DataFrame(population.weights.numpy()).rename(columns=str)
    options = {"geometry": "euclidean", "velocity": "mlp", "max_iter": 2, "random_state": 0}
    posterior = FlowPosterior(architecture=MLP, task="classification", **options).fit(frame)
    posterior.novelty(n_samples=2)
    posterior.diversity(X, n_samples=2)
    posterior.to_points(population)
    posterior.to_points(population.weights)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        posterior.to_points(population.weights.numpy())
