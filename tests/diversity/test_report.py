"""The report's rows against means in plain loops."""

import numpy as np
import pytest

from bayesflow_nn.diversity import (
    NetworkSet,
    diversity_report,
    output_density_jsd,
    set_distances,
)

Y = np.random.default_rng(9).integers(0, 3, 30)


def draw(seed, n=5):
    rng = np.random.default_rng(seed)
    return NetworkSet(rng.normal(size=(n, 4)), rng.dirichlet(np.ones(3), (n, 30)))


SETS = {"training": draw(0), "generated": draw(1, n=6)}


def entropy(p):
    return -(p * np.log(p)).sum(-1)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_rows_are_means_over_networks_and_pairs():
    report = diversity_report(SETS, Y)
    row = report.rows["generated"]
    p, wrong = SETS["generated"].proba, SETS["generated"].proba.argmax(-1) != Y
    others = SETS["training"].proba.argmax(-1) != Y
    pairs = [(i, k) for i in range(6) for k in range(6) if i != k]
    assert row.accuracy == pytest.approx(1 - wrong.mean())
    assert row.nll == pytest.approx(-np.log(p[:, np.arange(30), Y]).mean())
    jsd = [
        (entropy((p[i] + p[k]) / 2) - (entropy(p[i]) + entropy(p[k])) / 2).mean() for i, k in pairs
    ]
    assert row.jsd == pytest.approx(np.mean(jsd))
    output = output_density_jsd(p).numpy()
    assert row.output_jsd == pytest.approx(np.mean([output[i, k] for i, k in pairs]))
    labels = p.argmax(-1)
    apart = [np.mean(labels[i] != labels[k]) for i, k in pairs]
    assert row.disagreement == pytest.approx(np.mean(apart))
    within = [max(iou(wrong[i], wrong[k]) for k in range(6) if k != i) for i in range(6)]
    shared = [max(iou(w, other) for other in others) for w in wrong]
    assert row.iou_within == pytest.approx(np.mean(within))
    assert row.iou_reference == pytest.approx(np.mean(shared))
    distances = set_distances(SETS["generated"].points, SETS["training"].points)
    assert row[-4:] == (distances.nearest, distances.wasserstein, distances.l2, distances.cosine)
    np.testing.assert_allclose(report.frontier["generated"].max_iou, shared, rtol=1e-6)
    np.testing.assert_allclose(report.frontier["generated"].accuracy, 1 - wrong.mean(1))


def test_the_reference_has_no_distance_to_itself():
    row = diversity_report(SETS, Y).rows["training"]
    assert row[-5:] == (None,) * 5 and row.iou_within is not None


def test_without_labels_nothing_is_said_about_errors():
    report = diversity_report(SETS)
    assert report.rows["generated"].accuracy is None and not report.frontier
    assert "accuracy" not in str(report) and "wasserstein" in str(report)
    assert str(report).splitlines()[0].split() == ["training", "generated"]


def test_pairs_are_those_of_sets_thinned_evenly():
    rows = [0, 2, 5]  # of six networks, as evenly as whole numbers allow
    few = {**SETS, "generated": NetworkSet(*(x[rows] for x in SETS["generated"]))}
    thinned, expected = (
        diversity_report(sets, Y, most=3).rows["generated"] for sets in (SETS, few)
    )
    for column in ("jsd", "output_jsd", "disagreement", "q_statistic", "iou_within"):
        assert getattr(thinned, column) == pytest.approx(getattr(expected, column)), column
    assert thinned.accuracy == pytest.approx(diversity_report(SETS, Y).rows["generated"].accuracy)


def test_overlaps_are_sought_in_the_whole_reference():
    """Networks are compared with all of the reference, also with those that are not shown."""
    report = diversity_report(SETS, Y, most=2)
    wrong = {name: networks.proba.argmax(-1) != Y for name, networks in SETS.items()}
    own = wrong["training"]
    expected = [max(iou(own[i], own[k]) for k in range(5) if k != i) for i in (0, 4)]
    found = report.frontier["training"]
    np.testing.assert_allclose(found.max_iou, expected, rtol=1e-6)
    np.testing.assert_allclose(found.accuracy, 1 - own[[0, 4]].mean(1))
    shared = [max(iou(w, other) for other in own) for w in wrong["generated"]]
    assert report.rows["generated"].iou_reference == pytest.approx(np.mean(shared))
    np.testing.assert_allclose(report.frontier["generated"].max_iou, [shared[0], shared[5]], 1e-6)


def test_columns_of_short_names_do_not_run_together():
    table = str(diversity_report({"a": draw(0), "b": draw(1)}, Y, reference="a"))
    assert {len(line.split()) for line in table.splitlines()[1:]} == {3}
    assert len({len(line) for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s.points[:, :2], s.proba), r"points of 'generated' .* \(n_networks, 4\) like"),
        (lambda s: (s.points, s.proba[:, :9]), r"proba of 'generated' .* 30, 3\) like those of 't"),
    ],
)
def test_sets_that_cannot_be_compared_are_named(change, message):
    sets = {**SETS, "generated": NetworkSet(*change(SETS["generated"]))}
    for y in (Y, None):
        with pytest.raises(ValueError, match=message):
            diversity_report(sets, y)


@pytest.mark.parametrize(
    ("sets", "y", "reference", "message"),
    [
        (SETS, Y, "noise", r"reference must be one of \['training', 'generated'\], got 'noise'"),
        (SETS, Y[:4], "training", r"y must hold one class 0, ..., 2 per input, shape \(30,\)"),
        (SETS, Y + 7, "training", "y must hold one class.*from 7 to 9"),
        (SETS, Y + 0.5, "training", "y must hold one class"),
        ({"training": draw(0, n=1)}, Y, "training", "points of 'training' must have shape"),
        (
            {"training": NetworkSet(SETS["training"].points, SETS["generated"].proba)},
            Y,
            "training",
            "points and proba of 'training' must be of the same networks, got 5 and 6",
        ),
    ],
)
def test_bad_input_is_named(sets, y, reference, message):
    with pytest.raises(ValueError, match=message):
        diversity_report(sets, y, reference=reference)


def test_most_must_leave_a_pair():
    with pytest.raises(ValueError, match="most must be an integer"):
        diversity_report(SETS, Y, most=1)
